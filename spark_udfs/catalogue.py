"""The items as of a cut, with what was sold of them; and as of a later one, from the cut before and what came since."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.features import known_before, utc

SALES = ("count", "user_count", "recent_count", "customers", "recent_customers")
RECENT = ("recent_count", "recent_customers")


def catalogue(lines: DataFrame, items: DataFrame, names: DataFrame, cut: datetime, recent_days: int) -> DataFrame:
    """One row per index of the items' vocabulary, with its sales known before a cut; all zero if there were none. And
    one per item without an index that was sold before, to customers whom nobody knows: it may have one at a later cut.

    Args:
        lines: from `features.purchases`, those without a customer too.
        items: the items' vocabulary.
        names: `item_id`, `name`.
        cut: what was not known before it does not count.
        recent_days: the window of RECENT.

    Returns:
        item (null: no index), item_id, name, first_sold (null if not sold before), and SALES: count (all lines),
        user_count (lines of known customers), recent_count (those of the last `recent_days`), customers and
        recent_customers (distinct ones in the same two).
    """
    has_user = F.col("user_id").isNotNull()
    known = lines.where(known_before(cut))
    sales = known.groupBy("item_id").agg(
        F.count(F.lit(1)).alias("count"),
        F.count_if(has_user).alias("user_count"),
        F.countDistinct("user_id").alias("customers"),
        F.min("time").alias("first_sold"),
        *_recent(cut, recent_days),
    )
    return _listed(sales, items, names)


def advanced(
    before: DataFrame, new: DataFrame, firsts: DataFrame, recent: DataFrame, items: DataFrame, names: DataFrame,
    cut: datetime, recent_days: int,
) -> DataFrame:  # fmt: skip
    """The catalogue as of a later cut.

    Args:
        before: `catalogue` as of a cut.
        new: lines, as of `catalogue`, that were known from that cut on and before the later one.
        firsts: `item`, a row for each customer who had their first line of the item among those.
        recent: lines from `recent_days` before the later cut on; those that were not known before it do not count.
        items: the items' vocabulary, as of the later cut.
        names: `item_id`, `name`.
        cut: the later one.
        recent_days: as in `catalogue`.
    """
    added = new.groupBy("item_id").agg(
        F.count(F.lit(1)).alias("count"),
        F.count_if(F.col("user_id").isNotNull()).alias("user_count"),
        F.min("time").alias("first_sold"),
    )
    ids = items.select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    customers = firsts.join(ids, on="item", how="inner").groupBy("item_id").agg(F.count(F.lit(1)).alias("customers"))
    sales = (
        before.select("item_id", "count", "user_count", "customers", "first_sold")
        .unionByName(added, allowMissingColumns=True)
        .unionByName(customers, allowMissingColumns=True)
        .groupBy("item_id")
        .agg(
            *(F.sum(name).alias(name) for name in ("count", "user_count", "customers")),
            F.min("first_sold").alias("first_sold"),
        )
    )
    late = recent.where(known_before(cut) & _is_recent(cut, recent_days))  # not one line more is sent
    late = late.where("user_id IS NOT NULL").groupBy("item_id").agg(*_recent(cut, recent_days))
    return _listed(sales.join(late, on="item_id", how="left"), items, names)


def _is_recent(cut: datetime, recent_days: int) -> Column:
    return F.col("time") >= F.lit(utc(cut)) - F.make_dt_interval(F.lit(recent_days))


def _recent(cut: datetime, recent_days: int) -> list[Column]:
    is_recent = _is_recent(cut, recent_days)
    return [
        F.count_if(F.col("user_id").isNotNull() & is_recent).alias("recent_count"),
        F.countDistinct(F.when(is_recent, F.col("user_id"))).alias("recent_customers"),
    ]


def _listed(sales: DataFrame, items: DataFrame, names: DataFrame) -> DataFrame:
    rows = items.select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    listed = rows.join(sales.where("item_id IS NOT NULL"), on="item_id", how="full")
    named = listed.join(names.select("item_id", "name"), on="item_id", how="left")
    return named.select(
        "item",
        "item_id",
        F.coalesce("name", "item_id").alias("name"),
        *(F.coalesce(name, F.lit(0)).alias(name) for name in SALES),
        "first_sold",
    )
