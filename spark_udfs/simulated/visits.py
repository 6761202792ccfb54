"""Visits in the simulated shop: click streams, some of which end in an order.

Whether a visit is to end in one is drawn first, by the customer's temper. Then come its steps, whose number says
nothing: pages of a kind, after a time, on products that are looked at once more or for the first time; buyers and
others have different odds of each. So a stream says how likely an order is, by a sum of known log odds, step by step,
and nobody who sees no more than it and the customer can do better.
"""

from __future__ import annotations

import numpy as np

from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import normal, sigmoid
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, positions, uniform

DAY_S = 86_400
VISITS_PER_ORDER = 2.0
BASE, TEMPER = -2.4, 0.7  # log odds of an order, and what a standard deviation adds
STEPS_MEAN, MOST_STEPS = 8.0, 60  # of a visit, without the order

PAGES = ("home", "list", "search", "item", "review", "cart", "help", "order")
ITEM, ORDER = PAGES.index("item"), PAGES.index("order")
ODDS = {  # of a page's kind, of the time before it (mean, s), and of a product that was looked at before
    True: (np.asarray([0.07, 0.17, 0.15, 0.36, 0.11, 0.12, 0.02]), 42.0, 0.45),
    False: (np.asarray([0.13, 0.26, 0.16, 0.33, 0.06, 0.04, 0.02]), 32.0, 0.25),
}


def steps_of(users: Ints, shop: ShopSize) -> Rows:
    """The steps of some customers' visits, in their order."""
    drawn = -np.log(uniform(shop, "stream visits", users)) * shop.orders_per_user * VISITS_PER_ORDER
    visits = np.minimum(drawn.astype(np.int64) + 1, int(20 * shop.orders_per_user * VISITS_PER_ORDER) + 1)
    user, visit = np.repeat(users, visits), positions(visits)
    joined = tastes.joined_day(user, shop)
    into = (visit + uniform(shop, "stream visit", user, visit)) / np.repeat(visits, visits)
    begins = tastes.start_s(shop) + (joined + (shop.days - joined) * into) * DAY_S
    prior = BASE + TEMPER * normal(shop, "stream temper", user)
    buys = uniform(shop, "stream buys", user, visit) < sigmoid(prior)
    more = -np.log(uniform(shop, "stream steps", user, visit)) * (STEPS_MEAN - 1)
    count = 1 + np.minimum(more.astype(np.int64), MOST_STEPS - 1)
    rows = count + buys
    of_visit, place = np.repeat(np.arange(len(user)), rows), positions(rows)
    ids, want, is_order = (user[of_visit], visit[of_visit], place), buys[of_visit], place == count[of_visit]
    page, of_page = _pages(ids, want, shop)
    page = np.where(is_order, ORDER, page)
    gap, of_gap = _gaps(ids, want, shop)
    item, of_item = _items(ids, want, page == ITEM, shop)
    told = np.where(is_order, 0.0, of_page + np.where(place > 0, of_gap, 0.0) + of_item)
    first = (np.cumsum(rows) - rows)[of_visit]
    return {
        "user": ids[0],
        "visit": ids[1],
        "step": place + 1,
        "step_time": begins[of_visit] + _within(np.where(place > 0, gap, 0.0), first),
        "page": words(PAGES, page),
        "item_id": np.where(page == ITEM, tastes.shown_number(item, shop), -1),
        "buy_probability": np.where(is_order, 0.0, sigmoid(prior[of_visit] + _within(told, first))),
    }


def _within(values: Floats, first: Ints) -> Floats:
    """Sums up to each row from its visit's first row on, of whole millionths: the same whatever rows stand before."""
    whole = np.round(values * 1e6).astype(np.int64)
    sums = np.cumsum(whole)
    return np.asarray((sums - sums[first] + whole[first]) / 1e6)


def _pages(ids: tuple[Ints, ...], want: tastes.Mask, shop: ShopSize) -> tuple[Ints, Floats]:
    """The kind of each step's page, and what it says for an order."""
    drawn = uniform(shop, "stream page", *ids)
    shares = {of: ODDS[of][0] for of in (True, False)}
    found = {of: np.minimum(np.searchsorted(np.cumsum(own), drawn), len(own) - 1) for of, own in shares.items()}
    page = np.where(want, found[True], found[False])
    return page, np.log(shares[True] / shares[False])[page]


def _gaps(ids: tuple[Ints, ...], want: tastes.Mask, shop: ShopSize) -> tuple[Floats, Floats]:
    """Seconds before each step, exponential, and what they say for an order."""
    buyers, others = ODDS[True][1], ODDS[False][1]
    gap = -np.log(uniform(shop, "stream gap", *ids)) * np.where(want, buyers, others)
    return gap, np.log(others / buyers) + gap * (1 / others - 1 / buyers)


def _items(ids: tuple[Ints, ...], want: tastes.Mask, is_item: tastes.Mask, shop: ShopSize) -> tuple[Ints, Floats]:
    """The product of each step to one, and what its being the one before says for an order."""
    again_of = {of: ODDS[of][2] for of in (True, False)}
    row, starts = np.arange(len(is_item)), ids[2] == 0
    first = np.maximum.accumulate(np.where(starts, row, 0))
    seen = np.cumsum(is_item)
    has_before = is_item & (seen - is_item > seen[first] - is_item[first])
    share = np.where(want, again_of[True], again_of[False])
    again = has_before & (uniform(shop, "stream again", *ids) < share)
    taste = tastes.taste_of_user(ids[0], np.zeros_like(ids[0]), shop)
    drawn = tastes.by_popularity(taste, uniform(shop, "stream item", *ids), shop)
    source = np.maximum.accumulate(np.where(is_item & ~again, row, 0))
    says = np.where(
        again,
        np.log(again_of[True] / again_of[False]),
        np.log((1 - again_of[True]) / (1 - again_of[False])),
    )
    return drawn[source], np.where(has_before, says, 0.0)


STEPS = Planted(
    name="steps",
    meaning="a step of a visit: a page that a customer opened, or an order",
    fields=(
        Field("session_id", "string", "the visit: customer and number", "V%09d-%04d", ("user", "visit")),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        Field("step", "int", "from 1"),
        Field("step_time", "timestamp", "when"),
        Field(
            "page", "string", "its kind: home, list, search, item, review, cart, help; order is a purchase, the last"
        ),
        Field("item_id", "string", "the product of a page of the kind item; null: of another", "P%08d"),
    ),
    truth=(Field("buy_probability", "double", "of an order in this visit, given the customer and the steps so far"),),
    units=lambda shop: shop.users,
    rows_per_unit=lambda shop: STEPS_MEAN * VISITS_PER_ORDER * shop.orders_per_user,
    make=steps_of,
)
