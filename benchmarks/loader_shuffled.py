"""Shuffled batches of 8,192 from 21 numeric columns: ours over Petastorm's own BatchedDataLoader, one shuffle window.

    python benchmarks/loader_shuffled.py [ROWS ROUNDS]

It needs Petastorm's whole package: the line of versions `legacy` (docs/platforms.md).
"""

from __future__ import annotations

import sys

from _loader import (
    BATCH,
    NOTHING_MEASURED,
    WIDE,
    WORKERS,
    arguments,
    files,
    in_turn,
    loader,
    open_snapshot,
    petastorm_readers,
    rates,
    report,
    table,
    wide,
)

WINDOW, GOAL = 200_000, 5.0


def main() -> None:
    readers = petastorm_readers()
    if readers is None:
        sys.exit(NOTHING_MEASURED)
    make_batch_reader, BatchedDataLoader = readers
    rows, rounds = arguments(20e6, 3)
    snapshot = open_snapshot(table("wide", rows, 100_000, wide))
    urls = [f"file://{path}" for path in files(snapshot)]

    def petastorm() -> int:
        reader = make_batch_reader(urls, reader_pool_type="thread", workers_count=WORKERS, num_epochs=1)
        with reader, BatchedDataLoader(reader, batch_size=BATCH, shuffling_queue_capacity=WINDOW) as batches:
            return sum(int(batch["i0"].sum()) for batch in batches)

    epoch = iter(range(rounds))
    with loader(snapshot, WIDE, WINDOW) as ours:
        calls = {"petastorm": petastorm, "ours": lambda: sum(int(b["i0"].sum()) for b in ours.epoch(next(epoch)))}
        found = rates(rows, in_turn(calls, rounds))
    report("loader_shuffled", found["ours"] / found["petastorm"], GOAL, "x petastorm BatchedDataLoader", found)


if __name__ == "__main__":
    main()
