"""Ranking of 20 fields x 16 from a Delta table, on 2 local ranks of one thread each: examples/s of both over 100,000.

    python benchmarks/train_ranking.py [ROWS ROUNDS]

Ids are drawn by a square law over 100,000 a field; the label is one in twenty. `detail` has each model as it is shipped
but for its width; the ratio is DCN-V2's. The first epoch of a training warms up and is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from _train import arguments, report

import numpy as np  # isort: skip  after _train has set the number of threads
import pyarrow as pa
import torch
from _loader import open_snapshot, table

from cluster.launch import launch
from training.batch import Batch
from training.data.loader import Loader
from training.fit import fit
from training.models import MODELS
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.world import World

GOAL, EXAMPLES_PER_S, FIELDS, IDS, DIM = 1.0, 100_000, 20, 100_000, 16
BATCH, GROUP, WINDOW = 8_192, 50_000, 100_000
TIMED = ("logistic_regression", "fm", "deepfm", "dlrm", "dcn_v2")
SCHEMA = Schema(
    (
        *(Column(f"field_{number}", Kind.ID, f"ids {number}", IDS) for number in range(FIELDS)),
        Column("label", Kind.LABEL),
    )
)


def impressions(random: np.random.Generator, rows: int) -> pa.Table:
    fields = {
        f"field_{number}": (random.random(rows) ** 2 * (IDS - 1)).astype(np.int64) + 1 for number in range(FIELDS)
    }
    return pa.table({**fields, "label": (random.random(rows) < 0.05).astype(np.float32)})


class Timed:
    """A loader, and when each of its epochs began and ended."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self.steps_per_epoch = loader, loader.steps_per_epoch
        self.seconds: list[float] = []

    def epoch(self, epoch: int) -> Iterator[Batch]:
        begun = time.perf_counter()
        yield from self._loader.epoch(epoch)
        self.seconds.append(time.perf_counter() - begun)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)


def measure(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Examples/s of all ranks together: of an epoch's rows over the middle epoch's seconds."""
    snapshot = open_snapshot(spec["table"], columns=SCHEMA.names, world=world)
    kind = MODELS[spec["model"]]
    torch.manual_seed(0)
    model = kind(kind.Config.parse({} if spec["model"] == "logistic_regression" else {"dim": DIM}), SCHEMA)
    settings = FitSettings(epochs=1 + spec["rounds"], batch_size=BATCH * world.size, precision="bf16")
    options = {"batch_size": BATCH * world.size, "seed": 1, "workers": 1, "shuffle_rows": WINDOW}
    with Loader(snapshot, SCHEMA, rank=world.rank, world_size=world.size, **options) as stream:
        loader = Timed(stream)
        fit(model, loader, settings, world=world)  # type: ignore[arg-type]
        wait = stream.stats.wait_share
    seconds = torch.tensor([statistics.median(loader.seconds[1:]), wait], dtype=torch.float64)
    mean, waited = (world.all_reduce_sum(seconds, "seconds") / world.size).tolist()
    return {"examples_per_s": round(snapshot.rows / mean), "wait_share": round(waited, 3)}


def main() -> None:
    rows, rounds = arguments(1_000_000, 3)
    path = table("impressions", rows, GROUP, impressions)
    detail: dict[str, Any] = {"rows": rows}
    for name in TIMED:
        spec = {"table": path, "model": name, "rounds": rounds}
        detail[name] = launch("train_ranking:measure", spec, ranks=2, timeout_s=900)
        print(f"  {name:20} {detail[name]['examples_per_s']:10,} examples/s", flush=True)
    ratio = detail["dcn_v2"]["examples_per_s"] / EXAMPLES_PER_S
    report("train_ranking", ratio, GOAL, "x 100,000 examples/s", detail)


if __name__ == "__main__":
    main()
