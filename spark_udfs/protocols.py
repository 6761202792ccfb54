"""Interactions to lines whose times make a protocol of evaluation out of a build's two cuts.

A build trains on what lies before VALIDATION, chooses by what lies from there to TEST, and is judged by what comes from
TEST on. Where a protocol splits users' interactions by their order and not by a date, each gets a time of its own: a
user's are a day apart, and the one that is asked for lies at the cut. So what a model sees of time is the same when it
learns and when it is asked: order, and nothing else. Interactions of the same time are in the order of the file, by
`position`; in that of the items' ids where that is null, as of tables, whose rows have no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LAST = ("time", "position", "item")  # which of a user's interactions is the last one
COLUMNS = ("user", "item", "time", "position")
TEST = datetime(2020, 1, 1, tzinfo=UTC)
VALIDATION_DAYS = 1
LONGEST = 15_000  # interactions of a user: a day apart, they reach back to 1979
DAY_S = 86_400


def leave_one_out(rows: DataFrame) -> DataFrame:
    """The last interaction of each user is the test, the last but one the validation.

    Args:
        rows: COLUMNS; time in seconds, or null.

    Returns:
        user, item, time (a timestamp), the newest LONGEST of a user.
    """
    return _a_day_apart(rows, [F.desc(name) for name in LAST], F.lit(0))


def given(train: DataFrame, test: DataFrame) -> DataFrame:
    """A split that was given; the validation is one of each user's interactions in the training's part.

    It is the last one where there are times; else one by a hash, since files without them often have items in the order
    of their ids. A user with one interaction has none.

    Args:
        train, test: COLUMNS.

    Returns:
        As of `leave_one_out`.
    """
    by_hash = Window.partitionBy("user").orderBy(F.xxhash64("user", "item"), "position")
    is_chosen = (F.row_number().over(by_hash) == 1) & F.col("time").isNull()
    several = F.count(F.lit(1)).over(Window.partitionBy("user")) > 1
    marked = train.withColumn("is_chosen", is_chosen).withColumn("first", F.when(several, 1).otherwise(2))
    before = _a_day_apart(marked, [F.desc("is_chosen"), *(F.desc(name) for name in LAST)], F.col("first"))
    after = test.select("user", "item", _at(F.lit(TEST.timestamp())).alias("time"))
    return before.unionByName(after.distinct())


def by_date(rows: DataFrame) -> DataFrame:
    """Interactions at their own times.

    Args:
        rows: COLUMNS, time not null.

    Returns:
        As of `leave_one_out`.
    """
    return rows.select("user", "item", _at(F.col("time")).alias("time"))


def _a_day_apart(rows: DataFrame, newest: Sequence[Column], first: Column) -> DataFrame:
    """Each user's interactions a day apart, the newest of them `first` days before TEST."""
    numbered = rows.withColumn("n", F.row_number().over(Window.partitionBy("user").orderBy(*newest)))
    seconds = F.lit(TEST.timestamp()) - (F.col("n") - 1 + first) * DAY_S
    return numbered.where(F.col("n") <= LONGEST).select("user", "item", _at(seconds).alias("time"))


def _at(seconds: Column) -> Column:
    return F.timestamp_micros(F.round(seconds * 1_000_000).cast("bigint"))
