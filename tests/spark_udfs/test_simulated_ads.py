"""Advertising of the simulated shop: wins, clicks and orders of the planted odds, late orders, budgets that bind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import ads, bayes, tastes
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=1_500, items=60, days=120, orders_per_user=8.0, tastes=4, seed=3)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(ads.auctions_of(np.arange(SHOP.users), SHOP))


@pytest.fixture(scope="module")
def campaigns() -> dict[str, Any]:
    return dict(ads.campaigns_of(np.arange(ads.CAMPAIGNS.units(SHOP)), SHOP))


def drawn_about(p: Any, happened: Any) -> bool:
    return bool(abs(happened.sum() - p.sum()) <= 4 * np.sqrt((p * (1 - p)).sum()))


def test_wins_follow_the_bid(rows: dict[str, Any]) -> None:
    p, bid = rows["win_probability"], rows["bid"]
    assert 0.3 < rows["won"].mean() < 0.7
    for low, high in ((0, 0.01), (0.01, 0.02), (0.02, 0.05), (0.05, 9)):
        inside = (low <= bid) & (bid < high)
        assert drawn_about(p[inside], rows["won"][inside])
    assert (rows["paid"] == np.where(rows["won"], bid, 0)).all()


def test_clicks_and_orders_follow_their_odds(rows: dict[str, Any]) -> None:
    clicked, ordered = ~np.isnan(rows["click_time"]), ~np.isnan(rows["order_time"])
    assert drawn_about(rows["click_probability"][rows["won"]], clicked[rows["won"]])
    assert drawn_about(rows["order_probability"][clicked], ordered[clicked])
    assert not clicked[~rows["won"]].any()
    assert not ordered[~clicked].any()
    assert bayes.auc(rows["click_probability"]) > 0.65


def test_orders_come_late(rows: dict[str, Any]) -> None:
    ordered = ~np.isnan(rows["order_time"])
    days = (rows["order_time"] - rows["auction_time"])[ordered] / 86_400
    assert days.min() > 0
    assert days.max() < ads.ORDER_WITHIN + 0.01
    assert 1 < days.mean() < 3


def test_auctions_lie_in_their_campaigns_days(rows: dict[str, Any], campaigns: dict[str, Any]) -> None:
    day = rows["auction_time"] // 86_400
    number = rows["campaign_id"]
    assert (campaigns["first_day"][number] <= day).all()
    assert (day <= campaigns["last_day"][number]).all()
    assert (campaigns["first_day"] >= tastes.start_s(SHOP) // 86_400).all()
    assert (campaigns["last_day"] < tastes.start_s(SHOP) // 86_400 + SHOP.days).all()


def test_budgets_bind(rows: dict[str, Any], campaigns: dict[str, Any]) -> None:
    """What the log spent, by campaign, is mostly more than the budget, and of its order."""
    spent = np.bincount(rows["campaign_id"], rows["paid"], minlength=len(campaigns["budget"]))
    over = spent / campaigns["budget"]
    assert 1 < np.median(over) < 6


def test_an_impression_is_worth_about_its_price(rows: dict[str, Any], campaigns: dict[str, Any]) -> None:
    worth = rows["click_probability"] * rows["order_probability"] * campaigns["value"][rows["campaign_id"]]
    assert 0.3 < worth.mean() / np.exp(rows["market_log_mean"]).mean() < 3
