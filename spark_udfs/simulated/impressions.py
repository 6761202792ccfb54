"""Impressions in the simulated shop: lists that a known policy shows, and what customers do with them.

Each visit of a customer shows LIST items. The policy draws them one after another, without repeating one: an item of
the whole catalogue with EXPLORED, else one of a taste by popularity, the taste being the customer's first with GUESSED,
else any. The propensity is the probability that this item was drawn for this position, given what stands above it.

    click = looking that far down x attraction      cart = after a click      buy = after a cart

The three multiply to `tastes.purchase_odds`: what a shown item is worth is one truth for impressions and for the
feedback on recommendations. An item that is not on sale yet is shown as announced: it may be clicked, not bought.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spark_udfs.simulated import tastes
from spark_udfs.simulated.planted import Field, Planted, Rows
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, positions, uniform

DAY_S = 86_400
LIST = 10
EXPLORED, GUESSED = 0.3, 0.5
IDLE = 0.02  # of the items looked at that are clicked without any wish for them
VISITS_PER_ORDER = 2.0


class Reaction(NamedTuple):
    """Probabilities of what a shown item leads to, each given the one before."""

    looks: Floats
    clicks: Floats
    carts: Floats
    buys: Floats


def reaction(user: Ints, item: Ints, day: Floats, position: Ints, shop: ShopSize) -> Reaction:
    """What an item at a position (from 1) leads to."""
    wish = tastes.purchase_odds(user, item, day, np.ones_like(position), shop)
    clicks = IDLE + (1 - IDLE) * np.sqrt(wish)
    later = np.sqrt(wish / clicks)
    return Reaction(looks(position), clicks, later, later)


def looks(position: Ints) -> Floats:
    """The probability that a customer looks as far down as a position (from 1)."""
    return np.asarray(1 / np.log2(1.0 + position))


def chosen(user: Ints, item: Ints, shop: ShopSize) -> Floats:
    """The probability that the policy draws an item for a customer, if nothing is shown yet."""
    of_item = tastes.taste_of_item(item, shop)
    guessed = GUESSED * (of_item == _guess(user, shop)) + (1 - GUESSED) / shop.tastes
    return np.asarray(EXPLORED / shop.items + (1 - EXPLORED) * guessed * tastes.popularity(item, shop))


def lists_of(users: Ints, shop: ShopSize) -> Rows:
    """Each shown item of some customers, in the order of lists and positions."""
    drawn = -np.log(uniform(shop, "visits", users)) * shop.orders_per_user * VISITS_PER_ORDER
    visits = np.minimum(drawn.astype(np.int64) + 1, int(20 * shop.orders_per_user * VISITS_PER_ORDER) + 1)
    user, visit = np.repeat(users, visits), positions(visits)
    joined = tastes.joined_day(user, shop)
    into = (visit + uniform(shop, "visit", user, visit)) / np.repeat(visits, visits)
    item_vl, propensity_vl = _slate(user, visit, shop)
    user, visit = np.repeat(user, LIST), np.repeat(visit, LIST)
    day, item = np.repeat(joined + (shop.days - joined) * into, LIST), item_vl.ravel()
    position = np.tile(np.arange(1, LIST + 1), len(item_vl))
    odds, ids = reaction(user, item, day, position, shop), (user, visit, position)
    clicked = uniform(shop, "clicks", *ids) < odds.looks * odds.clicks
    carted = clicked & (uniform(shop, "carts", *ids) < odds.carts)
    bought = carted & (uniform(shop, "pays", *ids) < odds.buys)
    at = tastes.start_s(shop) + (day * DAY_S).astype(np.int64)
    click_at = at + 1 + (uniform(shop, "click delay", *ids) * 60).astype(np.int64)
    cart_at = click_at + 5 + (uniform(shop, "cart delay", *ids) * 600).astype(np.int64)
    buy_at = cart_at + 60 + (-np.log(uniform(shop, "buy delay", *ids)) * DAY_S / 2).astype(np.int64)
    return {
        "user": user,
        "visit": visit,
        "item_id": tastes.shown_number(item, shop),
        "position": position,
        "propensity": propensity_vl.ravel(),
        "shown_time": at,
        "clicked": clicked,
        "click_time": _when(clicked, click_at),
        "cart_time": _when(carted, cart_at),
        "buy_time": _when(bought, buy_at),
        "look_probability": odds.looks,
        "click_probability": odds.looks * odds.clicks,
        "cart_probability": odds.looks * odds.clicks * odds.carts,
        "buy_probability": odds.looks * odds.clicks * odds.carts * odds.buys,
    }


def _slate(user: Ints, visit: Ints, shop: ShopSize) -> tuple[Ints, Floats]:
    """Items and their propensities, as (visits, positions); an item that is shown already is drawn again."""
    item_vl = np.full((len(user), LIST), -1, np.int64)
    propensity_vl, left = np.zeros((len(user), LIST)), np.ones(len(user))
    for place in range(LIST):
        todo, attempt = np.arange(len(user)), 0
        while len(todo):
            item = _draw(user[todo], visit[todo], np.full_like(todo, place * 1_000_000 + attempt), shop)
            is_new = (item_vl[todo, :place] != item[:, None]).all(axis=1)
            item_vl[todo[is_new], place] = item[is_new]
            todo, attempt = todo[~is_new], attempt + 1
        share = chosen(user, item_vl[:, place], shop)
        propensity_vl[:, place] = share / left
        left = left - share
    return item_vl, propensity_vl


def _draw(user: Ints, visit: Ints, attempt: Ints, shop: ShopSize) -> Ints:
    """One draw of the policy."""
    ids = (user, visit, attempt)
    guesses = uniform(shop, "guesses", *ids) < GUESSED
    any_taste = (uniform(shop, "guessed taste", *ids) * shop.tastes).astype(np.int64)
    popular = tastes.by_popularity(np.where(guesses, _guess(user, shop), any_taste), uniform(shop, "shown", *ids), shop)
    any_item = (uniform(shop, "explored item", *ids) * shop.items).astype(np.int64)
    return np.where(uniform(shop, "explores", *ids) < EXPLORED, any_item, popular)


def _guess(user: Ints, shop: ShopSize) -> Ints:
    return tastes.taste_of_user(user, np.zeros_like(user), shop)


def _when(happened: Mask, at: Ints) -> Floats:
    return np.where(happened, at, np.nan)


IMPRESSIONS = Planted(
    name="impressions",
    meaning="an item in a list that a customer was shown",
    fields=(
        Field("list_id", "string", "the list: customer and visit", "L%09d-%04d", ("user", "visit")),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        Field("item_id", "string", "the item", "P%08d"),
        Field("position", "int", "from 1"),
        Field("propensity", "double", "that the policy showed this item here, given what stands above it"),
        Field("shown_time", "timestamp", "when the list was shown"),
        Field("clicked", "boolean", "whether it was clicked"),
        Field("click_time", "timestamp", "when it was clicked; null: it was not"),
        Field("cart_time", "timestamp", "when it was put into the cart; null: it was not"),
        Field("buy_time", "timestamp", "when it was bought; null: it was not"),
    ),
    truth=(
        Field("look_probability", "double", "that a customer looks this far down: the position bias"),
        Field("click_probability", "double", "that it is clicked"),
        Field("cart_probability", "double", "that it is put into the cart"),
        Field("buy_probability", "double", "that it is bought"),
    ),
    units=lambda shop: shop.users,
    rows_per_unit=lambda shop: LIST * VISITS_PER_ORDER * shop.orders_per_user,
    make=lists_of,
)
