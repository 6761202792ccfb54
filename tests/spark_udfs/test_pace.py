"""The pace of bundles: turns, the fastest round, and both kinds of answers; no Spark."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from spark_udfs import pace
from tests.spark_udfs.bundles import two_tower_bundle
from tests.training.test_warm_start import build, publish
from training.batch import Batch, Ragged


def test_bundles_take_turns_and_the_fastest_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, turns = [0.0], []
    takes = {"one": cycle([5.0, 3.0, 4.0]), "other": cycle([2.0])}

    def answerer(path: str, rows: int) -> Any:
        def answer(batch: Batch) -> None:
            turns.append(path)
            now[0] += next(takes[path])

        return answer

    monkeypatch.setattr(pace, "_answerer", answerer)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    assert pace.paced(["one", "other"], {}, 500) == [6.0, 4.0]
    assert turns == ["one", "other"] * pace.ROUNDS


def test_lists_and_rows_are_asked_as_they_are_scored(tmp_path: Path) -> None:
    lists, rows = two_tower_bundle(tmp_path, users=41, items=31), publish(tmp_path, build())
    names = [[column.name for column in pace._asked(bundle.schema)] for bundle in (lists, rows)]
    assert names == [["user", "history", "history_age"], ["card", "numbers"]]
    offsets = torch.tensor([0, 2, 2])
    ages = Ragged(torch.zeros(2), offsets)
    customers: Batch = {"user": torch.tensor([1, 2]), "history": Ragged(torch.tensor([3, 4]), offsets)}
    asked: list[Batch] = [customers | {"history_age": ages}, {"card": torch.tensor([1]), "numbers": torch.ones(1, 2)}]
    for bundle, batch, count in zip((lists, rows), asked, (2, 1), strict=True):
        assert pace.paced([str(bundle.path)], batch, count)[0] > 0
