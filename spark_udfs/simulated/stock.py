"""Stock of the simulated shop: what each product has on the last Monday, what is on its way, and the terms to buy it.

It is the stock that the products' days (demand.py) have: of the morning of the last Monday, before a delivery of that
day. What was ordered before and comes from then on is on its way. Packs, prices and shelves are drawn by hash.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spark_udfs.simulated import demand, tastes
from spark_udfs.simulated.planted import ROWS_PER_CHUNK, Field, Planted, Rows
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, uniform

PACKS = np.array([1, 1, 2, 6, 12])
COST_SHARE = (0.45, 0.75)  # of the price
SHELF_DAYS = (10.0, 40.0)  # of the mean demand
LEAD_WEEKS = 1  # LEAD_DAYS, in whole weeks
DAY_S = 86_400


class _Monday(NamedTuple):
    """The last Monday.

    Attributes:
        day: its number.
        mean: (products,) the day's mean demand.
        opening: (products,) stock in the morning.
        ordered: (products, LEAD_DAYS) what was ordered on the days before it, which has not come.
        there: (products,) whether they were on sale before.
    """

    day: int
    mean: Floats
    opening: Ints
    ordered: Ints
    there: Mask


def stock_of(items: Ints, shop: ShopSize) -> Rows:
    """A row for each product that is sold by then."""
    monday = _at_monday(items, shop)
    low, high = COST_SHARE
    price = np.round(tastes.price(items, shop), 2)
    unit_cost = np.round(price * (low + (high - low) * uniform(shop, "cost share", items)), 2)
    pack = PACKS[(uniform(shop, "pack", items) * len(PACKS)).astype(np.int64)]
    low, high = SHELF_DAYS
    shelf = np.ceil((low + (high - low) * uniform(shop, "shelf", items)) * monday.mean) + 2 * pack
    columns = {
        "item_id": tastes.shown_number(items, shop),
        "on_hand": monday.opening,
        "lead": np.full(len(items), LEAD_WEEKS),
        "pack": pack,
        "shelf": shelf,
        "unit_cost": unit_cost,
        "price": price,
    }
    return {name: values[monday.there] for name, values in columns.items()}


def arrivals_of(items: Ints, shop: ShopSize) -> Rows:
    """A row for each product of which something is on its way."""
    monday = _at_monday(items, shop)
    first = monday.day - monday.ordered.shape[1]
    item, day = np.nonzero((monday.ordered > 0) & monday.there[:, None])
    return {
        "item_id": tastes.shown_number(items, shop)[item],
        "arrives": tastes.start_s(shop) + (first + day + demand.LEAD_DAYS) * DAY_S,
        "quantity": monday.ordered[item, day],
    }


def _at_monday(items: Ints, shop: ShopSize) -> _Monday:
    """What some products have; their days are made block by block."""
    block = max(1, ROWS_PER_CHUNK // shop.days)
    blocks = [_monday_of(items[first : first + block], shop) for first in range(0, len(items), block)]
    return _Monday(blocks[0].day, *(np.concatenate(parts) for parts in list(zip(*blocks, strict=True))[1:]))


def _monday_of(items: Ints, shop: ShopSize) -> _Monday:
    days = np.arange(shop.days)
    means, _, asked = demand.drawn(items, shop)
    opening, _, ordered = demand.stocked(items, means, asked, shop)
    monday = int(days[demand.weekday(days, shop) == 0].max(initial=0))
    before = ordered[:, max(monday - demand.LEAD_DAYS, 0) : monday]
    return _Monday(monday, means[:, monday], opening[:, monday], before, means[:, :monday].any(axis=1))


PRODUCT_STOCK = Planted(
    name="product_stock",
    meaning="what a product has in stock on the morning of the last Monday, and the terms to buy it",
    fields=(
        Field("item_id", "string", "the product", "P%08d"),
        Field("on_hand", "bigint", "pieces, before a delivery of that day"),
        Field("lead", "int", "weeks until an order arrives"),
        Field("pack", "bigint", "pieces of a pack"),
        Field("shelf", "double", "pieces that find a place"),
        Field("unit_cost", "double", "what a piece costs to buy"),
        Field("price", "double", "what it is sold for, without promotion"),
    ),
    truth=(),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: 1.0,
    make=stock_of,
)
PRODUCT_ARRIVALS = Planted(
    name="product_arrivals",
    meaning="pieces of a product that were ordered before the last Monday, and arrive on it or later",
    fields=(
        Field("item_id", "string", "the product", "P%08d"),
        Field("arrives", "timestamp", "the day"),
        Field("quantity", "bigint", "pieces"),
    ),
    truth=(),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: demand.LEAD_DAYS / demand.WEEK,
    make=arrivals_of,
)
