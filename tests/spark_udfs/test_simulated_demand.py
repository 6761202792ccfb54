"""Demand in the simulated shop: counts of the planted law, stock that adds up and hides demand, effects to be found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import bayes, counts, demand, stock, tastes
from spark_udfs.simulated.shop import Shop

SHOP = Shop(items=120, days=400, tastes=6, seed=4)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(demand.PRODUCT_DAYS.make(np.arange(SHOP.items), SHOP))


@pytest.mark.parametrize(("mean", "dispersion"), [(0.3, 0.0), (4.0, 0.0), (4.0, 0.5), (60.0, 0.2)])
def test_counts_have_mean_and_variance(mean: float, dispersion: float) -> None:
    level = (np.arange(40_000) + 0.5) / 40_000
    drawn = counts.quantile(np.full(40_000, mean), np.full(40_000, dispersion), level)
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert drawn.var() == pytest.approx(mean + dispersion * mean**2, rel=0.02)
    assert (np.diff(drawn) >= 0).all()


def test_quantiles_are_poissons() -> None:
    """The probabilities of 0, 1, 2, ... of a mean of 2.5, added up by hand."""
    below = np.cumsum([math.exp(-2.5) * 2.5**number / math.factorial(number) for number in range(10)])
    for number in range(9):
        for level, found in ((below[number] - 1e-9, number), (below[number] + 1e-9, number + 1)):
            assert counts.quantile(np.asarray([2.5]), np.zeros(1), np.asarray([level])) == [found]


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_nothing_expects_less_than_the_true_quantile(dispersion: float) -> None:
    level, mean = 0.8, np.full(20_000, 3.0)
    spread = np.full(20_000, dispersion)
    true = counts.quantile(mean[:1], spread[:1], np.asarray([level]))
    forecasts = np.arange(0, 12.0)
    losses = counts.expected_pinball(mean[:12], spread[:12], forecasts, level)
    assert np.argmin(losses) == true[0]
    drawn = counts.quantile(mean, spread, (np.arange(20_000) + 0.5) / 20_000)
    for forecast in (0.0, 2.0, 5.5):
        told = counts.expected_pinball(mean[:1], spread[:1], np.asarray([forecast]), level)[0]
        short = drawn - forecast
        assert told == pytest.approx(np.maximum(level * short, (level - 1) * short).mean(), rel=0.01)


def test_demand_is_drawn_about_its_mean(rows: dict[str, Any]) -> None:
    mean, asked, spread = rows["demand_mean"], rows["demand"], rows["demand_dispersion"]
    variance = mean + spread * mean**2
    assert asked.sum() == pytest.approx(mean.sum(), abs=4 * np.sqrt(variance.sum()))
    assert ((asked - mean) ** 2 / variance).mean() == pytest.approx(1, abs=0.05)
    for level in (0.1, 0.5, 0.9):
        at = np.full_like(mean, level)
        true = counts.quantile(mean, spread, at)
        assert (asked < true).mean() <= level <= (asked <= true).mean() + 0.01


def test_the_truths_figure_is_the_drawn_one(rows: dict[str, Any]) -> None:
    """And the mean alone, taken for every quantile, is worse."""
    mean, asked, spread = rows["demand_mean"], rows["demand"], rows["demand_dispersion"]

    def drawn(forecast: Any, level: float) -> float:
        short = asked - forecast
        return float(2 * np.maximum(level * short, (level - 1) * short).sum() / asked.sum())

    levels = (0.1, 0.5, 0.9)
    true = np.mean([drawn(counts.quantile(mean, spread, np.full_like(mean, level)), level) for level in levels])
    assert bayes.wql(mean, spread, levels) == pytest.approx(float(true), rel=0.02)
    assert np.mean([drawn(mean, level) for level in levels]) > 1.1 * true


def test_stock_adds_up_and_hides_demand(rows: dict[str, Any]) -> None:
    available = rows["opening_stock"] + rows["delivered"]
    assert (rows["sold"] == np.minimum(rows["demand"], available)).all()
    assert (rows["closing_stock"] == available - rows["sold"]).all()
    same = (np.diff(rows["item_id"]) == 0) & (np.diff(rows["day"]) == 1)
    assert (rows["opening_stock"][1:][same] == rows["closing_stock"][:-1][same]).all()
    hidden = rows["demand"] > rows["sold"]
    assert 0.02 < hidden.mean() < 0.3
    assert (rows["closing_stock"][hidden] == 0).all()


def test_effects_can_be_found(rows: dict[str, Any]) -> None:
    """Sales over the mean without an effect: the effect is left."""
    enough = rows["closing_stock"] > 0
    lift = rows["sold"][enough & rows["promoted"]].mean() / rows["sold"][enough & ~rows["promoted"]].mean()
    assert 1.3 < lift < 2.3
    assert rows["promoted"].mean() == pytest.approx(demand.PROMOTED_SHARE, abs=0.02)
    item = tastes.item_number(rows["item_id"], SHOP)
    for taste in range(SHOP.tastes):
        of_taste = enough & (tastes.taste_of_item(item, SHOP) == taste)
        by_weekday = [rows["sold"][of_taste & ((rows["day"] + 3) % 7 == weekday)].mean() for weekday in range(7)]
        peak = int(tastes.uniform(SHOP, "best weekday", np.asarray([taste]))[0] * 7)
        assert np.argmax(by_weekday) in {(peak + near) % 7 for near in (-1, 0, 1)}


def test_promotions_are_whole_weeks() -> None:
    """2025-01-01 was a Wednesday: day 5 is the first Monday."""
    days, items = np.tile(np.arange(5, 75), 20), np.repeat(np.arange(20), 70)
    weeks = demand.promoted(items, days, SHOP).reshape(-1, 7)
    assert (weeks.all(axis=1) == weeks.any(axis=1)).all()
    assert 0 < weeks.mean() < 0.3


def test_new_products_begin_with_a_delivery(rows: dict[str, Any]) -> None:
    first = np.flatnonzero(np.diff(rows["item_id"], prepend=-1))
    begins = rows["day"][first] - rows["day"].min()
    assert 0.2 < (begins > 0).mean() < 0.6
    assert (rows["opening_stock"][first] == 0).all()
    assert (rows["delivered"][first] > 0).all()


def test_the_stock_is_that_of_the_last_monday(rows: dict[str, Any]) -> None:
    """SHOP has two days after it: what comes on them is what was on its way."""
    last = rows["day"].max()
    monday = last - (last + 3) % 7
    assert last - monday == 2
    held = stock.stock_of(np.arange(SHOP.items), SHOP)
    there = rows["day"] == monday
    opening = dict(zip(rows["item_id"][there], rows["opening_stock"][there], strict=True))
    assert {item: opening[item] for item in held["item_id"] if item in opening} == {
        item: pieces for item, pieces in zip(held["item_id"], held["on_hand"], strict=True) if item in opening
    }
    coming = stock.arrivals_of(np.arange(SHOP.items), SHOP)
    told = dict(zip(zip(coming["item_id"], coming["arrives"] // 86_400, strict=True), coming["quantity"], strict=True))
    late = (rows["day"] >= monday) & (rows["delivered"] > 0) & np.isin(rows["item_id"], held["item_id"])
    delivered = dict(
        zip(zip(rows["item_id"][late], rows["day"][late], strict=True), rows["delivered"][late], strict=True)
    )
    assert {key: pieces for key, pieces in told.items() if key[1] <= last} == delivered != {}
    assert (np.asarray(held["unit_cost"]) < np.asarray(held["price"])).all()
