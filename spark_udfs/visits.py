"""A click stream as visits, and what was known of a visit after each of its steps.

A visit is the steps of one session that are no more than so long apart; it is over when so long nothing came. A step
that arrives later than that after it happened is of no visit: what was known of a visit is then known when it is over,
and stays so. A purchase is a step too; until it comes it is what is asked for, and nothing is asked after it.

Work is Spark's sorted windows over a session's steps and, for what a customer did in earlier visits, those of
`spark_udfs.windows`: nothing is held per session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from spark_udfs import windows

SECOND_US = 1_000_000
EARLIER = {  # what is told of a user's earlier visits, and what `windows` calls it
    "user_visits": "rows",
    "user_visits_30d": "rows_30d",
    "user_orders": "frauds",
    "user_days_since": "days_since",
    "user_days_since_order": "days_since_fraud",
}
NEVER = 3_650.0  # days since what never was


def is_late(idle_us: int) -> Column:
    """Whether a step arrived too late to be of a visit."""
    return F.unix_micros("arrival_time") - F.unix_micros("time") > idle_us


def so_far(
    steps: DataFrame, *, idle_us: int, pages: Mapping[str, Sequence[str]], orders: Sequence[str], items: bool
) -> DataFrame:
    """Each step that is no purchase and before which there was none, with what was known of its visit then.

    Args:
        steps: session_id, time, arrival_time, page (string), and user_id and item_id (string; may be null) if there
            are any.
        idle_us: microseconds without a step after which a visit is over.
        pages: what is counted, with its words of `page`.
        orders: words of `page` that are a purchase.
        items: whether steps have item_id.

    Returns:
        The columns of the steps; visit (bigint, from 0 of each session), begins and over (timestamps: its first step,
        and when it is over); label (float): whether a purchase came later in the visit; steps (from 1), seconds (since
        the visit began), gap_seconds (since the step before; 0 at the first), hour (of the day, UTC), is_weekend; for
        each of `pages` NAME_steps; with items also items, how many there were, and items_again, steps to one of them
        once more. Steps, to_come apart, count the step itself.
    """
    is_order = F.col("page").isin(*orders).cast("int")
    kept = _numbered(steps.where(~is_late(idle_us)), idle_us).withColumn("_order", is_order)
    visit = Window.partitionBy("session_id", "visit")
    until_now = visit.orderBy(*_in_order(steps)).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    at = F.unix_micros("time")
    begun, last = F.min(at).over(visit), F.max(at).over(visit)
    ordered, in_all = F.sum("_order").over(until_now), F.sum("_order").over(visit)
    counts = {
        f"{name}_steps": F.sum(F.col("page").isin(*own).cast("int")).over(until_now) for name, own in pages.items()
    }
    told = kept.withColumns(
        {
            "begins": F.timestamp_micros(begun),
            "over": F.timestamp_micros(last + idle_us),
            "label": (in_all > ordered).cast("float"),
            "_ordered": ordered,
            "steps": F.count(F.lit(1)).over(until_now),
            "to_come": F.count(F.lit(1)).over(visit) - F.count(F.lit(1)).over(until_now),
            "seconds": (at - begun) / SECOND_US,
            "gap_seconds": F.when(F.col("_gap") <= idle_us, F.col("_gap") / SECOND_US).otherwise(0.0),
            "hour": F.hour("time"),
            "is_weekend": (F.weekday("time") >= 5).cast("int"),
            **counts,
        }
    )
    if items:
        told = _with_items(told, until_now, _in_order(steps))
    return told.where("_ordered = 0").drop("_ordered", "_order", "_gap")


def _in_order(steps: DataFrame) -> list[str]:
    """Steps of one time in the order of what they are: the same, however they lie."""
    return [name for name in ("time", "page", "item_id") if name in steps.columns]


def _numbered(steps: DataFrame, idle_us: int) -> DataFrame:
    """Steps with the number of their visit, and `_gap`, microseconds since the session's step before."""
    session = Window.partitionBy("session_id").orderBy(*_in_order(steps))
    gap = F.unix_micros("time") - F.lag(F.unix_micros("time")).over(session)
    begins = F.coalesce(F.col("_gap") > idle_us, F.lit(False)).cast("int")
    until_now = session.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return steps.withColumn("_gap", gap).withColumn("visit", F.sum(begins).over(until_now))


def _with_items(told: DataFrame, until_now: WindowSpec, order: Sequence[str]) -> DataFrame:
    same = Window.partitionBy("session_id", "visit", "item_id").orderBy(*order)
    is_new = F.when(F.col("item_id").isNull(), F.lit(None)).otherwise((F.row_number().over(same) == 1).cast("int"))
    marked = told.withColumn("_new", is_new)
    return marked.withColumns(
        {
            "items": F.coalesce(F.sum("_new").over(until_now), F.lit(0)),
            "items_again": F.coalesce(F.sum(1 - F.col("_new")).over(until_now), F.lit(0)),
        }
    ).drop("_new")


def with_earlier(rows: DataFrame, visits: DataFrame) -> DataFrame:
    """Rows with what was known of their users' earlier visits when theirs began: EARLIER.

    Args:
        rows: session_id, visit.
        visits: of all users, one row each: session_id, visit, user_id (null: nobody known), begins, over, ordered
            (boolean).
    """
    key = F.to_json(F.array("session_id", F.col("visit").cast("string")))
    given = visits.select(
        "session_id", "visit", "user_id",
        key.alias("_key"),
        F.col("begins").alias("time"), F.col("begins").alias("arrival_time"),
        F.col("over").alias("label_time"),
        F.col("ordered").cast("double").alias("fraud"),
    )  # fmt: skip
    found = windows.as_of(given, "_key", ["user_id"])
    known = {ours: F.col(f"user_id_{theirs}") for ours, theirs in EARLIER.items()}
    told = found.select(
        "session_id",
        "visit",
        *(
            F.coalesce(value, F.lit(NEVER if "since" in name else 0)).cast("float").alias(name)
            for name, value in known.items()
        ),
    )
    return rows.join(told, on=["session_id", "visit"], how="left")


def each_once(steps: DataFrame, *, idle_us: int, orders: Sequence[str]) -> DataFrame:
    """The visits of a click stream, as `with_earlier` takes them; arguments as for `so_far`."""
    kept = _numbered(steps.where(~is_late(idle_us)), idle_us)
    of_visit = kept.groupBy("session_id", "visit").agg(
        F.max("user_id").alias("user_id"),
        F.min(F.unix_micros("time")).alias("first"),
        F.max(F.unix_micros("time")).alias("last"),
        F.max(F.col("page").isin(*orders)).alias("ordered"),
    )
    return of_visit.select(
        "session_id",
        "visit",
        "user_id",
        F.timestamp_micros("first").alias("begins"),
        F.timestamp_micros(F.col("last") + idle_us).alias("over"),
        "ordered",
    )
