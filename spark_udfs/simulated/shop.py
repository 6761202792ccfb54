"""The simulated shop as DataFrames: raw order lines with planted dirt, and what a shown item leads to.

The truth lies in tastes.py. Every row is a function of (seed, ids): a Spark task that is run again makes the same rows,
and nothing depends on how the data is partitioned. Thousands or billions of lines differ in `users` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StringType, StructType, TimestampType

from spark_udfs.simulated import tastes
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, uniform

# Planted dirt: shares of lines, in the order in which they are drawn.
DIRT = {
    "duplicate": 0.02,
    "cancelled": 0.03,
    "no_customer": 0.05,
    "negative_quantity": 0.004,
    "future": 0.003,
    "bad_price": 0.004,
    "no_item": 0.002,
    "charge": 0.02,
}
TWICE = ("duplicate", "cancelled")  # a duplicate is the row again, a cancellation a second row that takes it back
LATE_SHARE, LATE_DAYS, USUAL_DELAY_DAYS = 0.02, 6.0, 0.1
RAW_COLUMNS = ("order_id", "user_id", "item_id", "name", "quantity", "time", "price", "arrival_time")
TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"
DAY_S = 86_400
LINES_PER_CHUNK = 200_000  # what a task holds in memory at once
NUMBERS = (
    "user bigint, order bigint, item bigint, taste bigint, rank bigint, shown bigint, at bigint, arrival bigint, "
    "quantity bigint, price double, dirt string, is_back boolean"
)

ADJECTIVES = ("amber", "blue", "clay", "dotted", "enamel", "folk", "green", "ivory", "jade", "knitted", "linen", "oak")
NOUNS = ("bowl", "candle", "doll", "frame", "garland", "hook", "jar", "lantern", "mug", "napkin", "quilt", "rug", "tin")


@dataclass(frozen=True)
class Shop:
    """A shop's size, where no settings are at hand."""

    users: int = 2_000
    items: int = 600
    days: int = 180
    orders_per_user: float = 12.0
    tastes: int = 12
    start: datetime = datetime(2025, 1, 1)
    seed: int = 0


def order_lines(users: DataFrame, shop: ShopSize) -> DataFrame:
    """Raw order lines, as a shop's system would export them: strings, with dirt.

    Args:
        users: one row per customer: `user`, a number from 0.
        shop: the shop's size.

    Returns:
        RAW_COLUMNS, all strings.
    """
    return planted_lines(users, shop).select(*RAW_COLUMNS)


def planted_lines(users: DataFrame, shop: ShopSize) -> DataFrame:
    """RAW_COLUMNS with what was planted: `user`, `item` (numbers) and `dirt` (a key of DIRT; null for clean lines)."""

    def generate(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        per_chunk = max(1, int(LINES_PER_CHUNK / (shop.orders_per_user * tastes.LINES_PER_ORDER)))
        for batch in batches:
            numbers = batch.column(0).to_numpy()
            for first in range(0, len(numbers), per_chunk):
                yield pa.RecordBatch.from_pydict(_dirty_lines(numbers[first : first + per_chunk], shop))

    lines = users.select(F.col("user").cast("bigint")).mapInArrow(generate, NUMBERS)
    order_id = F.format_string("%09d-%04d", "user", "order")
    nouns, adjectives = (F.array(*(F.lit(word) for word in words)) for words in (NOUNS, ADJECTIVES))
    name = F.concat_ws(
        " ",
        F.get(adjectives, F.pmod("rank", F.lit(len(ADJECTIVES))).cast("int")),
        F.get(nouns, F.pmod("taste", F.lit(len(NOUNS))).cast("int")),
        F.lit("no."),
        (F.col("rank") + 1).cast("string"),
    )
    quantity = F.when(F.col("is_back") | _has("negative_quantity"), -F.col("quantity")).otherwise(F.col("quantity"))
    return lines.select(
        F.when(F.col("is_back"), F.concat(F.lit("C"), order_id)).otherwise(order_id).alias("order_id"),
        F.when(~_has("no_customer"), F.format_string("U%09d", "user")).alias("user_id"),
        F.when(_has("charge"), "POSTAGE").when(~_has("no_item"), F.format_string("P%08d", "shown")).alias("item_id"),
        F.when(_has("charge"), "postage").otherwise(name).alias("name"),
        quantity.cast("string").alias("quantity"),
        F.from_unixtime("at", TIME_FORMAT).alias("time"),
        F.when(_has("bad_price"), "n/a").otherwise(F.format_string("%.2f", "price")).alias("price"),
        F.from_unixtime("arrival", TIME_FORMAT).alias("arrival_time"),
        "user",
        "item",
        "dirt",
    )


def true_value(recommendations: DataFrame, shop: ShopSize) -> DataFrame:
    """Add `true_value`: the probability that showing this row leads to a purchase; its sum is the expected purchases.

    Args:
        recommendations: `user_id`, `item_id`, `rank` (from 1), `moment` (timestamp), and whatever else.
        shop: the shop's size.

    Returns:
        The same rows and columns with `true_value` (double; 0 for ids that are not of this shop).
    """
    schema = StructType([*recommendations.schema.fields]).add("true_value", DoubleType())

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            _, _, value = _valued(batch, shop)
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(value)], [*batch.schema.names, "true_value"])

    return recommendations.mapInArrow(add, schema)


