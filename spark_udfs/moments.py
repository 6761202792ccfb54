"""Customers' lines in the order of time to a row for each, with the history before its moment; no loop over rows.

What is worked out are positions in the sorted lines: where no line of a customer came late, the history of a moment is
a range of them, and else the latest of those that had arrived. Columns are gathered by them at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.top_k import Ints, Mask

DAY_US = 86_400_000_000
AT_ONCE = 1 << 20  # elements of the lists of one Arrow batch, and positions that are sorted at once: 16 MB
LINE_COLUMNS = ("user", "time_us", "arrival_us", "known_us", "item", "weight", "is_new")
ROW_TYPE = (
    "user bigint, history array<bigint>, history_age array<float>, history_weight array<float>, target bigint, "
    "new float, weight float, time_us bigint, known_us bigint"
)
_NAMES = [column.split()[0] for column in ROW_TYPE.split(", ")]

Lines = dict[str, npt.NDArray[Any]]  # by columns


def with_histories(
    batches: Iterable[pa.RecordBatch], length: int, looked_at: int, since: int | None
) -> Iterator[pa.RecordBatch]:
    """A row of ROW_TYPE for each line.

    Args:
        batches: LINE_COLUMNS, by customer and in the order of time; times in microseconds.
        length: of a history at most.
        looked_at: so many of the lines that arrived last before a moment are looked at for its history.
        since: rows of lines that were known from then on alone; None: all.
    """
    for lines in of_whole_users(batches, LINE_COLUMNS):
        yield from _rows(lines, length, looked_at, since)


def of_whole_users(batches: Iterable[pa.RecordBatch], columns: Sequence[str]) -> Iterator[Lines]:
    """Cut where a customer ends: the last one of a batch waits for the next, which may have more lines of theirs."""
    waiting: list[Lines] = []
    for batch in batches:
        lines = {
            name: column.to_numpy(zero_copy_only=False) for name, column in zip(columns, batch.columns, strict=True)
        }
        users = lines["user"]
        if not len(users):
            continue
        last = int(np.searchsorted(users, users[-1]))
        if last or (waiting and waiting[-1]["user"][-1] != users[0]):
            yield _joined([*waiting, _part(lines, slice(0, last))])
            waiting = []
        waiting.append(_part(lines, slice(last, None)))
    if waiting:
        yield _joined(waiting)


def _part(lines: Lines, rows: slice) -> Lines:
    return {name: values[rows] for name, values in lines.items()}


def _joined(parts: list[Lines]) -> Lines:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(lines: Lines, length: int, looked_at: int, since: int | None) -> Iterator[pa.RecordBatch]:
    user, time = lines["user"], lines["time_us"]
    of_user = starts(user[1:] != user[:-1])
    of_moment = starts((user[1:] != user[:-1]) | (time[1:] != time[:-1]))
    rows = np.arange(len(user)) if since is None else np.flatnonzero(lines["known_us"] >= since)
    moments, of_row = np.unique(of_moment[rows], return_inverse=True)
    histories = _histories(lines, moments, of_user, length, looked_at)
    step = max(1, AT_ONCE // max(length, 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        yield _batch(lines, rows[part], *histories.of(of_row[part]))


def starts(changes: Mask) -> Ints:
    """Of each position the first one of its run, of where runs change."""
    opens = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return np.repeat(opens, np.diff(opens, append=len(changes) + 1))


@dataclass(frozen=True)
class _Histories:
    """Of each moment, `counts` positions of `pool` from `starts` on."""

    pool: Ints
    starts: Ints
    counts: Ints

    def of(self, moments: Ints) -> tuple[Ints, Ints]:
        """Positions of the moments' lines, one history after the other, and how many each has."""
        counts = self.counts[moments]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return self.pool[np.repeat(self.starts[moments] - (ends - counts), counts) + np.arange(total)], counts


def _histories(lines: Lines, moments: Ints, of_user: Ints, length: int, looked_at: int) -> _Histories:
    """Of moments, by the position of their first line."""
    first = of_user[moments]
    starts = np.maximum(first, moments - length)
    counts = moments - starts
    pool = np.arange(len(of_user))
    late = np.zeros(len(of_user), np.bool_)
    late[of_user[lines["arrival_us"] > lines["time_us"]]] = True
    slow = np.flatnonzero(late[first])
    if not len(slow):
        return _Histories(pool, starts, counts)
    begun, arrived, by_arrival = _arrived(lines, moments[slow], of_user, looked_at)
    pools = [pool]
    step = max(1, AT_ONCE // looked_at)
    for start in range(0, len(slow), step):
        part = slice(start, start + step)
        places = begun[part, None] + np.arange(looked_at)
        held = np.where(places < arrived[part, None], by_arrival[np.minimum(places, len(pool) - 1)], -1)
        kept = np.sort(held, axis=1)[:, looked_at - min(length, looked_at) :]
        pools.append(kept[kept >= 0])
        counts[slow[part]] = (kept >= 0).sum(axis=1)
    starts[slow] = len(pool) + np.cumsum(counts[slow]) - counts[slow]
    return _Histories(np.concatenate(pools), starts, counts)


def _arrived(lines: Lines, moments: Ints, of_user: Ints, looked_at: int) -> tuple[Ints, Ints, Ints]:
    """Of each moment, from where to where in the order of arrival the lines lie that arrived last by then; that order.

    Those of the moment itself, which may have arrived by then too, are none of them: they are the last ones.
    """
    time, arrival = lines["time_us"], lines["arrival_us"]
    by_arrival = np.lexsort((arrival, of_user))
    _, ranks = np.unique(np.concatenate([arrival, time[moments]]), return_inverse=True)
    held, asked = ranks[: len(arrival)], ranks[len(arrival) :]
    every = len(ranks) + 1
    in_order = of_user[by_arrival] * every + held[by_arrival]
    arrived = np.searchsorted(in_order, of_user[moments] * every + asked, side="right")
    there = np.concatenate([[0], np.cumsum(arrival <= time)])
    ends = _ends(of_user, time, moments)
    arrived = arrived - (there[ends] - there[moments])
    return np.maximum(of_user[moments], arrived - looked_at), arrived, by_arrival


def _ends(of_user: Ints, time: npt.NDArray[Any], moments: Ints) -> Ints:
    """Where the lines of moments end."""
    changes = np.flatnonzero((of_user[1:] != of_user[:-1]) | (time[1:] != time[:-1])) + 1
    return np.append(changes, len(time))[np.searchsorted(changes, moments, side="right")]


def _batch(lines: Lines, rows: Ints, positions: Ints, counts: Ints) -> pa.RecordBatch:
    moment = lines["time_us"][rows]
    days = (np.repeat(moment, counts) - lines["time_us"][positions]) / DAY_US
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    def listed(values: npt.NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    columns = [
        pa.array(lines["user"][rows]),
        listed(lines["item"][positions]),
        listed(days.astype(np.float32)),
        listed(lines["weight"][positions].astype(np.float32)),
        pa.array(lines["item"][rows]),
        pa.array(lines["is_new"][rows].astype(np.float32)),
        pa.array(lines["weight"][rows].astype(np.float32)),
        pa.array(moment),
        pa.array(lines["known_us"][rows]),
    ]
    return pa.RecordBatch.from_arrays(columns, _NAMES)
