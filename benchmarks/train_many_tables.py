"""A step's rows and gradients of many sharded tables over 2 ranks: all in one exchange over table after table.

Each table is asked for as many ids as a batch has rows, and learns from the rows that it gave. Both ways must leave the
same gradients. The larger of two batches counts.

python benchmarks/train_many_tables.py [TABLES BATCH ROUNDS]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from _train import arguments, middle_ms, report

import torch  # isort: skip  after _train has set the number of threads
from torch import Tensor

from cluster.launch import launch
from training.data.memory import reuse_memory
from training.tables.sharded import ShardedEmbedding, exchange_gradients, look_up
from training.world import World

ROWS, DIMENSION, GOAL = 100_000, 16, 0.9


def measure(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Milliseconds of a step by batch and way, on every rank alike."""
    reuse_memory()  # as `fit` does
    return {str(batch): _at(batch, spec["tables"], spec["rounds"], world) for batch in spec["batches"]}


def _at(batch: int, count: int, rounds: int, world: World) -> dict[str, float]:
    generator = torch.Generator().manual_seed(world.rank)
    ids = [torch.randint(ROWS, (batch,), generator=generator) for _ in range(count)]
    tables = [ShardedEmbedding(ROWS, DIMENSION, world, name=f"t{number}", std=0.1) for number in range(count)]

    def step(groups: Sequence[Sequence[int]]) -> Callable[[], list[Tensor]]:
        def call() -> list[Tensor]:
            rows = [own for group in groups for own in look_up(*((tables[n], ids[n]) for n in group))]
            torch.stack([own.square().sum() for own in rows]).sum().backward()
            for group in groups:
                held = [tables[n] for n in group]
                exchange_gradients(held, [table.take_gradient() for table in held], 1.0, None)
            return [table.weight.grad for table in tables]

        return call

    ways = {"together": step([range(count)]), "one by one": step([[n] for n in range(count)])}
    for mine, theirs in zip(*(call() for call in ways.values()), strict=True):
        torch.testing.assert_close(mine.to_dense(), theirs.to_dense())
    return middle_ms(ways, rounds)


def main() -> None:
    tables, batch, rounds = arguments(16, 4096, 21)
    spec = {"tables": tables, "batches": [batch // 16, batch], "rounds": rounds}
    found = launch("train_many_tables:measure", spec, ranks=2, timeout_s=600)
    ratio = found[str(batch)]["together"] / found[str(batch)]["one by one"]
    report("train_many_tables", ratio, GOAL, f"x the time of table after table, {tables} tables", found)


if __name__ == "__main__":
    main()
