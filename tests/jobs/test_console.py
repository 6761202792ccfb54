"""What a job shows while it runs."""

from __future__ import annotations

import io
import re
import time
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from jobs import console


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "CONSOLE", Console(file=text, width=80, highlight=False))
    return text


def test_a_long_step_says_in_a_log_that_it_lives(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "BEAT_S", 0.02)
    with console.step("counting [all]"):
        deadline = time.monotonic() + 10
        while shown.getvalue().count("so far") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    *beats, last = shown.getvalue().splitlines()
    assert len(beats) >= 2
    assert all(re.fullmatch(r"  counting \[all\] \.\.\. \d+ s so far", beat) for beat in beats)
    assert re.fullmatch(r"  counting \[all\] \d+\.\d s", last)


def test_a_short_step_is_one_line_and_a_failed_one_none(shown: io.StringIO) -> None:
    with console.step("short"):
        pass
    with pytest.raises(ValueError, match="wrong"), console.step("fails"):
        raise ValueError("wrong")
    assert len(shown.getvalue().splitlines()) == 1


def test_a_terminal_has_a_spinner_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(console, "CONSOLE", Console(file=text, width=80, force_terminal=True))
    with console.step("counting [all]"):
        time.sleep(0.2)
    assert "counting [all] ... 0:00:00" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())


def test_a_step_within_a_step_has_no_second_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(console, "CONSOLE", Console(file=text, width=80, force_terminal=True))
    monkeypatch.setattr(console, "_spinner", spun := MagicMock(side_effect=console._spinner))
    for _ in range(2):
        with console.step("outer"), console.step("inner"):
            pass
    assert [call.args for call in spun.call_args_list] == [("outer",), ("outer",)]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert len(re.findall(r"(?:inner|outer) \d+\.\d s", plain)) == 4


def test_a_long_heading_takes_no_width_from_cells(shown: io.StringIO) -> None:
    columns = ("model", "recall at one percent of false alarms", "precision of what an investigator looks at", "AUC")
    console.show_table("", columns, [("past_fraud_rate", "0.1", "0.25", "0.500 [0.400, 0.600]")])
    assert "│ past_fraud_rate │ 0.1     │ 0.25         │ 0.500 [0.400, 0.600] │" in shown.getvalue()
