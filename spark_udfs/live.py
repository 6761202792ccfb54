"""Rows that come one after the other, sorted out by what came before: a case, the label of one, or neither.

A stream's own clock is the latest time of the cases that it has seen. What comes behind it arrives just after it, for
no case that was answered before knew of it: a batch job that reads these times of arrival finds the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs import windows

CASE, LABEL = "case", "label"
AHEAD_US = 60_000_000  # a case may lie so far ahead of the wall clock: the others of that time arrive after it
LATE, AHEAD = "came too late", "lies in the future"
TWICE, TOLD = "a case that was there before", "a label that was there before"
LATE_LABEL, NO_CASE = "a label that came too late", "a label without its case"
OTHER = "a label whose row is not that of its case"
THERE = "came before"
REASONS = (LATE, AHEAD, TWICE, TOLD, LATE_LABEL, NO_CASE, OTHER, THERE)
WAITING = ("at", "known", "same", "told")


class Clock(NamedTuple):
    """What rows are judged by, in microseconds.

    Attributes:
        seen: the latest time of a case of the batches before; None: there was none.
        now: the wall clock's.
        late: how far behind `seen` a case may come.
        delay: the longest that a label takes.
    """

    seen: int | None
    now: int
    late: int
    delay: int

    @property
    def horizon(self) -> int | None:
        """Before which no case is asked any more."""
        return None if self.seen is None else self.seen - self.late

    def after(self, times: Iterable[int | None]) -> int | None:
        """The latest time of a case, with the times of more of them: cases that all come late move no clock back."""
        return max((time for time in (self.seen, *times) if time is not None), default=None)


def sorted_out(rows: DataFrame, waiting: DataFrame, key: str, entities: Sequence[str], clock: Clock) -> DataFrame:
    """Tell of each row what it is, and when it arrived by the stream's clock.

    A row without a label is a case. One with a label is a case's row again, with its label: it counts once, after its
    case, and must have the case's time and entities.

    Args:
        rows: `key`, time, label (boolean; null: not known), `entities`, optionally arrival_time and label_time; row (as
            it came) and reason (why it is none; null: it is one).
        waiting: of the rows' keys: `key`, and WAITING as `waiting_of` gives them.
        key: the column that names a case.
        entities: columns.
        clock: what rows are judged by.

    Returns:
        The rows with arrival_time (the case's own), label_time (of a label), `what` (CASE or LABEL; null where there is
        a reason) and the reason.
    """
    time, is_label = F.unix_micros("time"), F.col("label").isNotNull()
    seen = _seen(clock)
    arrived = F.unix_micros("arrival_time") if "arrival_time" in rows.columns else time
    reported = F.unix_micros("label_time") if "label_time" in rows.columns else F.lit(None).cast("bigint")
    fault = F.coalesce(
        "reason",
        F.when(_is_ahead(clock), AHEAD),
        F.when(~is_label & _is_late(clock), LATE),
        F.when(is_label & (time + clock.delay + clock.late < seen), LATE_LABEL),
    )
    came = rows.withColumns(
        {
            "reason": fault,
            "at": time,
            "known": F.when(~is_label, F.greatest(time + 1, arrived, seen + 1)),
            "same": F.xxhash64("time", *entities),
            "told": F.when(is_label, F.greatest(F.coalesce(reported, time + clock.delay), seen + 1)),
            "is_new": F.lit(True),
        }
    )
    both = came.unionByName(waiting.withColumn("is_new", F.lit(False)), allowMissingColumns=True)
    is_case = F.col("reason").isNull() & F.col("known").isNotNull()
    in_order = Window.partitionBy(key).orderBy("is_new", F.desc(is_case), "at", "told", "row")
    earlier = in_order.rowsBetween(Window.unboundedPreceding, -1)
    is_told = F.col("reason").isNull() & F.col("told").isNotNull()
    judged = both.withColumns(
        {
            "case": F.first(F.when(is_case, F.struct("known", "same")), ignorenulls=True).over(earlier),
            "is_told": F.coalesce(F.max(is_told).over(earlier), F.lit(False)),
        }
    ).where("is_new")
    of_label = F.coalesce(
        F.when(F.col("case").isNull(), NO_CASE),
        F.when(F.col("is_told"), TOLD),
        F.when(F.col("case.same") != F.col("same"), OTHER),
    )
    told = F.coalesce("reason", F.when(is_label, of_label).otherwise(F.when(F.col("case").isNotNull(), TWICE)))
    own = [name for name in rows.columns if name not in ("arrival_time", "label_time", "row", "reason")]
    return judged.select(
        *own,
        F.timestamp_micros(F.coalesce("case.known", "known")).alias("arrival_time"),
        F.timestamp_micros(F.greatest("told", "case.known")).alias("label_time"),
        F.when(told.isNull(), F.when(is_label, LABEL).otherwise(CASE)).alias("what"),
        "row",
        told.alias("reason"),
    )


def told_apart(rows: DataFrame, there: DataFrame, key: str, what: str, clock: Clock) -> DataFrame:
    """Tell of each row whether it is taken in: it came before no other of its key, neither late nor ahead of time.

    Args:
        rows: `key`, time and others; row (as it came) and reason (why it is none; null: it is one).
        there: `key`, those of the rows that were taken in before.
        key: the column that names a row.
        what: what a row that is taken in is called.
        clock: what rows are judged by.

    Returns:
        The rows with `what` (null where there is a reason) and the reason.
    """
    fault = F.coalesce("reason", F.when(_is_ahead(clock), AHEAD), F.when(_is_late(clock), LATE))
    in_order = Window.partitionBy(key).orderBy(F.col("reason").isNotNull(), "time", "row")
    judged = rows.withColumn("reason", fault).join(there.withColumn("was", F.lit(True)), on=key, how="left")
    again = F.col("was").isNotNull() | (F.row_number().over(in_order) > 1)
    told = judged.withColumn("reason", F.coalesce("reason", F.when(again, THERE))).drop("was")
    return told.withColumn("what", F.when(F.col("reason").isNull(), F.lit(what)))


def _seen(clock: Clock) -> Column:
    return F.lit(clock.seen).cast("bigint")


def _is_ahead(clock: Clock) -> Column:
    return F.unix_micros("time") > clock.now + AHEAD_US


def _is_late(clock: Clock) -> Column:
    return F.unix_micros("time") < _seen(clock) - clock.late


def waiting_of(rows: DataFrame, key: str, entities: Sequence[str]) -> DataFrame:
    """What is kept of cases and labels, so that none counts twice: `key`, at (the case's time); of a case known and
    same (a hash), of a label told; times in microseconds.

    Args:
        rows: `key`, time, arrival_time, label_time, what, `entities`.
        key, entities: as for `sorted_out`.
    """
    is_case = F.col("what") == CASE
    known = F.greatest(F.unix_micros("time") + 1, F.unix_micros("arrival_time"))
    return rows.select(
        key,
        F.unix_micros("time").alias("at"),
        F.when(is_case, known).alias("known"),
        F.when(is_case, F.xxhash64("time", *entities)).alias("same"),
        F.when(~is_case, F.unix_micros("label_time")).alias("told"),
    )


def facts_of(rows: DataFrame, key: str, entities: Sequence[str], numbers: Sequence[str]) -> DataFrame:
    """`windows.facts` of cases, and of labels that come by themselves: their rows count by their cases.

    Args:
        rows: as for `windows.as_of`; those that have a label are labels.
        key, entities, numbers: as there.
    """
    held = windows.facts(rows, key, entities, numbers)
    return held.withColumn("known", F.when(F.col("fraud").isNull(), F.col("known")))
