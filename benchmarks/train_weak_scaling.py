"""Weak scaling: samples/s of 2 local ranks over twice those of 1, one thread each, the same rows a rank and step.

    python benchmarks/train_weak_scaling.py [ROWS_A_RANK STEPS]

The model is the two-tower model as shipped (steps of a fifth of a second). `detail` has the same of a small model with
steps of a tenth, where what the ranks say to each other weighs more, and of the two-tower model with four times the
rows, where it weighs less; and for all of them the samples/s of two processes that share nothing but the machine: what
one process loses to another on the same memory and cores is no trainer's to win back.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _loader import open_snapshot, table
from _train import arguments, report

import torch  # isort: skip  after _train has set the number of threads
from loader_two_tower import GROUP, ITEMS, SCHEMA, USERS, Frozen, examples
from torch import Tensor, nn

from cluster.launch import launch
from training.batch import Batch
from training.data.loader import Loader
from training.fit import FitSettings, fit
from training.models.two_tower import TwoTower, TwoTowerConfig
from training.world import World

GOAL, DIMENSION = 0.90, 64


class Small(nn.Module):
    """Two embeddings and a small tower over their product."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, DIMENSION, sparse=True)
        self.items = nn.Embedding(ITEMS, DIMENSION, sparse=True)
        self.tower = nn.Sequential(
            nn.Linear(DIMENSION, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        score = self.tower(self.users(batch["user"]) * self.items(batch["target"]))
        return score.sub(1).square().sum(), torch.tensor(float(len(score)))


def two_tower() -> nn.Module:
    return TwoTower(TwoTowerConfig(), SCHEMA, {name: torch.ones(ITEMS) for name in TwoTower.FEATURES})


def measure(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Samples/s over all ranks in the second epoch; the first warms up."""
    started: list[float] = []
    settings = FitSettings(epochs=2, batch_size=spec["rows"] * world.size)
    with Loader(open_snapshot(spec["table"]), SCHEMA, batch_size=spec["rows"], seed=world.rank) as stream:
        loader = Frozen(stream, spec["steps"])  # so the loader costs nothing here
    comm: list[float] = []

    def validate(_: nn.Module) -> dict[str, float]:
        started.append(time.perf_counter())
        comm.append(world.comm_s)
        return {}

    torch.manual_seed(0)
    fit(Small() if spec["small"] else two_tower(), loader, settings, world=world, validate=validate)
    seconds = started[1] - started[0]
    rate = spec["rows"] * world.size * spec["steps"] / seconds
    return {"samples_per_s": round(rate), "comm_share": round((comm[1] - comm[0]) / seconds, 3)}


def apart(spec: dict[str, Any]) -> int:
    """Samples/s of two trainings of one rank each, at the same time."""
    code = f"from train_weak_scaling import *; print(measure({spec!r}, World())['samples_per_s'])"
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=place) for _ in range(2)]
    return sum(int(process.communicate()[0]) for process in started)


def compare(spec: dict[str, Any], rounds_in_all: int) -> dict[str, Any]:
    """Middle samples/s of one rank, two ranks and two processes apart, in turn."""
    rounds = []
    for _ in range(rounds_in_all):
        one, two = (launch("train_weak_scaling:measure", spec, ranks=n, timeout_s=600) for n in (1, 2))
        rounds.append((one["samples_per_s"], two["samples_per_s"], apart(spec), two["comm_share"]))
        print(f"  {'small' if spec['small'] else 'two-tower'}: one, two, two apart, share in collectives: {rounds[-1]}")
    one, two, other, comm = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratios = {  # within a round, so that a machine that gets faster or slower meanwhile does not count
        "over_perfect": round(statistics.median(two / (2 * one) for one, two, _, _ in rounds), 3),
        "over_two_apart": round(statistics.median(two / other for _, two, other, _ in rounds), 3),
        "two_apart_over_perfect": round(statistics.median(other / (2 * one) for one, _, other, _ in rounds), 3),
    }
    return {**ratios, "one": one, "two": two, "two_apart": other, "comm_share": comm}


def main() -> None:
    rows, steps = arguments(4096, 24)
    spec = {"rows": rows, "table": table("examples", 200_000, GROUP, examples)}
    shipped = compare({**spec, "steps": steps, "small": False}, 7)
    small = compare({**spec, "steps": 2 * steps, "small": True}, 5)
    large = compare({**spec, "rows": 4 * rows, "steps": max(1, steps // 6), "small": False}, 5)
    detail = {**shipped, "small_steps": small, "large_steps": large}
    report("train_weak_scaling", shipped["over_perfect"], GOAL, "of perfect scaling to 2 processes", detail)


if __name__ == "__main__":
    main()
