"""Synchronising an embedding table's gradient over 2 ranks, 0.1 % to 100 % of its rows in use on each.

Our time over the better of always gathering rows and always summing the table; the worst density counts.

python benchmarks/train_gradient_sync.py [TABLE_ROWS ROUNDS]
"""

from __future__ import annotations

from typing import Any

from _train import arguments, middle_ms, report

import torch  # isort: skip  after _train has set the number of threads
from torch import nn

from cluster.launch import launch
from training.data.memory import reuse_memory
from training.step import exchange
from training.step.sync import Synchroniser
from training.world import World

DIMENSION, GOAL = 64, 1.1
PERCENT = (0.1, 1.0, 5.0, 20.0, 40.0, 60.0, 80.0, 100.0)


def measure(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Milliseconds by density and way, on every rank alike; the short ones are timed more often."""
    reuse_memory()  # as `fit` does
    return {
        str(percent): _at(percent, spec["rows"], spec["rounds"] * (5 if percent <= 5 else 1), world)
        for percent in PERCENT
    }


def _at(percent: float, rows: int, rounds: int, world: World) -> dict[str, float]:
    table = nn.Embedding(rows, DIMENSION, sparse=True)
    generator = torch.Generator().manual_seed(world.rank)
    used = torch.randperm(rows, generator=generator)[: max(1, int(rows * percent / 100))]
    table(used).sum().backward()
    gradient = table.weight.grad
    rule = exchange.rows_are_cheaper

    def way(decide: Any) -> Any:
        synchroniser = Synchroniser(table, world)  # each goes its own way, call after call

        def call() -> None:
            exchange.rows_are_cheaper = decide
            table.weight.grad = gradient.clone()
            synchroniser.synchronise(1.0, 1.0, 1)

        return call

    ways = {"ours": way(rule), "rows": way(lambda rows, *_: rows >= 0), "table": way(lambda rows, *_: rows < 0)}
    found = middle_ms(ways, rounds)
    exchange.rows_are_cheaper = rule
    return found


def main() -> None:
    rows, rounds = arguments(200_000, 21)
    found = launch("train_gradient_sync:measure", {"rows": rows, "rounds": rounds}, ranks=2, timeout_s=900)
    worst = max(ms["ours"] / min(ms["rows"], ms["table"]) for ms in found.values())
    report("train_gradient_sync", worst, GOAL, "x the better of rows and table, at the worst density", found)


if __name__ == "__main__":
    main()