def respond(recommendations: DataFrame, shop: ShopSize) -> DataFrame:
    """What each shown item led to, under the true tastes; the same rows give the same outcomes.

    Args:
        recommendations: as for `true_value`.
        shop: the shop's size.

    Returns:
        The same rows and columns with `outcome` (ignored, viewed or purchased) and `outcome_time` (timestamp; within
        three days after the moment, null where ignored).
    """
    schema = StructType([*recommendations.schema.fields])
    schema = schema.add("outcome", StringType()).add("outcome_time", TimestampType())

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            user, item, value = _valued(batch, shop)
            moment, rank = _seconds(batch), _integers(batch, "rank")
            buys = uniform(shop, "buys", user, item, moment) < value
            views = uniform(shop, "views", user, item, moment) < 0.5 / np.log2(1.0 + rank)
            outcome = np.where(buys, "purchased", np.where(views, "viewed", "ignored"))
            later = moment + 1 + (uniform(shop, "when", user, item, moment) * 3 * DAY_S).astype(np.int64)
            time = pa.array(later * 1_000_000, pa.timestamp("us", tz="UTC"), mask=~(buys | views))
            names = [*batch.schema.names, "outcome", "outcome_time"]
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(outcome.tolist(), pa.string()), time], names)

    return recommendations.mapInArrow(add, schema)


def _dirty_lines(users: Ints, shop: ShopSize) -> dict[str, pa.Array]:
    """The lines of some customers, dirt planted, as arrays of NUMBERS."""
    true = tastes.lines(users, shop)
    user, order, line, item = (np.asarray(true[name], np.int64) for name in ("user", "order", "line", "item"))
    ids = (user, order, line)
    bounds = np.cumsum([*DIRT.values()])
    kind = np.searchsorted(bounds, uniform(shop, "dirt", *ids), side="right")
    names = np.asarray([*DIRT, None], object)
    at = (np.asarray(true["day"], np.float64) * DAY_S).astype(np.int64) + tastes.start_s(shop)
    mean_delay = np.where(uniform(shop, "late", *ids) < LATE_SHARE, LATE_DAYS, USUAL_DELAY_DAYS)
    delay = (-np.log(uniform(shop, "delay", *ids)) * mean_delay * DAY_S).astype(np.int64)
    columns = {
        "user": user,
        "order": order,
        "item": item,
        "taste": tastes.taste_of_item(item, shop),
        "rank": item // shop.tastes,
        "shown": tastes.shown_number(item, shop),
        "at": at + np.where(names[kind] == "future", 3_650 * DAY_S, 0),
        "arrival": at + delay,
        "quantity": tastes.quantity(*ids, shop),
        "price": tastes.price(item, shop),
        "dirt": names[kind],
    }
    copies = np.where(np.isin(kind, [list(DIRT).index(name) for name in TWICE]), 2, 1)
    repeated = {name: np.repeat(values, copies) for name, values in columns.items()}
    is_last = np.zeros(int(copies.sum()), bool)
    is_last[np.cumsum(copies) - 1] = True
    is_back = is_last & (repeated["dirt"] == "cancelled")
    for name in ("at", "arrival"):
        repeated[name] = repeated[name] + np.where(is_back, 2 * DAY_S, 0)
    return {name: pa.array(values) for name, values in repeated.items()} | {"is_back": pa.array(is_back)}


def _valued(batch: pa.RecordBatch, shop: ShopSize) -> tuple[Ints, Ints, Floats]:
    """Numbers of user and item (-1 where unknown), and the purchase odds."""
    user = _numbers(batch, "user_id", "U", shop.users)
    shown = _numbers(batch, "item_id", "P", shop.items)
    item = np.where(shown >= 0, tastes.item_number(shown, shop), -1)
    day = (_seconds(batch) - tastes.start_s(shop)) / DAY_S
    known = (user >= 0) & (item >= 0)
    odds = tastes.purchase_odds(np.maximum(user, 0), np.maximum(item, 0), day, _integers(batch, "rank"), shop)
    return user, item, np.where(known, odds, 0.0)


def _numbers(batch: pa.RecordBatch, name: str, letter: str, count: int) -> Ints:
    """The numbers in ids; -1 where an id is not one of this shop's."""
    texts = batch.column(batch.schema.get_field_index(name)).to_pylist()
    parsed = (int(text[1:]) if text and text[0] == letter and text[1:].isdecimal() else -1 for text in texts)
    numbers = np.fromiter(parsed, np.int64, len(texts))
    return np.where(numbers < count, numbers, -1)


def _integers(batch: pa.RecordBatch, name: str) -> Ints:
    return np.asarray(batch.column(batch.schema.get_field_index(name)).to_numpy(zero_copy_only=False), np.int64)


def _seconds(batch: pa.RecordBatch) -> Ints:
    moments = batch.column(batch.schema.get_field_index("moment")).cast(pa.int64())
    return np.asarray(moments.to_numpy(zero_copy_only=False), np.int64) // 1_000_000


def _has(dirt: str) -> Column:
    return F.coalesce(F.col("dirt") == dirt, F.lit(False))
