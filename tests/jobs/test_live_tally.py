"""Rows that change their shape little by little: what a stream counts over its batches."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.live import tally
from jobs.live.progress import Progress
from spark_udfs.live import LATE
from training.errors import SettingsError


def batch(rows: int, reason: str | None = None, *, says: bool = False) -> list[dict[str, Any]]:
    return [{"rows": rows, "reason": reason, "says card": says}]


def after(*batches: list[dict[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for counts in batches:
        held = tally.counted(held, counts, ["card"])
    return held


def test_bad_rows_of_small_batches_add_up() -> None:
    bad = "time is no timestamp"
    few = after(*[batch(3, bad)] * 33)
    assert tally.too_many_bad(few, 0.1) is None
    many = tally.counted(few, batch(1), ["card"])
    assert tally.too_many_bad(many, 0.1) == (
        "99 of 100 rows are bad, over tables.quarantine_limit 0.1: time is no timestamp: 99"
    )
    assert tally.too_many_bad(many, 0.99) is None
    assert tally.counted(many, batch(5, bad), ["card"])["bad"] == {bad: 5}  # counted anew
    assert tally.too_many_bad(after(batch(200, LATE)), 0.1) is None


def test_a_column_that_falls_silent_is_told_from_one_that_says_little() -> None:
    held = after(batch(50, says=True), batch(60), batch(60))
    assert held["silent"] == {"card": 120}
    assert tally.fallen_silent(held, {"card": 0.9}) == (
        "none of 120 rows says anything in card (of the history's rows 90% do)"
    )
    assert tally.fallen_silent(held, {"card": 0.1}) is None
    assert tally.fallen_silent(after(batch(500), batch(1, says=True)), {"card": 1.0}) is None


def test_what_is_kept_is_not_gone_on_with_under_other_settings(tmp_path: Any) -> None:
    progress, made = Progress(str(tmp_path)), {"entities": ["card"], "late_hours": 24.0}
    progress.say(kept={"settings": made})
    progress.refuse_other_settings(made | {"late_hours": 12.0})  # asks for less of the past
    with pytest.raises(SettingsError, match=r"was made with late_hours 24\.0 and not 48\.0: put that back"):
        progress.refuse_other_settings(made | {"late_hours": 48.0})
    with pytest.raises(SettingsError, match=r"entities \['card'\] and not \['card', 'terminal'\]"):
        progress.refuse_other_settings(made | {"entities": ["card", "terminal"]})
