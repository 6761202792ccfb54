"""Events to examples, queries and a catalogue, each as of a moment: nothing later, nothing that had not arrived.

    events --purchases--> lines --indexed--> lines of known customers with vocabulary indices
    lines  --examples--> one row per (user, moment, target item), with the history before that moment
           --queries---> one row per user as of a cut, with what they bought after it
           --catalogue-> one row per item as of a cut

A moment is a point in time at which a user bought something; all that was bought then is a target of it and part of no
history before it. Work grows with the number of lines: each user's sorted lines are collected once and sliced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

PURCHASES: Mapping[str, float] = {"purchase": 1.0}
TRAIN, VALIDATION, TEST = "train", "validation", "test"
DAY_US = 86_400_000_000
SALES = ("count", "user_count", "recent_count", "customers", "recent_customers")
EXAMPLE_COLUMNS = ("user", "history", "history_age", "target", "new", "weight", "time", "known_at")


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
    return known.groupBy("user", "item", "time").agg(
        F.min("arrival_time").alias("arrival_time"),
        F.min(F.xxhash64("user_id", "item_id", "time")).alias("tie"),
        F.max("weight").alias("weight"),
        F.max("is_goal").alias("is_goal"),
    )


def lines_over(lines: DataFrame, cap: int) -> int:
    """How many lines customers have beyond their newest `cap`, from counts of lines alone: rows stay where they are."""
    per_user = lines.groupBy("user").count()
    over = per_user.agg(F.coalesce(F.sum(F.greatest(F.col("count") - cap, F.lit(0))), F.lit(0))).collect()[0][0]
    return int(over)


def _newest(lines: DataFrame, cap: int | None) -> DataFrame:
    """Each customer's newest `cap` lines. Spark drops the others before it brings a customer's together."""
    if cap is None:
        return lines
    order = Window.partitionBy("user").orderBy(F.desc("time"), F.desc("tie"))
    return lines.withColumn("_nth", F.row_number().over(order)).where(F.col("_nth") <= cap).drop("_nth")


def examples(lines: DataFrame, cuts: Cuts, max_history: int, cap: int | None = None) -> DataFrame:
    """One row per (user, moment, target item).

    Args:
        lines: from `indexed`, all of them; those not known before `cuts.test` are left out.
        cuts: where time is split.
        max_history: the most recent lines kept. Lines that had not arrived at the moment are left out; they are looked
            for among the last 2 * max_history alone, which keeps the work linear.
        cap: of a customer's lines known before `cuts.test`, the newest so many; None: no customer has too many.

    Returns:
        EXAMPLE_COLUMNS: user; history array<bigint>, oldest first; history_age array<float>, days before the moment;
        target; new (float: 1 if no line of the user with the target was known at the moment); weight (float); time
        (the moment); known_at (when the line was: before a cut that it is `known_before`).
    """
    known = lines.where(known_before(cuts.test))
    before = Window.partitionBy("user", "item").orderBy("time").rowsBetween(Window.unboundedPreceding, -1)
    met = F.min("arrival_time").over(before)  # when the first of the earlier lines with this item had arrived
    is_new = met.isNull() | (met > F.col("time"))
    line = F.struct(
        "time", "tie", "item", "arrival_time", "weight", is_new.alias("is_new"), known_at().alias("known_at")
    )
    held = _newest(known.withColumn("line", line), cap)
    sequences = held.groupBy("user").agg(F.sort_array(F.collect_list("line")).alias("lines"))
    baskets = _baskets(sequences, 2 * max_history)
    history = F.slice("known", F.greatest(F.size("known") - max_history, F.lit(0)) + 1, F.lit(max_history))
    histories = baskets.select("user", "moment", "targets", history.alias("history"))
    rows = histories.select(
        "user",
        F.transform("history", lambda line: line["item"]).alias("history"),
        _ages(F.col("history"), F.col("moment")).alias("history_age"),
        "moment",
        F.explode("targets").alias("target"),
    )
    return rows.select(
        "user",
        "history",
        "history_age",
        F.col("target.item").alias("target"),
        F.col("target.is_new").cast("float").alias("new"),
        F.col("target.weight").cast("float").alias("weight"),
        F.col("moment").alias("time"),
        F.col("target.known_at").alias("known_at"),
    )


def queries(
    lines: DataFrame,
    users: DataFrame,
    cut: datetime,
    until: datetime | None,
    max_history: int,
    split: str,
    cap: int | None = None,
) -> DataFrame:
    """One row per user known before a cut: what they had bought, and what they bought after it.

    Args:
        lines: from `indexed`.
        users: the users' vocabulary.
        cut: histories end before it.
        until: the held-out period ends before it; None: with the last line.
        max_history: the most recent lines kept.
        split: the name of this cut.
        cap: of a customer's lines before the cut, and of those after it, the newest so many count; None: all.

    Returns:
        user, user_id, history, history_age (as in `examples`, moment = cut), seen (array<bigint>, ascending: the items
        of goals before), truth (array<bigint>, ascending: items of goals in the held-out period that some known
        customer had a line of before the cut; may be empty), split. Purchases are goals, see `purchases`.
    """
    past = lines.where(known_before(cut))
    line = F.struct("time", "tie", "item")
    last, goal = F.sort_array(F.collect_list(line)), F.when(F.col("is_goal"), F.col("item"))
    histories = (
        _newest(past, cap).groupBy("user").agg(last.alias("lines"), F.sort_array(F.collect_set(goal)).alias("seen"))
    )
    after = (F.col("time") >= F.lit(utc(cut))) & (known_before(until) if until else F.lit(True))
    bought = lines.where(after & F.col("is_goal")).join(past.select("item").distinct(), on="item", how="left_semi")
    truths = _newest(bought, cap).groupBy("user").agg(F.sort_array(F.collect_set("item")).alias("truth"))
    start = F.greatest(F.size("lines") - max_history, F.lit(0)) + 1
    cut_short = histories.select("user", "seen", F.slice("lines", start, F.lit(max_history)).alias("lines"))
    ids = users.select(F.col("index").alias("user"), F.col("id").alias("user_id"))
    named = cut_short.join(ids, on="user", how="inner")
    return named.join(truths, on="user", how="left").select(
        "user",
        "user_id",
        F.transform("lines", lambda line: line["item"]).alias("history"),
        _ages(F.col("lines"), F.lit(utc(cut))).alias("history_age"),
        "seen",
        F.coalesce("truth", F.array().cast("array<bigint>")).alias("truth"),
        F.lit(split).alias("split"),
    )


def catalogue(
    lines: DataFrame, items: DataFrame, names: DataFrame, cut: datetime, recent_days: int, split: str
) -> DataFrame:
    """One row per index of the items' vocabulary, with its sales known before a cut; all zero if there were none.

    Args:
        lines: from `purchases`, those without a customer too.
        items: the items' vocabulary.
        names: `item_id`, `name`.
        cut: what was not known before it does not count.
        recent_days: the window of `recent_count`.
        split: the name of this cut.

    Returns:
        item, item_id, name, first_sold (null if not sold before), split, and SALES: count (all lines), user_count
        (lines of known customers), recent_count (those of the last `recent_days`), customers and recent_customers
        (distinct ones in the same two).
    """
    recent = F.col("time") >= F.lit(utc(cut)) - F.make_dt_interval(F.lit(recent_days))
    has_user = F.col("user_id").isNotNull()
    sales = (
        lines.where(known_before(cut))
        .groupBy("item_id")
        .agg(
            F.count(F.lit(1)).alias("count"),
            F.count_if(has_user).alias("user_count"),
            F.count_if(has_user & recent).alias("recent_count"),
            F.countDistinct("user_id").alias("customers"),
            F.countDistinct(F.when(recent, F.col("user_id"))).alias("recent_customers"),
            F.min("time").alias("first_sold"),
        )
    )
    rows = items.select(F.col("index").alias("item"), F.col("id").alias("item_id")).join(
        sales, on="item_id", how="left"
    )
    return rows.join(names.select("item_id", "name"), on="item_id", how="left").select(
        "item",
        "item_id",
        F.coalesce("name", "item_id").alias("name"),
        *(F.coalesce(name, F.lit(0)).alias(name) for name in SALES),
        "first_sold",
        F.lit(split).alias("split"),
    )


def _baskets(sequences: DataFrame, window: int) -> DataFrame:
    """user, moment, targets (the lines of that moment), known (those of the `window` lines before that had arrived)."""
    lines, starts = F.col("lines"), F.col("starts")
    positions = F.sequence(F.lit(0), F.size(lines) - 1)

    def opens(position: Column) -> Column:
        before = F.get(lines, position - 1)["time"]
        return before.isNull() | (before < F.get(lines, position)["time"])

    def basket(start: Column, number: Column) -> Column:
        moment = F.get(lines, start)["time"]
        stop = F.coalesce(F.get(starts, number + 1), F.size(lines))
        begin = F.greatest(start - window, F.lit(0))
        earlier = F.slice(lines, begin + 1, start - begin)
        return F.struct(
            moment.alias("moment"),
            F.slice(lines, start + 1, stop - start).alias("targets"),
            F.filter(earlier, lambda line: line["arrival_time"] <= moment).alias("known"),
        )

    opened = sequences.withColumn("starts", F.filter(positions, opens))
    return opened.select("user", F.explode(F.transform("starts", basket)).alias("basket")).select("user", "basket.*")


def _days(earlier: Column, later: Column) -> Column:
    return ((F.unix_micros(later) - F.unix_micros(earlier)) / DAY_US).cast("float")


def _ages(lines: Column, moment: Column) -> Column:
    return F.transform(lines, lambda line: _days(line["time"], moment))
