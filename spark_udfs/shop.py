"""A shop whose customers' true tastes are known: order lines with planted dirt, and what a shown item leads to.

    customer  has two or three tastes; one of them rules for a phase of PHASE_DAYS and is then replaced by another
    item      belongs to one taste, is popular by Zipf's law within it, has its season, and may arrive late
    line      the customer's taste at that moment -> a few items of it, drawn by popularity -> one, drawn by its appeal
              at that moment (season, novelty); or, sometimes, an item of an earlier order again

So popularity alone misses the tastes, a model that weighs a whole history alike misses the phases, and one that knows
only all-time counts misses seasons and arrivals.

Every draw is a hash of (seed, purpose, ids), never `rand()`: a Spark task that is run again makes the same rows, and no
row depends on how the data is partitioned. There is no table to join: customers and items are functions of their numbers,
so thousands or billions of lines differ only in `users`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

PHASE_DAYS = 40.0  # how long one taste rules
RULING_SHARE = 0.75  # of a customer's lines that follow the ruling taste; the others are shared by all their tastes
EXPLORING_SHARE = 0.08  # of lines that follow no taste
ZIPF = 0.7  # popularity within a taste falls with rank ** -ZIPF
CANDIDATES = 4  # items drawn by popularity, of which one is drawn by appeal
SEASON_SWING = 1.2  # log odds between an item's average and its best time of the year
EARLY_SHARE = 0.6  # of items that are there from the first day
NOVELTY, NOVELTY_DAYS = 3.0, 20.0  # a new item's extra appeal, and how fast it fades
AGAIN_SHARE = 0.12  # of lines that repeat an item of an earlier order
LINES_PER_ORDER = 2.0  # mean of the lines beyond the first
LOOKS = 8.0  # a shown item is considered like this many lines of an order

# Planted dirt: shares of lines.
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
LATE_SHARE, LATE_DAYS, USUAL_DELAY_DAYS = 0.02, 6.0, 0.1
CHARGE_ITEM = "POSTAGE"
RAW_COLUMNS = ("order_id", "user_id", "item_id", "name", "quantity", "time", "price", "arrival_time")
TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"
DAY_S = 86_400

ADJECTIVES = ("amber", "blue", "clay", "dotted", "enamel", "folk", "green", "hand-made", "ivory", "jade", "knitted", "linen")
NOUNS = ("bowl", "candle", "doll", "frame", "garland", "hook", "jar", "lantern", "mug", "napkin", "quilt", "rug", "tin", "vase")


class ShopSize(Protocol):
    """What describes a shop; the settings' section `shop` does."""

    @property
    def users(self) -> int: ...
    @property
    def items(self) -> int: ...
    @property
    def days(self) -> int: ...
    @property
    def orders_per_user(self) -> float: ...
    @property
    def tastes(self) -> int: ...
    @property
    def start(self) -> datetime: ...
    @property
    def seed(self) -> int: ...


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
    """Raw order lines with what was planted: RAW_COLUMNS, and `user`, `item` (numbers), `dirt` (a key of DIRT or null)."""
    lines = _lines(users, shop)
    ids = ["user", "order", "line"]
    dirt = _pick(DIRT, _uniform(shop, "dirt", *ids))
    delay = -F.log(_uniform(shop, "delay", *ids)) * F.when(
        _uniform(shop, "late", *ids) < LATE_SHARE, LATE_DAYS
    ).otherwise(USUAL_DELAY_DAYS)
    dirty = lines.withColumn("dirt", dirt).withColumn("arrival", F.col("at") + (delay * DAY_S).cast("bigint"))
    # A duplicate is the row twice; a cancellation is a second row that takes the first back.
    copies = F.when(F.col("dirt").isin("duplicate", "cancelled"), F.array(F.lit(0), F.lit(1))).otherwise(F.array(F.lit(0)))
    rows = dirty.withColumn("copy", F.explode(copies))
    back = (F.col("dirt") == "cancelled") & (F.col("copy") == 1)
    is_back = F.coalesce(back, F.lit(False))
    is_charge = F.coalesce(F.col("dirt") == "charge", F.lit(False))
    quantity = F.floor(1 - F.log(_uniform(shop, "quantity", *ids)) * 1.5)
    price = F.round(1.5 + 30 * F.pow(_uniform(shop, "price", "item"), F.lit(3.0)), 2)
    order_id = F.format_string("%09d-%04d", F.col("user"), F.col("order"))
    at = F.col("at") + F.when(is_back, 2 * DAY_S).otherwise(0)
    sold_at = at + F.when(F.col("dirt") == "future", 3_650 * DAY_S).otherwise(0)
    no_user = F.coalesce(F.col("dirt") == "no_customer", F.lit(False))
    no_item = F.coalesce(F.col("dirt") == "no_item", F.lit(False))
    negative = F.coalesce(F.col("dirt") == "negative_quantity", F.lit(False))
    bad_price = F.coalesce(F.col("dirt") == "bad_price", F.lit(False))
    return rows.select(
        F.when(is_back, F.concat(F.lit("C"), order_id)).otherwise(order_id).alias("order_id"),
        F.when(~no_user, _user_id(F.col("user"))).alias("user_id"),
        F.when(is_charge, F.lit(CHARGE_ITEM)).when(~no_item, item_id(F.col("item"), shop)).alias("item_id"),
        F.when(is_charge, F.lit("Postage")).otherwise(_name(F.col("item"), shop)).alias("name"),
        F.when(is_back | negative, -quantity).otherwise(quantity).cast("string").alias("quantity"),
        F.from_unixtime(sold_at, TIME_FORMAT).alias("time"),
        F.when(bad_price, F.lit("n/a")).otherwise(F.format_string("%.2f", price)).alias("price"),
        F.from_unixtime(F.greatest(F.col("arrival"), at), TIME_FORMAT).alias("arrival_time"),
        "user",
        "item",
        "dirt",
    )


