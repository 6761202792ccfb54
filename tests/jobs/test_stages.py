"""How long each stage took, kept by whoever runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import main
from jobs.settings import Settings
from jobs.stages import timed


def stages(folder: Path) -> dict[str, float]:
    return {entry["stage"]: entry["seconds"] for entry in json.loads((folder / "stages.json").read_text())}


def test_a_stage_that_had_nothing_to_do_keeps_its_time(tmp_path: Path) -> None:
    assert timed(str(tmp_path), "train", lambda: {"bundle": "b"}) == {"bundle": "b"}
    timed(str(tmp_path), "score", lambda: {"up_to_date": True})
    before = stages(tmp_path)
    assert set(before) == {"train", "score"}
    timed(str(tmp_path), "train", lambda: {"up_to_date": True})
    assert stages(tmp_path) == before
    timed(str(tmp_path), "train", lambda: {"up_to_date": False})
    assert stages(tmp_path)["train"] != before["train"]
    assert timed(str(tmp_path), "doctor", lambda: {}) == {}
    assert set(stages(tmp_path)) == {"train", "score"}


@pytest.mark.parametrize("damage", ["[{", "{}", '[1, {"stage": "x"}]'])
def test_a_damaged_file_fails_no_stage_that_ended_well(tmp_path: Path, damage: str) -> None:
    (tmp_path / "stages.json").write_text(damage)
    assert timed(str(tmp_path), "train", lambda: {"bundle": "b"}) == {"bundle": "b"}
    assert set(stages(tmp_path)) == {"train"}


def test_a_command_times_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: Settings) -> dict[str, bool]:
        return {"up_to_date": False}

    monkeypatch.setattr("jobs.report.run", run)
    monkeypatch.setattr("sys.argv", ["millrace", "report", f"run_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    assert set(stages(tmp_path)) == {"report"}
