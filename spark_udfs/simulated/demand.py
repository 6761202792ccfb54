"""Demand in the simulated shop: what each product would sell on each day, and what it could sell from its stock.

    mean = the product's base x the year's season and the novelty of its kind (tastes.py) x weekday x trend x promotion

Demand is a count about the mean, Poisson for some products and wider for others. Sales are demand as far as stock
lasts: a delivery comes LEAD_DAYS after each weekly review and fills up to what the buyer of the product thinks is
enough, which for some products is not. A product has no rows before it is there. These sales are those of a branch
beside the order lines, not their sums.
"""

from __future__ import annotations

import math

import numpy as np

from spark_udfs.simulated import counts, tastes
from spark_udfs.simulated.draws import normal
from spark_udfs.simulated.planted import Field, Planted, Rows
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, uniform

WEEK = 7
BASE, BASE_SPREAD = 2.0, 0.8  # pieces a day: median, and the log's standard deviation
WEEKDAY_SWING = 0.35  # log of the best weekday over the mean one
TREND_SPREAD = 0.25  # standard deviation of the log growth in a year
PROMOTED_SHARE, DISCOUNT, ELASTICITY = 0.08, 0.2, (1.5, 3.5)
POISSON_SHARE, DISPERSION = 0.3, (0.05, 0.6)
LEAD_DAYS, COVER_DAYS, CARE = 3, 12.0, (0.6, 1.8)  # a careless buyer covers 0.6 of COVER_DAYS
LARGEST_MEAN = 500.0


def mean(item: Ints, day: Ints, shop: ShopSize) -> Floats:
    """The mean demand of products on days; 0 before a product is there."""
    years = day / 365.25
    grown = np.exp(TREND_SPREAD * normal(shop, "trend", item) * years)
    peak = (uniform(shop, "best weekday", tastes.taste_of_item(item, shop)) * WEEK).astype(np.int64)
    of_weekday = np.exp(WEEKDAY_SWING * np.cos(2 * math.pi * (weekday(day, shop) - peak) / WEEK))
    base = BASE * np.exp(BASE_SPREAD * normal(shop, "base", item))
    low, high = ELASTICITY
    elasticity = low + (high - low) * uniform(shop, "elasticity", item)
    promotion = np.where(promoted(item, day, shop), (1 - DISCOUNT) ** -elasticity, 1.0)
    appeal = tastes.appeal(item, day.astype(np.float64), shop)
    return np.asarray(np.minimum(base * grown * of_weekday * promotion * appeal, LARGEST_MEAN))


def dispersion(item: Ints, shop: ShopSize) -> Floats:
    """Of a product's demand: 0 for Poisson."""
    low, high = DISPERSION
    wide = low + (high - low) * uniform(shop, "dispersion", item)
    return np.where(uniform(shop, "poisson", item) < POISSON_SHARE, 0.0, wide)


def promoted(item: Ints, day: Ints, shop: ShopSize) -> Mask:
    """Whether a product is on promotion: whole weeks from Monday on."""
    week = (day - weekday(day, shop) + WEEK) // WEEK
    return uniform(shop, "promotion", item, week) < PROMOTED_SHARE


def days_of(items: Ints, shop: ShopSize) -> Rows:
    """Each day of each product from its first on."""
    item, day = np.repeat(items, shop.days), np.tile(np.arange(shop.days), len(items))
    by_day = drawn(items, shop)
    opening, delivered, _ = stocked(items, by_day[0], by_day[2], shop)
    means, spread, asked = by_day[0].ravel(), by_day[1].ravel(), by_day[2].ravel()
    in_stock = (opening + delivered).ravel()
    sold = np.minimum(asked, in_stock)
    on_promotion = promoted(item, day, shop)
    price = np.round(tastes.price(item, shop) * np.where(on_promotion, 1 - DISCOUNT, 1.0), 2)
    columns = {
        "item_id": tastes.shown_number(item, shop),
        "day": tastes.start_s(shop) // 86_400 + day,
        "price": price,
        "promoted": on_promotion,
        "opening_stock": opening.ravel(),
        "delivered": delivered.ravel(),
        "sold": sold,
        "closing_stock": in_stock - sold,
        "demand": asked,
        "demand_mean": means,
        "demand_dispersion": spread,
    }
    there = means > 0
    return {name: values[there] for name, values in columns.items()}


def drawn(items: Ints, shop: ShopSize) -> tuple[Floats, Floats, Ints]:
    """Of each day of each product, as (products, days), the mean demand, its dispersion, and what was asked for."""
    item, day = np.repeat(items, shop.days), np.tile(np.arange(shop.days), len(items))
    means, spread = mean(item, day, shop), dispersion(item, shop)
    asked = counts.quantile(means, spread, uniform(shop, "demand", item, day))
    by_day = (len(items), shop.days)
    return means.reshape(by_day), spread.reshape(by_day), asked.reshape(by_day)


def stocked(items: Ints, mean_pd: Floats, asked_pd: Ints, shop: ShopSize) -> tuple[Ints, Ints, Ints]:
    """Stock at opening, what is delivered before it sells, and what is ordered in the evening for LEAD_DAYS later, as
    (products, days); a product begins with a delivery."""
    low, high = CARE
    cover = COVER_DAYS * (low + (high - low) * uniform(shop, "care", items))
    review = (uniform(shop, "review", items) * WEEK).astype(np.int64)
    opening, delivered, ordered = (np.zeros_like(asked_pd) for _ in range(3))
    stock, coming = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
    for day in range(shop.days):
        begins = (mean_pd[:, day] > 0) & (mean_pd[:, max(day - 1, 0)] == 0 if day else True)
        target = np.ceil(cover * mean_pd[:, day]).astype(np.int64)
        opening[:, day] = stock
        delivered[:, day] = np.where(begins, target, np.where((day - review) % WEEK == LEAD_DAYS, coming, 0))
        stock = stock + delivered[:, day]
        stock = stock - np.minimum(stock, asked_pd[:, day])
        ordered[:, day] = np.where((day - review) % WEEK == 0, np.maximum(target - stock, 0), 0)
        coming = np.where((day - review) % WEEK == 0, ordered[:, day], coming)
    return opening, delivered, ordered


def weekday(day: Ints, shop: ShopSize) -> Ints:
    """0 is Monday; 1970-01-01 was a Thursday."""
    return (tastes.start_s(shop) // 86_400 + day + 3) % WEEK


PRODUCT_DAYS = Planted(
    name="product_days",
    meaning="a product on a day",
    fields=(
        Field("item_id", "string", "the product", "P%08d"),
        Field("day", "date", "the day"),
        Field("price", "double", "of a piece on that day"),
        Field("promoted", "boolean", "on promotion; known a week before"),
        Field("opening_stock", "bigint", "pieces in the morning, before the delivery"),
        Field("delivered", "bigint", "pieces that came before the first sale"),
        Field("sold", "bigint", "pieces: demand as far as stock lasts"),
        Field("closing_stock", "bigint", "pieces in the evening; 0: demand may have been larger than what was sold"),
    ),
    truth=(
        Field("demand", "bigint", "pieces that were asked for"),
        Field("demand_mean", "double", "the mean that demand was drawn about"),
        Field("demand_dispersion", "double", "its variance is mean + dispersion * mean ** 2; 0: Poisson"),
    ),
    units=lambda shop: shop.items,
    rows_per_unit=lambda shop: float(shop.days),
    make=days_of,
)
