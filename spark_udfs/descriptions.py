"""What events say of items and users, as sums that add up over batches of events, whatever their order.

events --item_sums, user_sums--> a row of facts for each id, and one for each of its texts: how often it was said
sums   --items, users-------->   a row for each id: the facts, and the text that was said most often
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

FACTS = ""  # `what` of an id's one row of facts; else it is the name of a text
KEYS = ("what", "value")
_SUMS = ("lines", "first", "last", "priced")


def item_sums(events: DataFrame) -> DataFrame:
    """Sums of the items with an event that is no return.

    Returns:
        `item_id`, `what`, `value`, `lines`; of facts `first` and `last` (times of purchases), `priced` (the last
        purchase with a price: time, event_id, price).
    """
    met, is_sale = events.where("kind != 'return'"), F.col("kind") == "purchase"
    priced = F.when(is_sale & F.col("price").isNotNull(), F.struct("time", "event_id", "price"))
    return _sums(met, "item_id", ("name", "category"), F.when(is_sale, F.col("time")), F.max(priced))


def user_sums(events: DataFrame) -> DataFrame:
    """Sums of the users with an event: `user_id`, else as `item_sums`; `first` and `last` are of any event."""
    none = F.lit(None).cast("struct<time:timestamp,event_id:string,price:double>")
    return _sums(events.where("user_id IS NOT NULL"), "user_id", ("country",), F.col("time"), none)


def added_up(parts: DataFrame, key: str) -> DataFrame:
    """Sums of which some are of the same keys as one each."""
    return parts.groupBy(key, *KEYS).agg(
        F.sum("lines").alias("lines"),
        F.min("first").alias("first"),
        F.max("last").alias("last"),
        F.max("priced").alias("priced"),
    )


def items(sums: DataFrame) -> DataFrame:
    """items(item_id, name, category, first_sold, last_sold, price).

    Name and category are the most frequent ones (of equally frequent ones, the first by alphabet); the price is that of
    the last purchase with one. Sales are purchases: an item without has no times and no price.
    """
    facts = sums.where(F.col("what") == FACTS)
    named = facts.join(_most_frequent(sums, "item_id", "name"), on="item_id", how="left")
    named = named.join(_most_frequent(sums, "item_id", "category"), on="item_id", how="left")
    return named.select(
        "item_id",
        F.coalesce("name", "item_id").alias("name"),
        "category",
        F.col("first").alias("first_sold"),
        F.col("last").alias("last_sold"),
        F.col("priced.price").alias("price"),
    )


def users(sums: DataFrame) -> DataFrame:
    """users(user_id, country, first_seen, last_seen)."""
    facts = sums.where(F.col("what") == FACTS)
    placed = facts.join(_most_frequent(sums, "user_id", "country"), on="user_id", how="left")
    return placed.select("user_id", "country", F.col("first").alias("first_seen"), F.col("last").alias("last_seen"))


def _sums(events: DataFrame, key: str, texts: Sequence[str], time: Column, priced: Column) -> DataFrame:
    lines = F.count(F.lit(1)).alias("lines")
    facts = events.groupBy(key).agg(
        lines, F.min(time).alias("first"), F.max(time).alias("last"), priced.alias("priced")
    )
    parts = [facts.withColumn("what", F.lit(FACTS)).withColumn("value", F.lit(""))]
    for text in texts:
        said = events.where(F.col(text).isNotNull()).groupBy(key, F.col(text).alias("value")).agg(lines)
        parts.append(said.withColumn("what", F.lit(text)))
    rows = functools.reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    return rows.select(key, *KEYS, *_SUMS)


def _most_frequent(sums: DataFrame, key: str, text: str) -> DataFrame:
    # The most lines, then the first by alphabet: min over (-lines, value).
    best = F.min(F.struct((-F.col("lines")).alias("fewest"), "value")).alias("best")
    return sums.where(F.col("what") == text).groupBy(key).agg(best).select(key, F.col("best.value").alias(text))