def true_value(recommendations: DataFrame, shop: ShopSize) -> DataFrame:
    """Add `true_value`: the probability that showing this row leads to a purchase; its sum is the expected purchases.

    Under the true tastes the chance that one line of the customer's next order is the item is about
    share of the item's taste x popularity within it x appeal at the moment; a shown item gets LOOKS such chances, if the
    customer looks that far down (1 / log2(1 + rank)).

    Args:
        recommendations: `user_id`, `item_id`, `rank` (from 1), `moment` (timestamp), and whatever else.
        shop: the shop's size.

    Returns:
        The same rows and columns with `true_value` (double; 0 for ids that are not of this shop).
    """
    user = F.expr("try_cast(substring(user_id, 2) AS bigint)")
    item = _item_number(F.expr("try_cast(substring(item_id, 2) AS bigint)"), shop)
    known = (user >= 0) & (user < shop.users) & (item >= 0) & (item < shop.items)
    days = (F.unix_timestamp("moment") - _start_s(shop)) / DAY_S
    odds = _taste_share(user, item, days, shop) * _popularity(item, shop) * _appeal(item, days, shop)
    bought = (1 - F.exp(-LOOKS * odds)) / F.log2(1.0 + F.col("rank"))
    return recommendations.withColumn("true_value", F.when(known, bought).otherwise(0.0))


def respond(recommendations: DataFrame, shop: ShopSize) -> DataFrame:
    """What each shown item led to, under the true tastes; the same rows give the same outcomes.

    Args:
        recommendations: as for `true_value`.
        shop: the shop's size.

    Returns:
        The same rows and columns with `outcome` (ignored, viewed or purchased) and `outcome_time` (timestamp; within
        three days after the moment, null where ignored).
    """
    ids = ["user_id", "item_id", "moment"]
    valued = true_value(recommendations, shop)
    looks = 0.5 / F.log2(1.0 + F.col("rank"))
    outcome = (
        F.when(_uniform(shop, "buys", *ids) < F.col("true_value"), "purchased")
        .when(_uniform(shop, "views", *ids) < looks, "viewed")
        .otherwise("ignored")
    )
    delay_s = (_uniform(shop, "when", *ids) * 3 * DAY_S).cast("bigint") + 1
    later = F.timestamp_seconds(F.unix_timestamp("moment") + delay_s)
    answered = valued.withColumn("outcome", outcome).drop("true_value")
    return answered.withColumn("outcome_time", F.when(F.col("outcome") != "ignored", later))


def item_id(item: Column, shop: ShopSize) -> Column:
    """The shop's name for an item: a permutation of the numbers, so that it betrays neither taste nor popularity."""
    factor, shift = _permutation(shop)
    return F.format_string("P%08d", F.pmod(item * F.lit(factor) + shift, F.lit(shop.items)))


def taste(item: Column, shop: ShopSize) -> Column:
    """An item's taste; its rank within the taste is item // tastes."""
    return F.pmod(item, F.lit(shop.tastes))


