"""A step (lookup, backward, update) of a 1 M x 64 table with 8,192 ids: torch's SparseAdam and dense Adam over ours.

python benchmarks/train_embedding_step.py [TABLE_ROWS IDS ROUNDS]
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from _train import arguments, middle_ms, report

import torch  # isort: skip  after _train has set the number of threads
from torch import nn

from training.step.optimizers import RowwiseAdagrad

DIMENSION, GOAL = 64, 1.7


def step(
    rows: int, ids: int, optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer], sparse: bool
) -> Callable[[], None]:
    table = nn.Embedding(rows, DIMENSION, sparse=sparse)
    held = optimizer([table.weight])
    draws = cycle([torch.randint(rows, (ids,), generator=torch.Generator().manual_seed(n)) for n in range(8)])

    def call() -> None:
        held.zero_grad()
        table(next(draws)).square().sum().backward()
        held.step()

    return call


def main() -> None:
    rows, ids, rounds = arguments(1e6, 8192, 15)
    calls = {
        "ours": step(rows, ids, lambda p: RowwiseAdagrad(p, 0.1), True),
        "sparse_adam": step(rows, ids, lambda p: torch.optim.SparseAdam(p, 0.1), True),
        "adam": step(rows, ids, lambda p: torch.optim.Adam(p, 0.1), False),
    }
    found = middle_ms(calls, rounds)
    detail = {
        **{f"{name}_ms": ms for name, ms in found.items()},
        "adam_over_ours": round(found["adam"] / found["ours"], 1),
    }
    report("train_embedding_step", found["sparse_adam"] / found["ours"], GOAL, "x our step, torch's SparseAdam", detail)


if __name__ == "__main__":
    main()
