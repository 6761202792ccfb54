"""The truth of the simulated shop, as arithmetic on arrays: who likes what, when, and which lines that leads to.

    customer  has two or three tastes; one of them rules for a phase of PHASE_DAYS and is then replaced by another
    item      belongs to one taste, is popular by Zipf's law within it, has its season, and may arrive late
    line      the customer's taste at that moment -> a few items of it, drawn by popularity -> one, drawn by its appeal
              at that moment (season, novelty); or, sometimes, an item of an earlier order again

So popularity alone misses the tastes, a model that weighs a whole history alike misses the phases, and one that knows
only all-time counts misses seasons and arrivals.

Every draw is a hash of (seed, purpose, ids). Customers, orders, lines and items are functions of their numbers: there
is no state, no table and no order of generation. Arrays are one-dimensional and of one length unless said otherwise;
times are days since the shop's start.
"""

from __future__ import annotations

import math
import zlib
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PHASE_DAYS = 40.0  # how long one taste rules
RULING_SHARE = 0.75  # of a customer's lines that follow the ruling taste; the others are shared by all their tastes
EXPLORING_SHARE = 0.08  # of lines that follow no taste
ZIPF = 0.7  # popularity within a taste falls with rank ** -ZIPF
CANDIDATES = 4  # items drawn by popularity, of which one is drawn by appeal
SEASON_SWING = 1.2  # log odds between an item's average and its best time of the year
EARLY_SHARE = 0.6  # of items that are there from the first day
NOVELTY, NOVELTY_DAYS = 3.0, 20.0  # a new item's extra appeal, and how fast it fades
AGAIN_SHARE = 0.12  # of lines that repeat an item of an earlier order
LINES_PER_ORDER = 3.0  # mean
JOINING_SHARE = 0.6  # of the time, within which customers come; most come early
LOOKS = 8.0  # a shown item is considered like this many lines of an order


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


