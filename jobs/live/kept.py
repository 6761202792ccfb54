"""What a stream keeps of the rows before: in the session's memory and disk, and in tables to begin again from.

Facts of the last weeks stay as they are; what adds nothing more is added up, a row an entity; what no row can ask for
any more is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.live.levels import Levels, union
from jobs.sessions import parallelism
from spark_udfs import live, windows

if TYPE_CHECKING:
    from spark_udfs.live import Clock
    from spark_udfs.windows import Past


class Lines(NamedTuple):
    """What rows are kept by.

    Attributes:
        key: the column that names a row.
        entities: the columns that rows share.
        numbers: the columns whose means are asked.
    """

    key: str
    entities: Sequence[str]
    numbers: Sequence[str]


class Frames(NamedTuple):
    """What is kept: `waiting` and `facts` as spark_udfs/live.py gives them."""

    waiting: DataFrame
    facts: DataFrame


def frames_of(rows: DataFrame, given: DataFrame, lines: Lines) -> Frames:
    """What rows add.

    Args:
        rows: as `live.waiting_of` takes them.
        given: the same as `windows.as_of` takes them.
        lines: what they are kept by.
    """
    return Frames(
        live.waiting_of(rows, lines.key, lines.entities),
        live.facts_of(given, *lines).drop("key"),
    )


def together(frames: Sequence[Frames]) -> Frames:
    """Several as one."""
    return Frames(*(union(each) for each in zip(*frames, strict=True)))


def shrunk(frames: Frames, sums: DataFrame, lines: Lines, clock: Clock) -> tuple[Frames, DataFrame]:
    """What still counts for cases from the clock's horizon on: frames without what is settled, and sums with it."""
    if clock.horizon is None or clock.seen is None:
        return frames, sums
    horizon = F.lit(clock.horizon)
    open_still = F.col("at") + clock.delay + clock.late >= F.lit(clock.seen)
    is_settled = windows.is_settled(horizon)
    more = windows.settled(frames.facts.where(is_settled), lines.numbers)
    return Frames(frames.waiting.where(open_still), frames.facts.where(~is_settled)), windows.added(sums, more)


class Kept:
    """What is kept, as it grows.

    Args:
        frames: of all batches up to some.
        sums: of what was settled by then.
        lines: what rows are kept by.
    """

    def __init__(self, frames: Frames, sums: DataFrame, lines: Lines) -> None:
        self._base, self._sums, self._lines = frames, sums, lines
        self._tasks = parallelism(sums.sparkSession)
        self._added = Levels(self._tasks)

    def add(self, frames: Frames) -> None:
        """Take in what a batch adds."""
        self._added.add(frames)

    def waiting(self, keys: DataFrame) -> DataFrame:
        """What is kept of cases by their key."""
        return self._among([frames.waiting for frames in self._all()], keys, [self._lines.key])

    def past(self, entities: DataFrame) -> Past:
        """What is kept of entities (kind, entity)."""
        on = ["kind", "entity"]
        facts = self._among([frames.facts for frames in self._all()], entities, on)
        return windows.Past(facts, self._among([self._sums], entities, on))

    def all(self) -> tuple[Frames, DataFrame]:
        """All of it."""
        return together(self._all()), self._sums

    def give_back(self) -> None:
        """Let go of what is held in memory."""
        for frame in (*self._base, self._sums):
            frame.unpersist()

    def _all(self) -> list[Frames]:
        return [self._base, *(Frames(*frames) for frames in self._added.all())]

    def _among(self, frames: Sequence[DataFrame], wanted: DataFrame, on: list[str]) -> DataFrame:
        return union(frames).coalesce(self._tasks).join(F.broadcast(wanted), on=on, how="left_semi")
