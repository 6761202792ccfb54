"""Auction days of the simulated shop: actions and prices of the planted odds, budgets and targets that bind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import ad_days
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=6_000, tastes=6, seed=3)


@pytest.fixture(scope="module")
def rows() -> Any:
    return ad_days.opportunities_of(np.arange(SHOP.users), SHOP)


@pytest.fixture(scope="module")
def budgets() -> Any:
    return ad_days.budgets_of(np.arange(ad_days.BUDGETS.units(SHOP)), SHOP)


def test_actions_follow_their_odds(rows: Any) -> None:
    p = rows["probability"]
    for low, high in ((0, 0.02), (0.02, 0.05), (0.05, 1)):
        inside = (low <= p) & (p < high)
        assert abs(rows["acts"][inside].sum() - p[inside].sum()) < 4 * np.sqrt(p[inside].sum())
    assert p.min() > 0
    assert p.max() <= 0.9


def test_prices_lie_about_their_means(rows: Any) -> None:
    far = np.log(rows["price"]) - rows["price_log_mean"]
    assert far.mean() == pytest.approx(0, abs=0.02)
    assert far.std() == pytest.approx(np.hypot(ad_days.CUSTOMER, ad_days.OTHERS), rel=0.02)
    evening = rows["time"] % ad_days.DAY_S >= 18 * 3_600
    assert far[evening].mean() == pytest.approx(far[~evening].mean(), abs=0.02)
    slope = np.polyfit(np.log(rows["probability"]), np.log(rows["price"] / rows["value"]), 1)[0]
    assert slope == pytest.approx(ad_days.P_SLOPE, abs=0.02)


def test_days_are_whole_and_differ(rows: Any) -> None:
    hours = rows["time"] % ad_days.DAY_S // 3_600
    for day in range(ad_days.DAYS):
        assert set(hours[rows["day"] == day]) == set(range(24))
    counts = [np.bincount(rows["campaign_id"][rows["day"] == day]) for day in range(ad_days.DAYS)]
    assert 0.05 < np.std(np.log(counts[0] / counts[1])) < 0.3


def test_budgets_are_shares_of_what_the_full_worth_would_cost(rows: Any, budgets: Any) -> None:
    p, value, price = rows["probability"], rows["value"], rows["price"]
    won = price < p * value
    spent, got = (np.bincount(rows["campaign_id"], of * won) / ad_days.DAYS for of in (price, p))
    share = budgets["budget"] / spent
    target = budgets["target"].to_numpy(zero_copy_only=False)
    assert 0.1 < share.min() < 0.5 < share.max() < 1.2
    assert 0 < np.isnan(target).sum() < len(target)
    below = (target / (spent / got))[~np.isnan(target)]
    assert ((below > 0.45) & (below < 1.05)).all()


def test_others_bid_more_the_more_they_lost() -> None:
    price = np.array([1.0, 2.0])
    assert ad_days.reacted(price, ad_days.USUAL_SHARE) == pytest.approx(price)
    assert (ad_days.reacted(price, 0.9) > price).all()
    assert (ad_days.reacted(price, 0.1) < price).all()