def start_s(shop: ShopSize) -> int:
    """The shop's first moment, in seconds since 1970-01-01 UTC."""
    start = shop.start
    return int((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp())


def uniform(shop: ShopSize, purpose: str, *ids: Ints) -> Floats:
    """Numbers in (0, 1) that depend on the seed, the purpose and the ids alone (splitmix64, chained over the ids)."""
    state = _mix(np.asarray([shop.seed * 2**32 + zlib.crc32(purpose.encode())], np.uint64))
    for number in ids:
        state = _mix(state + np.asarray(number).astype(np.uint64))
    return np.asarray(((state >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def lines(users: Ints, shop: ShopSize) -> dict[str, NDArray[np.generic]]:
    """The true order lines of some customers.

    Returns:
        Arrays of one length by name: user, order, line, item (int64) and day (float64). A customer's orders are
        numbered from 0 in the order of time. Lines for which no candidate was on sale are left out.
    """
    orders = orders_of(users, shop)
    user, order = np.repeat(users, orders), positions(orders)
    of_user = np.repeat(orders, orders)
    beyond = -np.log(uniform(shop, "lines", user, order)) * (LINES_PER_ORDER - 1)
    count = 1 + np.minimum(beyond.astype(np.int64), 50)
    user, order, of_user, line = *(np.repeat(ids, count) for ids in (user, order, of_user)), positions(count)
    again = (uniform(shop, "again", user, order, line) < AGAIN_SHARE) & (order > 0) & (line > 0)
    earlier = (uniform(shop, "earlier", user, order, line) * order).astype(np.int64)
    # The line that decides the item: this one, or the first of an earlier order, which is never itself a repetition.
    source_order, source_line = np.where(again, earlier, order), np.where(again, 0, line)
    item = _draw_item(user, source_order, source_line, order_day(user, source_order, of_user, shop), shop)
    day = order_day(user, order, of_user, shop)
    had = item >= 0
    named = {"user": user, "order": order, "line": line, "item": item, "day": day}
    return {name: values[had] for name, values in named.items()}


def orders_of(user: Ints, shop: ShopSize) -> Ints:
    """How many orders a customer makes: at least one, mostly few."""
    drawn = -np.log(uniform(shop, "orders", user)) * shop.orders_per_user
    return np.minimum(drawn.astype(np.int64) + 1, int(20 * shop.orders_per_user) + 1)


def positions(counts: Ints) -> Ints:
    """0, 1, ... within each of the groups of these sizes."""
    starts = np.cumsum(counts) - counts
    return np.asarray(np.arange(counts.sum()) - np.repeat(starts, counts), np.int64)


def order_day(user: Ints, order: Ints, orders: Ints, shop: ShopSize) -> Floats:
    """When an order falls: a customer's `orders` are spread from their first day to the shop's last."""
    joined = joined_day(user, shop)
    return np.asarray(joined + (shop.days - joined) * (order + uniform(shop, "day", user, order)) / orders)


def joined_day(user: Ints, shop: ShopSize) -> Floats:
    """A customer's first day; orders come later."""
    return uniform(shop, "joined", user) ** 2 * JOINING_SHARE * shop.days


def quantity(user: Ints, order: Ints, line: Ints, shop: ShopSize) -> Ints:
    """Pieces of a line."""
    return 1 + (-np.log(uniform(shop, "quantity", user, order, line)) * 1.5).astype(np.int64)


def price(item: Ints, shop: ShopSize) -> Floats:
    """Of a piece; mostly low."""
    return np.round(1.5 + 30 * uniform(shop, "price", item) ** 3, 2)


def taste_of_item(item: Ints, shop: ShopSize) -> Ints:
    """An item's taste; its rank within the taste is item // tastes, the first being the most popular."""
    return item % shop.tastes


def taste_of_user(user: Ints, number: Ints, shop: ShopSize) -> Ints:
    """A customer's taste number 0, 1 or 2: the second is a neighbour of the first, the third may be the first again."""
    first = (uniform(shop, "taste 0", user) * shop.tastes).astype(np.int64)
    second = (first + 1 + (uniform(shop, "taste 1", user) * 2).astype(np.int64)) % shop.tastes
    other = (uniform(shop, "taste 2", user) * shop.tastes).astype(np.int64)
    third = np.where(uniform(shop, "two", user) < 0.3, first, other)
    return np.asarray(np.choose(number, [first, second, third]), np.int64)


def ruling_taste(user: Ints, day: Floats, shop: ShopSize) -> Ints:
    """The taste that rules a customer at a moment; their phases change on different days."""
    phase = np.floor(day / PHASE_DAYS + uniform(shop, "shift", user)).astype(np.int64)
    return taste_of_user(user, (uniform(shop, "phase", user, phase) * 3).astype(np.int64), shop)


def taste_share(user: Ints, item: Ints, day: Floats, shop: ShopSize) -> Floats:
    """The share of a customer's new lines at a moment that follow the item's taste."""
    of_item = taste_of_item(item, shop)
    own = np.mean([taste_of_user(user, np.full_like(user, number), shop) == of_item for number in range(3)], axis=0)
    followed = RULING_SHARE * (ruling_taste(user, day, shop) == of_item) + (1 - RULING_SHARE) * own
    return np.asarray((1 - EXPLORING_SHARE) * followed + EXPLORING_SHARE / shop.tastes)


def popularity(item: Ints, shop: ShopSize) -> Floats:
    """The share of an item among the candidates of its taste; over a taste they add up to 1."""
    rank, power = item // shop.tastes + 1.0, 1 - ZIPF
    of_taste = _items_of(taste_of_item(item, shop), shop)
    return np.asarray(((rank + 1) ** power - rank**power) / ((of_taste + 1.0) ** power - 1))


def appeal(item: Ints, day: Floats, shop: ShopSize) -> Floats:
    """An item's relative odds at a moment: season and novelty; 0 before it is on sale."""
    season = np.exp(SEASON_SWING * np.cos(2 * math.pi * (day / 365.25 - uniform(shop, "season", item))))
    arrived = arrived_day(item, shop)
    age = np.maximum(day - arrived, 0.0)
    return np.where(day >= arrived, season * (1 + NOVELTY * np.exp(-age / NOVELTY_DAYS)), 0.0)


def arrived_day(item: Ints, shop: ShopSize) -> Floats:
    """When an item comes on sale; -1,000 for those that are there from the first day."""
    arrival = uniform(shop, "arrival", item)
    return np.where(arrival < EARLY_SHARE, -1_000.0, (arrival - EARLY_SHARE) / (1 - EARLY_SHARE) * shop.days)


def purchase_odds(user: Ints, item: Ints, day: Floats, rank: Ints, shop: ShopSize) -> Floats:
    """The probability that showing an item at a rank (from 1) leads to its purchase.

    The chance that one new line of the customer is the item is about share of its taste x popularity within it x appeal
    at the moment. A shown item gets LOOKS such chances, if the customer looks that far down: 1 / log2(1 + rank).
    """
    odds = taste_share(user, item, day, shop) * popularity(item, shop) * appeal(item, day, shop)
    return np.asarray((1 - np.exp(-LOOKS * odds)) / np.log2(1.0 + rank))


def permutation(shop: ShopSize) -> tuple[int, int]:
    """Factor and shift of an affine permutation of the item numbers; the factor is coprime to their count."""
    factor = max(1, int(shop.items * 0.6180339887))
    while math.gcd(factor, shop.items) != 1:
        factor += 1
    return factor, (shop.seed * 7_919 + 17) % shop.items


def shown_number(item: Ints, shop: ShopSize) -> Ints:
    """The number in an item's id: permuted, so that it betrays neither taste nor popularity."""
    factor, shift = permutation(shop)
    return (item * factor + shift) % shop.items


def item_number(shown: Ints, shop: ShopSize) -> Ints:
    """The inverse of `shown_number`."""
    factor, shift = permutation(shop)
    return (shown - shift) % shop.items * pow(factor, -1, shop.items) % shop.items


def _draw_item(user: Ints, order: Ints, line: Ints, day: Floats, shop: ShopSize) -> Ints:
    """The item of a line; -1 where none of its candidates is on sale."""
    ids = (user, order, line)
    shared = taste_of_user(user, (uniform(shop, "which", *ids) * 3).astype(np.int64), shop)
    followed = np.where(uniform(shop, "ruling", *ids) < RULING_SHARE, ruling_taste(user, day, shop), shared)
    exploring = uniform(shop, "explore", *ids) < EXPLORING_SHARE
    taste = np.where(exploring, (uniform(shop, "any", *ids) * shop.tastes).astype(np.int64), followed)
    best, item = np.full(len(user), -np.inf), np.full(len(user), -1, np.int64)
    for number in range(CANDIDATES):
        candidate = by_popularity(taste, uniform(shop, f"candidate {number}", *ids), shop)
        weight = appeal(candidate, day, shop)
        # The largest u ** (1 / weight) draws by weight (Efraimidis and Spirakis, 2006).
        key = np.log(uniform(shop, f"key {number}", *ids)) / np.maximum(weight, 1e-12)
        better = (weight > 0) & (key > best)
        best, item = np.where(better, key, best), np.where(better, candidate, item)
    return item


def by_popularity(taste: Ints, drawn: Floats, shop: ShopSize) -> Ints:
    """An item of the taste by Zipf's law: the inverse of the continuous law's distribution, no table."""
    of_taste, power = _items_of(taste, shop), 1 - ZIPF
    rank = ((drawn * ((of_taste + 1.0) ** power - 1) + 1) ** (1 / power)).astype(np.int64) - 1
    return np.asarray(np.minimum(rank, of_taste - 1) * shop.tastes + taste)


def _items_of(taste: Ints, shop: ShopSize) -> Ints:
    return (shop.items - 1 - taste) // shop.tastes + 1