def _lines(users: DataFrame, shop: ShopSize) -> DataFrame:
    """user, order, line, at (seconds since 1970), item (number): lines for which an item could be had."""
    rare_tail = 20 * shop.orders_per_user
    drawn = -F.log(_uniform(shop, "orders", "user")) * shop.orders_per_user
    count = F.least(F.floor(drawn + 1), F.lit(int(rare_tail)))
    orders = users.select("user", count.alias("orders")).select(
        "user", "orders", F.explode(F.sequence(F.lit(0), (F.col("orders") - 1).cast("int"))).alias("order")
    )
    beyond_first = F.least(F.floor(-F.log(_uniform(shop, "lines", "user", "order")) * LINES_PER_ORDER), F.lit(20))
    lines = orders.withColumn("line", F.explode(F.sequence(F.lit(0), beyond_first.cast("int"))))
    again = (_uniform(shop, "again", "user", "order", "line") < AGAIN_SHARE) & (F.col("order") > 0) & (F.col("line") > 0)
    earlier = F.floor(_uniform(shop, "earlier", "user", "order", "line") * F.col("order")).cast("int")
    # The line that decides the item: this one, or the first of an earlier order, which is never itself a repetition.
    deciding = lines.withColumn("source_order", F.when(again, earlier).otherwise(F.col("order"))).withColumn(
        "source_line", F.when(again, 0).otherwise(F.col("line"))
    )
    timed = deciding.withColumn("days", _order_day(F.col("source_order"), shop)).withColumn(
        "at", (_order_day(F.col("order"), shop) * DAY_S).cast("bigint") + _start_s(shop)
    )
    return _with_item(timed, shop).where("item IS NOT NULL").select("user", "order", "line", "at", "item")


def _order_day(order: Column, shop: ShopSize) -> Column:
    """When a customer's order falls, in days from the shop's start: in order, spread from their first day to the last."""
    joined = F.pow(_uniform(shop, "joined", "user"), F.lit(2.0)) * 0.6 * shop.days
    within = (order + _uniform_of(shop, "day", F.col("user"), order)) / F.col("orders")
    return joined + (shop.days - joined) * within


def _with_item(lines: DataFrame, shop: ShopSize) -> DataFrame:
    """Draw the item of (user, source_order, source_line) at `days`; null if none of its candidates is on sale."""
    ids = ["user", "source_order", "source_line"]
    exploring = F.floor(_uniform(shop, "explore which", *ids) * shop.tastes)
    followed = F.when(
        _uniform(shop, "ruling", *ids) < RULING_SHARE, _ruling_taste(F.col("user"), F.col("days"), shop)
    ).otherwise(_taste_of(F.col("user"), F.floor(_uniform(shop, "which", *ids) * 3), shop))
    of_taste = F.when(_uniform(shop, "explore", *ids) < EXPLORING_SHARE, exploring).otherwise(followed)
    tasted = lines.withColumn("taste", of_taste.cast("bigint"))
    for number in range(CANDIDATES):
        tasted = tasted.withColumn(f"item_{number}", _by_popularity(_uniform(shop, f"item {number}", *ids), shop))
    # Efraimidis and Spirakis (2006): the largest u ** (1 / weight) draws one of the candidates by weight.
    keys = []
    for number in range(CANDIDATES):
        appeal = _appeal(F.col(f"item_{number}"), F.col("days"), shop)
        key = F.log(_uniform(shop, f"key {number}", *ids)) / appeal
        keys.append(F.when(appeal > 0, F.struct(key.alias("key"), F.col(f"item_{number}").alias("item"))))
    return tasted.withColumn("item", F.greatest(*keys)["item"])


def _by_popularity(uniform: Column, shop: ShopSize) -> Column:
    """An item of the column `taste`, by Zipf's law: the inverse of the continuous law's distribution."""
    of_taste = F.floor((shop.items - 1 - F.col("taste")) / shop.tastes) + 1
    power = 1 - ZIPF
    rank = F.floor(F.pow(uniform * (F.pow(of_taste + 1.0, F.lit(power)) - 1) + 1, F.lit(1 / power))) - 1
    return F.least(rank, of_taste - 1).cast("bigint") * shop.tastes + F.col("taste")


def _popularity(item: Column, shop: ShopSize) -> Column:
    """The share of an item among the draws of its taste by `_by_popularity`."""
    rank = F.floor(item / shop.tastes) + 1.0
    of_taste = F.floor((shop.items - 1 - taste(item, shop)) / shop.tastes) + 1
    power = F.lit(1 - ZIPF)
    return (F.pow(rank + 1, power) - F.pow(rank, power)) / (F.pow(of_taste + 1.0, power) - 1)


