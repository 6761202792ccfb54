"""Weak scaling: samples/s of 2 local ranks over twice those of 1, one thread each, the same rows a rank and step.

    python benchmarks/train_weak_scaling.py [ROWS_A_RANK STEPS]

`detail` has the samples/s of two processes that share nothing but the machine, and ours over theirs: what one process
loses to another on the same memory and cores is no trainer's to win back.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _train import arguments, report

import torch  # isort: skip  after _train has set the number of threads
from torch import Tensor, nn

from cluster.launch import launch
from training.batch import Batch
from training.fit import FitSettings, fit
from training.world import World

GOAL, ITEMS, DIMENSION, ROUNDS = 0.90, 100_000, 64, 3


class Model(nn.Module):
    """Two embeddings and a small tower over their product."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(ITEMS, DIMENSION, sparse=True)
        self.items = nn.Embedding(ITEMS, DIMENSION, sparse=True)
        self.tower = nn.Sequential(
            nn.Linear(DIMENSION, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        score = self.tower(self.users(batch["user"]) * self.items(batch["item"]))
        return score.sub(1).square().sum(), torch.tensor(float(len(score)))


class Frozen:
    """The same batch again and again: the loader costs nothing here."""

    def __init__(self, rows: int, steps: int, rank: int) -> None:
        generator = torch.Generator().manual_seed(rank)
        self.batch: Batch = {name: torch.randint(ITEMS, (rows,), generator=generator) for name in ("user", "item")}
        self.steps_per_epoch = steps

    def epoch(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002
        return (self.batch for _ in range(self.steps_per_epoch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A frozen batch has no position."""


def measure(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Samples/s over all ranks in the second epoch; the first warms up."""
    started: list[float] = []
    settings = FitSettings(epochs=2, batch_size=spec["rows"] * world.size)
    loader = Frozen(spec["rows"], spec["steps"], world.rank)
    comm: list[float] = []

    def validate(_: Model) -> dict[str, float]:
        started.append(time.perf_counter())
        comm.append(world.comm_s)
        return {}

    fit(Model(), loader, settings, world=world, validate=validate)
    seconds = started[1] - started[0]
    rate = spec["rows"] * world.size * spec["steps"] / seconds
    return {"samples_per_s": round(rate), "comm_share": round((comm[1] - comm[0]) / seconds, 3)}


def apart(spec: dict[str, Any]) -> int:
    """Samples/s of two trainings of one rank each, at the same time."""
    code = f"from train_weak_scaling import *; print(measure({spec!r}, World())['samples_per_s'])"
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=place) for _ in range(2)]
    return sum(int(process.communicate()[0]) for process in started)


def main() -> None:
    rows, steps = arguments(4096, 60)
    spec = {"rows": rows, "steps": steps}
    rounds = []
    for _ in range(ROUNDS):
        one, two = (launch("train_weak_scaling:measure", spec, ranks=n, timeout_s=600) for n in (1, 2))
        rounds.append((one["samples_per_s"], two["samples_per_s"], apart(spec), two["comm_share"]))
    one, two, other, comm = (statistics.median(values) for values in zip(*rounds, strict=True))
    detail = {"one": one, "two": two, "two_apart": other, "comm_share": comm, "over_two_apart": round(two / other, 3)}
    report("train_weak_scaling", two / (2 * one), GOAL, "of perfect scaling to 2 processes", detail)


if __name__ == "__main__":
    main()
