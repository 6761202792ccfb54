"""Interactions to lines whose times make a protocol of evaluation out of a build's two cuts.

A build trains on what lies before VALIDATION, chooses by what lies from there to TEST, and is judged by what comes from
TEST on. Where a protocol splits users' interactions by their order and not by a date, each gets a time of its own: a
user's are a day apart, and the one that is asked for lies at the cut. So what a model sees of time is the same when it
learns and when it is asked: order, and nothing else. Interactions of the same time are in the order of the file, by
`position`; in that of the items' ids where that is null, as of tables, whose rows have no order.

A line's kind says whether a model learns from it. Those of users who are held out whole are questions: what lies before
a cut is what such a user is known by, what lies at it is to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs import vocabularies
from spark_udfs.event_names import QUESTION

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LEARNT = "click"  # the kind of a line that models learn from
LAST = ("time", "position", "item")  # which of a user's interactions is the last one
COLUMNS = ("user", "item", "time", "position")
TEST = datetime(2020, 1, 1, tzinfo=UTC)
VALIDATION_DAYS = 1
LONGEST = 15_000  # interactions of a user: a day apart, they reach back to 1979
DAY_S, SECOND_US = 86_400, 1_000_000
FOLDED_IN = 5  # of so many items of a user who is held out one is to be found, the others are the history


def leave_one_out(rows: DataFrame) -> DataFrame:
    """The last interaction of each user is the test, the last but one the validation.

    Args:
        rows: COLUMNS; time in seconds, or null.

    Returns:
        user, item, time (a timestamp), kind; the newest LONGEST of a user.
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
    return before.unionByName(test.select(*_line(F.lit(TEST.timestamp()))).distinct())


def by_date(rows: DataFrame) -> DataFrame:
    """Interactions at their own times.

    Args:
        rows: COLUMNS, time not null.

    Returns:
        As of `leave_one_out`.
    """
    return rows.select(*_line(F.col("time")))


def strong_generalisation(rows: DataFrame, held_out: int) -> DataFrame:
    """Users are held out whole, so many for the test and as many for the validation; models learn from the others.

    A hash draws them among the users of two items and more. Of such a user's items a hash puts one in FOLDED_IN, at
    least one, among those that are to be found; the others are what the user is known by (Liang et al. 2018,
    "Variational autoencoders for collaborative filtering").

    Args:
        rows: COLUMNS; time in seconds, or null.
        held_out: users of the test; see `number_of`.

    Returns:
        As of `leave_one_out`.
    """
    drawn = vocabularies.new_entries(of_several(rows).select(F.col("user").alias("id")), _nobody(rows))
    days = F.when(F.col("index") <= held_out, 0).when(F.col("index") <= 2 * held_out, 1)  # from the cut to TEST
    asked = drawn.select(F.col("id").alias("user"), days.alias("cut")).where("cut IS NOT NULL")
    marked = rows.join(asked, on="user", how="left")
    newest = [F.desc(name) for name in LAST]
    learnt = _a_day_apart(marked.where("cut IS NULL"), newest, F.lit(VALIDATION_DAYS + 1))
    nth = F.dense_rank().over(Window.partitionBy("user").orderBy(F.xxhash64("user", "item"), "item"))
    numbered = marked.where("cut IS NOT NULL").withColumn("nth", nth)
    items = F.max("nth").over(Window.partitionBy("user"))
    told = numbered.withColumn("is_asked", F.col("nth") <= F.greatest(F.lit(1), F.floor(items / FOLDED_IN)))
    known = _a_day_apart(told.where("NOT is_asked"), newest, F.col("cut") + 1, QUESTION)
    to_find = told.where("is_asked").select(*_line(TEST.timestamp() - F.col("cut") * DAY_S, QUESTION)).distinct()
    return learnt.unionByName(known).unionByName(to_find)


def of_several(rows: DataFrame) -> DataFrame:
    """`user`: those with more than one item."""
    return rows.groupBy("user").agg(F.countDistinct("item").alias("items")).where("items > 1").select("user")


def sessions_of_several(rows: DataFrame) -> int:
    """How many sessions have more than one interaction."""
    return _ends(rows).count()


def session_cut(rows: DataFrame, sessions: int) -> datetime:
    """The latest whole second from which on so many sessions of more than one interaction end, at least.

    What comes to the driver is a number a day, and a number a second of one of them.

    Args:
        rows: COLUMNS, time not null; users are sessions.
        sessions: 1 to as many as there are.
    """
    ends = _ends(rows)
    of_days = ends.groupBy(F.floor(F.col("end") / DAY_S).alias("at")).count()
    day, later = _reached(of_days, sessions)
    of_day = ends.where(F.floor(F.col("end") / DAY_S) == day)
    second, _ = _reached(of_day.groupBy(F.floor("end").alias("at")).count(), sessions - later)
    return datetime.fromtimestamp(second, tz=UTC)


