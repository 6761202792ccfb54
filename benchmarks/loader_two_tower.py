"""Rows a second of training the two-tower model from a Delta table, over the same from one batch frozen in memory.

python benchmarks/loader_two_tower.py [ROWS ROUNDS]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from _loader import WORKERS, arguments, in_turn, open_snapshot, rates, report, table

from training.batch import Batch
from training.data.loader import Loader
from training.fit import fit
from training.models.two_tower import TwoTower, TwoTowerConfig
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.world import World

USERS, ITEMS, BATCH, WINDOW, GROUP, GOAL = 100_000, 20_000, 4096, 100_000, 50_000, 0.9
SCHEMA = Schema(
    (
        Column("user", Kind.ID, "users", USERS),
        Column("history", Kind.IDS, "items", ITEMS),
        Column("history_age", Kind.DENSE, ragged=True),
        Column("target", Kind.ID, "items", ITEMS),
        Column("new", Kind.DENSE),
        Column("age", Kind.DENSE),
        Column("weight", Kind.WEIGHT),
        Column("time", Kind.TIME),
    )
)


def examples(random: np.random.Generator, rows: int) -> pa.Table:
    """Histories of 1 to 100 items, 25 on average."""
    lengths = np.clip(random.geometric(1 / 25, rows), 1, 100)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    total = int(lengths.sum())
    return pa.table(
        {
            "user": random.integers(1, USERS, rows),
            "history": pa.ListArray.from_arrays(offsets, pa.array(random.integers(1, ITEMS, total))),
            "history_age": pa.ListArray.from_arrays(offsets, pa.array(random.random(total, dtype=np.float32) * 300)),
            "target": random.integers(1, ITEMS, rows),
            "new": np.ones(rows, np.float32),
            "age": random.random(rows, dtype=np.float32) * 300,
            "weight": np.ones(rows, np.float32),
            "time": pa.array(np.arange(rows), pa.timestamp("us")),
        }
    )


class Frozen:
    """A loader's first batch, again and again: `steps` times an epoch, or as often as the loader would step."""

    def __init__(self, loader: Loader, steps: int | None = None) -> None:
        batches = loader.epoch(0)
        self._batch = next(batches)
        self.steps_per_epoch = steps or loader.steps_per_epoch
        loader.close()

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002  as the loader's
        yield from (self._batch for _ in range(self.steps_per_epoch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError(state)


def main() -> None:
    rows, rounds = arguments(2e6, 3)
    snapshot = open_snapshot(table("examples", rows, GROUP, examples))
    settings = FitSettings(epochs=1, batch_size=BATCH, metric="loss")
    features = {name: torch.ones(ITEMS) for name in TwoTower.FEATURES}
    with Loader(snapshot, SCHEMA, batch_size=BATCH, seed=1, workers=WORKERS, shuffle_rows=WINDOW) as stream:
        frozen = Frozen(stream)

        def steps(loader: Any) -> int:
            torch.manual_seed(0)
            stream.load_state_dict({**stream.state_dict(), "epoch": 0, "position": 0})
            return fit(TwoTower(TwoTowerConfig(), SCHEMA, features), loader, settings, world=World.current()).steps

        seconds = in_turn({"frozen": lambda: steps(frozen), "delta": lambda: steps(stream)}, rounds)
        found = rates(rows, seconds)
        detail = {**found, "wait_share": round(stream.stats.wait_share, 3)}
    report("loader_two_tower", found["delta"] / found["frozen"], GOAL, "x a batch frozen in memory", detail)


if __name__ == "__main__":
    main()
