"""Events to lines and examples, each as of a moment: nothing later, nothing that had not arrived.

    events --purchases--> lines --indexed--> lines of known customers with vocabulary indices
    lines  --examples--> one row per (user, moment, target item), with the history before that moment
    lines  --sequences--> stretches of a user's lines, of which each is a target

A moment is a point in time at which a user bought something; all that was bought then is a target of it and part of no
history before it. Work grows with the number of lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs import sequences as stretches
from spark_udfs.moments import DAY_US, LINE_COLUMNS, ROW_TYPE, with_histories
from spark_udfs.newest import Cap, in_short, newest

if TYPE_CHECKING:
    import pyarrow as pa

PURCHASES: Mapping[str, float] = {"purchase": 1.0}
TRAIN, VALIDATION, TEST = "train", "validation", "test"
LOOKED_AT = 2  # times the length of a history: so many arrivals are looked at for its most recent lines
EXAMPLE_COLUMNS = (
    "user", "history", "history_age", "history_weight", "target", "new", "weight", "time", "known_at",
)  # fmt: skip
SEQUENCE_COLUMNS = ("user", "history", "history_age", "history_weight", "history_before", "time", "known_at")


@dataclass(frozen=True)
class Cuts:
    """Where time is split: train | validation | held out. Times are UTC."""

    validation: datetime
    test: datetime


def utc(time: datetime) -> datetime:
    """The same point in time, said in UTC; where it names no zone, UTC is meant."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def weighed(events: DataFrame, weights: Mapping[str, float] = PURCHASES) -> DataFrame:
    """Events of the kinds that have a weight, with `weight` and `is_goal`: whether their kind weighs most."""
    of_kind = F.coalesce(*(F.when(F.col("kind") == kind, F.lit(float(weight))) for kind, weight in weights.items()))
    lines = events.where(F.col("kind").isin(*weights)).withColumn("weight", of_kind)
    return lines.withColumn("is_goal", F.col("weight") == max(weights.values()))


def purchases(events: DataFrame, feedback: DataFrame | None = None) -> DataFrame:
    """Lines of events and feedback: user_id (null: no customer), item_id, time, arrival_time, weight, is_goal.

    A line is an event with a weight: a purchase alone, unless the events are `weighed` otherwise. Goals are what lists
    are judged by, and what they need not show again.

    What feedback says was purchased is a line, with its `weight` if the table has one.
    Where the events have that purchase (one of the same user, item and time), it is theirs: counted once, known when
    they were, with the higher weight. Of other feedback, a purchase is known when it happened.
    """
    columns = ("user_id", "item_id", "time", "arrival_time", "weight", "is_goal")
    lines = (events if "is_goal" in events.columns else weighed(events)).select(*columns)
    if feedback is None:
        return lines
    weight = F.col("weight").cast("double") if "weight" in feedback.columns else F.lit(1.0)
    same = ["user_id", "item_id", "time"]
    bought = (
        feedback.where("outcome = 'purchased' AND outcome_time IS NOT NULL")
        .select("user_id", "item_id", F.col("outcome_time").alias("time"), weight.alias("of_feedback"))
        .groupBy(*same)
        .agg(F.max("of_feedback").alias("of_feedback"))
    )
    weighted = lines.join(bought, on=same, how="left").withColumn("weight", F.greatest("weight", "of_feedback"))
    elsewhere = bought.join(lines, on=same, how="left_anti").select(
        *same, F.col("time").alias("arrival_time"), F.col("of_feedback").alias("weight"), F.lit(True).alias("is_goal")
    )
    return weighted.select(*columns).unionByName(elsewhere)


def known_before(cut: datetime) -> Column:
    """Whether a line happened before a cut and had arrived by then."""
    return (F.col("time") < F.lit(utc(cut))) & (F.col("arrival_time") <= F.lit(utc(cut)))


def known_since(cut: datetime) -> Column:
    """Whether a line was not known before a cut; in a form that tells which files may hold one."""
    return (F.col("time") >= F.lit(utc(cut))) | (F.col("arrival_time") > F.lit(utc(cut)))


def known_at() -> Column:
    """When a line was known: the last moment as of which it is not `known_before` yet."""
    return last_of("time", "arrival_time")


def last_of(time: str, *arrivals: str) -> Column:
    """The last of a time and of arrivals, so that it lies before a cut where the time does and no arrival is later."""
    before = (F.timestamp_micros(F.unix_micros(arrival) - 1) for arrival in arrivals)  # one at the cut is known by then
    return F.greatest(time, *before)


def indexed(lines: DataFrame, users: DataFrame, items: DataFrame) -> DataFrame:
    """Lines whose user and item have an index: user, item (bigint), time, arrival_time, tie, weight, is_goal.

    A user's lines of one item at one time are one line. `tie` orders lines of one time: a hash, the same in every run.
    """
    user = users.select(F.col("index").alias("user"), F.col("id").alias("user_id"))
    item = items.select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    known = lines.join(user, on="user_id", how="inner").join(item, on="item_id", how="inner")
    return merged(known.withColumn("tie", F.xxhash64("user_id", "item_id", "time")))


