"""Shuffled batches of 8,192 from 21 numeric columns: ours over Petastorm's own BatchedDataLoader, one shuffle window.

    python benchmarks/loader_shuffled.py [ROWS ROUNDS]

It needs Petastorm's whole package: the line of versions `legacy` (docs/platforms.md).
"""

from __future__ import annotations

import sys

import _loader as shared
from _loader import NOTHING_MEASURED, WIDE, in_turn, loader, open_snapshot, petastorms_own, rates, table, wide

WINDOW, GOAL = 200_000, 5.0


def main() -> None:
    rows, rounds = shared.arguments(20e6, 3)
    snapshot = open_snapshot(table("wide", rows, 100_000, wide))
    petastorm = petastorms_own(snapshot, "i0", WINDOW)
    if petastorm is None:
        sys.exit(NOTHING_MEASURED)
    epoch = iter(range(rounds))
    with loader(snapshot, WIDE, WINDOW) as ours:
        calls = {"petastorm": petastorm, "ours": lambda: sum(int(b["i0"].sum()) for b in ours.epoch(next(epoch)))}
        found = rates(rows, in_turn(calls, rounds))
    shared.report("loader_shuffled", found["ours"] / found["petastorm"], GOAL, "x petastorm BatchedDataLoader", found)


if __name__ == "__main__":
    main()