def _appeal(item: Column, days: Column, shop: ShopSize) -> Column:
    """An item's relative odds at a moment: season and novelty; 0 before it is on sale."""
    phase = _uniform_of(shop, "season", item)
    season = F.exp(SEASON_SWING * F.cos(2 * math.pi * (days / 365.25 - phase)))
    arrival = _uniform_of(shop, "arrival", item)
    arrived = F.when(arrival < EARLY_SHARE, F.lit(-1_000.0)).otherwise(
        (arrival - EARLY_SHARE) / (1 - EARLY_SHARE) * shop.days
    )
    age = days - arrived
    return F.when(age >= 0, season * (1 + NOVELTY * F.exp(-age / NOVELTY_DAYS))).otherwise(0.0)


def _taste_of(user: Column, number: Column, shop: ShopSize) -> Column:
    """A customer's taste number 0, 1 or 2. The second is a neighbour of the first; the third may be the first again."""
    first = F.floor(_uniform_of(shop, "taste 0", user) * shop.tastes)
    second = F.pmod(first + 1 + F.floor(_uniform_of(shop, "taste 1", user) * 2), F.lit(shop.tastes))
    third = F.floor(_uniform_of(shop, "taste 2", user) * shop.tastes)
    some = F.when(_uniform_of(shop, "two", user) < 0.3, first).otherwise(third)
    return F.when(number == 0, first).when(number == 1, second).otherwise(some)


def _ruling_taste(user: Column, days: Column, shop: ShopSize) -> Column:
    """The taste that rules at a moment; customers' phases change on different days."""
    phase = F.floor(days / PHASE_DAYS + _uniform_of(shop, "shift", user)).cast("bigint")
    return _taste_of(user, F.floor(_uniform_of(shop, "phase", user, phase) * 3), shop)


def _taste_share(user: Column, item: Column, days: Column, shop: ShopSize) -> Column:
    """The share of a customer's lines at a moment that follow the item's taste."""
    of_item = taste(item, shop)
    ruling = (_ruling_taste(user, days, shop) == of_item).cast("double")
    own = [(_taste_of(user, F.lit(number), shop) == of_item).cast("double") for number in range(3)]
    followed = RULING_SHARE * ruling + (1 - RULING_SHARE) * (own[0] + own[1] + own[2]) / 3
    return (1 - EXPLORING_SHARE) * followed + EXPLORING_SHARE / shop.tastes


def _user_id(user: Column) -> Column:
    return F.format_string("U%09d", user)


def _name(item: Column, shop: ShopSize) -> Column:
    """What an item is called; the noun goes with its taste, so that a person sees whether recommendations make sense."""
    nouns = F.array(*(F.lit(noun) for noun in NOUNS))
    adjectives = F.array(*(F.lit(adjective) for adjective in ADJECTIVES))
    noun = F.element_at(nouns, (F.pmod(taste(item, shop), F.lit(len(NOUNS))) + 1).cast("int"))
    rank = F.floor(item / shop.tastes)
    adjective = F.element_at(adjectives, (F.pmod(rank, F.lit(len(ADJECTIVES))) + 1).cast("int"))
    return F.concat(adjective, F.lit(" "), noun, F.lit(" no. "), (rank + 1).cast("string"))


def _permutation(shop: ShopSize) -> tuple[int, int]:
    """Factor and shift of an affine permutation of the item numbers; the factor is coprime to their count."""
    factor = max(1, int(shop.items * 0.6180339887))
    while math.gcd(factor, shop.items) != 1:
        factor += 1
    return factor, (shop.seed * 7_919 + 17) % shop.items


def _item_number(shown: Column, shop: ShopSize) -> Column:
    factor, shift = _permutation(shop)
    number = F.pmod((shown - shift) * F.lit(pow(factor, -1, shop.items)), F.lit(shop.items))
    return F.when((shown >= 0) & (shown < shop.items), number)


def _start_s(shop: ShopSize) -> int:
    start = shop.start
    return int((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp())


def _uniform(shop: ShopSize, purpose: str, *ids: str) -> Column:
    return _uniform_of(shop, purpose, *(F.col(name) for name in ids))


def _uniform_of(shop: ShopSize, purpose: str, *ids: Column) -> Column:
    """A number in (0, 1) that depends on the seed, the purpose and the ids alone."""
    drawn = F.xxhash64(F.lit(shop.seed), F.lit(purpose), *(column.cast("string") for column in ids))
    return (F.shiftrightunsigned(drawn, 12).cast("double") + 0.5) / float(2**52)


def _pick(shares: dict[str, float], uniform: Column) -> Column:
    """One of the keys, by its share; null for the rest."""
    picked, bound = F.lit(None).cast("string"), sum(shares.values())
    for name, share in reversed(shares.items()):
        picked = F.when(uniform < bound, F.lit(name)).otherwise(picked)
        bound -= share
    # Nested from the inside out: the first key's bound is the smallest and is tried first.
    return picked
