"""Customers' lines in the order in which they were known, to stretches that a model of sequences learns from.

A stretch holds a run of a customer's lines. The last ones are targets, each in one stretch alone; those before stand
there for what was known. Of each target the stretch says how many of its lines were known before the target's moment:
they are its first ones, so that a model which looks back from the last of them sees nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.moments import AT_ONCE, DAY_US, Lines, of_whole_users, starts
from spark_udfs.top_k import Ints

LINE_COLUMNS = ("user", "time_us", "known_us", "item", "weight")
ROW_TYPE = (
    "user bigint, history array<bigint>, history_age array<float>, history_weight array<float>, "
    "history_before array<float>, time_us bigint, known_us bigint"
)
_NAMES = [column.split()[0] for column in ROW_TYPE.split(", ")]


def with_stretches(batches: Iterable[pa.RecordBatch], length: int, cut_us: int) -> Iterator[pa.RecordBatch]:
    """Rows of ROW_TYPE; every line that another of its customer's was known before is a target of one of them.

    Args:
        batches: LINE_COLUMNS, by customer and in the order in which lines were known; times in microseconds.
        length: targets of a stretch at most. It has so many lines and one; more, up to twice as many and one, where
            one of its targets would have none of them before it: one of many lines of a moment, or one that came late.
        cut_us: no stretch has targets that were known before it and others.
    """
    for lines in of_whole_users(batches, LINE_COLUMNS):
        stretches = _stretches(lines, length, cut_us)
        step = max(1, AT_ONCE // (2 * length + 1))
        for start in range(0, len(stretches.first), step):
            yield _batch(lines, stretches.part(slice(start, start + step)))


class _Stretches(NamedTuple):
    """Lines `first` to `end`, of which those from `target` on are targets; `before`: of each line, the first one of its
    customer that was not known before its moment."""

    first: Ints
    target: Ints
    end: Ints
    before: Ints

    def part(self, which: slice) -> _Stretches:
        return _Stretches(self.first[which], self.target[which], self.end[which], self.before)


def _stretches(lines: Lines, length: int, cut_us: int) -> _Stretches:
    user, is_late = lines["user"], lines["known_us"] >= cut_us
    of_user, place = starts(user[1:] != user[:-1]), np.arange(len(user))
    before = _known_before(lines, of_user)
    of_run = starts((user[1:] != user[:-1]) | (is_late[1:] != is_late[:-1]))
    runs, counts = np.unique(of_run, return_counts=True)
    from_end = (np.repeat(runs + counts, counts) - 1 - place) // length  # a run is dealt out from its newest line on
    target = np.unique(starts((of_run[1:] != of_run[:-1]) | (from_end[1:] != from_end[:-1])))
    end = np.append(target[1:], len(user))
    needed = np.minimum.reduceat(np.where(before > of_user, before - 1, place), target)
    first = np.maximum(np.minimum(needed, end - length - 1), np.maximum(of_user[target], end - 2 * length - 1))
    taught = np.maximum.reduceat(before, target) > first
    return _Stretches(first[taught], target[taught], end[taught], before)


def _known_before(lines: Lines, of_user: Ints) -> Ints:
    """Of each line, the first one of its customer that was not known before its moment: those before it were."""
    known, time = lines["known_us"], lines["time_us"]
    _, ranks = np.unique(np.concatenate([known, time]), return_inverse=True)
    every = len(ranks) + 1
    in_order = of_user * every + ranks[: len(known)]
    return np.searchsorted(in_order, of_user * every + ranks[len(known) :], side="left")


def _batch(lines: Lines, stretches: _Stretches) -> pa.RecordBatch:
    first, target, end, before = stretches
    counts = end - first
    bounds = np.concatenate([[0], np.cumsum(counts)])
    at = np.repeat(first - bounds[:-1], counts) + np.arange(bounds[-1])
    moment = np.maximum.reduceat(lines["time_us"][at], bounds[:-1])
    days = (np.repeat(moment, counts) - lines["time_us"][at]) / DAY_US
    known = np.where(at < np.repeat(target, counts), -1, np.maximum(before[at] - np.repeat(first, counts), 0))
    offsets = pa.array(bounds.astype(np.int32))

    def listed(values: npt.NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    columns = [
        pa.array(lines["user"][first]),
        listed(lines["item"][at]),
        listed(days.astype(np.float32)),
        listed(lines["weight"][at].astype(np.float32)),
        listed(known.astype(np.float32)),
        pa.array(moment),
        pa.array(lines["known_us"][end - 1]),
    ]
    return pa.RecordBatch.from_arrays(columns, _NAMES)
