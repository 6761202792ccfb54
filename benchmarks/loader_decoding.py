"""Shuffled batches of 8,192 from 21 numeric columns, over plain pyarrow row groups with no shuffle and no torch.

python benchmarks/loader_decoding.py [ROWS ROUNDS]
"""

from __future__ import annotations

from _loader import (
    WIDE,
    arguments,
    decoded_by_pyarrow,
    in_turn,
    loader,
    open_snapshot,
    rates,
    report,
    table,
    wide,
)

WINDOW, GOAL = 200_000, 0.6


def main() -> None:
    rows, rounds = arguments(20e6, 3)
    snapshot = open_snapshot(table("wide", rows, 100_000, wide))
    columns = list(WIDE.names)
    epoch = iter(range(rounds))
    with loader(snapshot, WIDE, WINDOW) as ours:
        calls = {
            "pyarrow": lambda: decoded_by_pyarrow(snapshot, columns, lambda t: int(t["i0"].to_numpy().sum())),
            "ours": lambda: sum(int(b["i0"].sum()) for b in ours.epoch(next(epoch))),
        }
        found = rates(rows, in_turn(calls, rounds))
    report("loader_decoding", found["ours"] / found["pyarrow"], GOAL, "x pyarrow decoding alone", found)


if __name__ == "__main__":
    main()