def session_days(rows: DataFrame, test: datetime) -> int:
    """The whole days before the test in which as many sessions end as in the test, at least; as many days as there are
    where none do."""
    ends = _ends(rows)
    days = F.ceil((test.timestamp() - F.col("end")) / DAY_S).cast("bigint")
    wanted = ends.where(F.col("end") >= test.timestamp()).count()
    before = ends.where(F.col("end") < test.timestamp()).groupBy((-days).alias("at")).count()
    return max(1, -_reached(before, wanted)[0])


def sessions(rows: DataFrame, test: datetime, validation: datetime, length: int) -> DataFrame:
    """Sessions that end from `test` on are the test, those from `validation` to there the validation.

    A model learns from the sessions before the test, at their own times. Each interaction but the first of a session
    that is asked is a question of its own: a user SESSION:N, with the N interactions before it at their distances in
    time to it, which itself lies at the cut. Interactions of one time are a microsecond apart, and those of a session
    of the validation which begins before it lie at its beginning.

    Args:
        rows: COLUMNS, time not null; users are sessions.
        test, validation: the cuts.
        length: of a question the newest so many interactions.

    Returns:
        As of `leave_one_out`.
    """
    cuts = {cut: round(cut.timestamp() * SECOND_US) for cut in (validation, test)}
    in_session = Window.partitionBy("user")
    nth, of_all = F.row_number().over(in_session.orderBy(*LAST)), F.count(F.lit(1)).over(in_session)
    end = F.max("time").over(in_session) * SECOND_US
    asked = F.when(end >= cuts[test], cuts[test]).when(end >= cuts[validation], cuts[validation])
    told = rows.withColumns({"n": nth, "left": of_all, "cut": asked}).withColumn("left", F.col("left") - F.col("n"))
    no_earlier = F.when(F.col("cut") == cuts[validation], F.col("cut") + F.col("left") + F.col("n"))
    at = F.greatest(F.round(F.col("time") * SECOND_US).cast("bigint"), no_earlier) - F.col("left")
    timed = told.withColumn("at", at)
    is_learnt = F.col("cut").isNull() | (F.col("cut") < cuts[test])
    learnt = timed.where(is_learnt).select(*_line(F.col("at") / SECOND_US))
    before = F.collect_list(F.struct("item", "at")).over(in_session.orderBy("n").rowsBetween(-length, 0))
    questions = timed.where("cut IS NOT NULL").withColumn("lines", before).where("n > 1")
    user = F.concat("user", F.lit(":"), F.col("n") - 1).alias("user")
    lines = questions.select(user, F.explode("lines").alias("line"), (F.col("cut") - F.col("at")).alias("shift"))
    of_question = lines.select(
        "user", F.col("line.item").alias("item"), (F.col("line.at") + F.col("shift")).alias("at")
    )
    return learnt.unionByName(of_question.select(*_line(F.col("at") / SECOND_US, QUESTION)))


def number_of(held_out: float, of_all: int) -> int:
    """How many are held out: a share below 1 of all, or the number itself."""
    return round(held_out * of_all) if held_out < 1 else int(held_out)


def _ends(rows: DataFrame) -> DataFrame:
    """`end` of each session of more than one interaction, in seconds."""
    ends = rows.groupBy("user").agg(F.max("time").alias("end"), F.count(F.lit(1)).alias("lines"))
    return ends.where("lines > 1").select("end")


def _reached(counts: DataFrame, wanted: int) -> tuple[int, int]:
    """The latest `at` with which so many are counted from the end on, else the first one; and how many lie after it."""
    later, found = 0, 0
    for at, count in sorted(((row["at"], row["count"]) for row in counts.collect()), reverse=True):
        found, later = at, later + count
        if later >= wanted:
            return int(at), later - count
    return int(found), later


def _nobody(rows: DataFrame) -> DataFrame:
    return rows.sparkSession.createDataFrame([], vocabularies.SCHEMA)


def _a_day_apart(rows: DataFrame, newest: Sequence[Column], first: Column, kind: str = LEARNT) -> DataFrame:
    """Each user's interactions a day apart, the newest of them `first` days before TEST."""
    numbered = rows.withColumn("n", F.row_number().over(Window.partitionBy("user").orderBy(*newest)))
    seconds = F.lit(TEST.timestamp()) - (F.col("n") - 1 + first) * DAY_S
    return numbered.where(F.col("n") <= LONGEST).select(*_line(seconds, kind))


def _line(seconds: Column, kind: str = LEARNT) -> list[Column]:
    """The columns of a line at a time."""
    at = F.timestamp_micros(F.round(seconds * SECOND_US).cast("bigint"))
    return [F.col("user"), F.col("item"), at.alias("time"), F.lit(kind).alias("kind")]