def merged(lines: DataFrame) -> DataFrame:
    """A user's lines of one item at one time as one: known when the first was, worth what the best is."""
    return lines.groupBy("user", "item", "time").agg(
        F.min("arrival_time").alias("arrival_time"),
        F.min("tie").alias("tie"),
        F.max("weight").alias("weight"),
        F.max("is_goal").alias("is_goal"),
    )


def examples(
    lines: DataFrame, cuts: Cuts, max_history: int, cap: Cap | None = None, since: datetime | None = None
) -> DataFrame:
    """One row per (user, moment, target item).

    Args:
        lines: from `indexed`, all of them; those not known before `cuts.test` are left out.
        cuts: where time is split.
        max_history: of the LOOKED_AT * max_history lines before the moment that had arrived last by then, the most
            recent ones: so many are looked at, which keeps the work linear.
        cap: of a customer's lines known before `cuts.test`, how many count; None: no customer has too many.
        since: only those of lines that were known from then on; None: all.

    Returns:
        EXAMPLE_COLUMNS: user; history array<bigint>, oldest first; history_age array<float>, days before the moment;
        history_weight array<float>, what each line is worth; target; new (float: 1 if no line of the user with the
        target was known at the moment); weight (float); time (the moment); known_at (when the line was: before a cut
        that it is `known_before`).
    """
    known = in_short(lines.where(known_before(cuts.test)), cap)
    before = Window.partitionBy("user", "item").orderBy("time").rowsBetween(Window.unboundedPreceding, -1)
    met = F.min("arrival_time").over(before)  # when the first of the earlier lines with this item had arrived
    told = known.withColumn("is_new", met.isNull() | (met > F.col("time"))).where("counts")
    in_order = _whole_users(told).sortWithinPartitions("user", "time_us", "tie", "item").select(*LINE_COLUMNS)
    looked_at, first = LOOKED_AT * max_history, None if since is None else round(utc(since).timestamp() * 1e6)

    def made(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return with_histories(batches, max_history, looked_at, first)

    return in_order.mapInArrow(made, ROW_TYPE).select(
        *EXAMPLE_COLUMNS[:-2],
        F.timestamp_micros("time_us").alias("time"),
        F.timestamp_micros("known_us").alias("known_at"),
    )


def sequences(lines: DataFrame, cuts: Cuts, max_history: int, cap: Cap | None = None) -> DataFrame:
    """Stretches of users' lines, in which each line that another one was known before is a target once.

    Args:
        lines: from `indexed`, all of them; those not known before `cuts.test` are left out.
        cuts: where time is split; no stretch has targets of both sides of `cuts.validation`.
        max_history: targets of a stretch at most; see `spark_udfs.sequences.with_stretches`.
        cap: as in `examples`.

    Returns:
        SEQUENCE_COLUMNS: user; history array<bigint>, in the order in which lines were known; history_age array<float>,
        days before the last of their times; history_weight array<float>, what each line is worth; history_before
        array<float>, how many of the row's lines were known before the line's moment, -1 of one that is no target here;
        time (the last one of the row's lines); known_at (when the last target was).
    """
    of_users = _whole_users(newest(lines.where(known_before(cuts.test)), cap))
    in_order = of_users.sortWithinPartitions("user", "known_us", "time_us", "tie", "item")
    cut = round(utc(cuts.validation).timestamp() * 1e6)

    def made(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return stretches.with_stretches(batches, max_history, cut)

    return (
        in_order.select(*stretches.LINE_COLUMNS)
        .mapInArrow(made, stretches.ROW_TYPE)
        .select(
            *SEQUENCE_COLUMNS[:-2],
            F.timestamp_micros("time_us").alias("time"),
            F.timestamp_micros("known_us").alias("known_at"),
        )
    )


def _whole_users(lines: DataFrame) -> DataFrame:
    """Lines with their times in microseconds, each user's in one partition."""
    times = {"time_us": F.col("time"), "arrival_us": F.col("arrival_time"), "known_us": known_at()}
    return lines.repartition("user").withColumns({name: F.unix_micros(time) for name, time in times.items()})


def in_time(line: Column) -> Column:
    """What a history keeps of a line, in the order of time."""
    return F.struct(*(line[name].alias(name) for name in ("time", "tie", "item", "weight")))


def last(array: Column, count: int) -> Column:
    """The last elements of an array, all of them where there are fewer."""
    return F.slice(array, F.greatest(F.size(array) - count, F.lit(0)) + 1, F.lit(count))


def _days(earlier: Column, later: Column) -> Column:
    return ((F.unix_micros(later) - F.unix_micros(earlier)) / DAY_US).cast("float")


def weights(lines: Column) -> Column:
    """What lines are worth, in their order."""
    return F.transform(lines, lambda line: line["weight"].cast("float"))


def ages(lines: Column, moment: Column) -> Column:
    return F.transform(lines, lambda line: _days(line["time"], moment))
