"""Histories of 1 to 200 ids, mean 50, shuffled: ours over Petastorm, whose lists must be padded to one length.

    python benchmarks/loader_histories.py [ROWS ROUNDS]

`detail` has the ratio to pyarrow's decoding of the same column too (goal 0.7); it is all that is measured where
Petastorm's whole package does not import.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from _loader import (
    HISTORY,
    arguments,
    decoded_by_pyarrow,
    histories,
    in_turn,
    loader,
    open_snapshot,
    petastorms_own,
    rates,
    report,
    table,
)

WINDOW, GROUP, LONGEST = 50_000, 20_000, 200
GOAL, OVER_PYARROW = 4.0, 0.7


def padded(random: np.random.Generator, rows: int) -> pa.Table:
    """The same lists, each filled up with zeros."""
    lists = histories(random, rows)["history"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    filled = np.zeros((rows, LONGEST), np.int64)
    filled[np.arange(LONGEST) < lengths[:, None]] = lists.values.to_numpy()
    offsets = np.arange(rows + 1, dtype=np.int32) * LONGEST
    return pa.table({"history": pa.ListArray.from_arrays(pa.array(offsets), pa.array(filled.ravel()))})


def main() -> None:
    rows, rounds = arguments(2e6, 3)
    snapshot = open_snapshot(table("histories", rows, GROUP, histories))
    petastorm = petastorms_own(open_snapshot(table("padded", rows, GROUP, padded)), "history", WINDOW)
    calls: dict[str, Callable[[], int]] = {} if petastorm is None else {"petastorm": petastorm}

    def pyarrow() -> int:
        return decoded_by_pyarrow(
            snapshot, ["history"], lambda t: sum(int(c.values.to_numpy().sum()) for c in t[0].chunks)
        )

    epoch = iter(range(rounds))
    with loader(snapshot, HISTORY, WINDOW) as ours:
        calls["pyarrow"] = pyarrow
        calls["ours"] = lambda: sum(int(b["history"].values.sum()) for b in ours.epoch(next(epoch)))
        found = rates(rows, in_turn(calls, rounds))
    over_pyarrow = found["ours"] / found["pyarrow"]
    if "petastorm" in found:
        detail = {**found, "over_pyarrow": round(over_pyarrow, 3), "over_pyarrow_goal": OVER_PYARROW}
        report("loader_histories", found["ours"] / found["petastorm"], GOAL, "x petastorm with padded lists", detail)
    else:
        report("loader_histories", over_pyarrow, OVER_PYARROW, "x pyarrow decoding alone", found)


if __name__ == "__main__":
    main()
