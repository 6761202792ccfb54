"""Impressions in the simulated shop: propensities of the draws, clicks by position and taste."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import bayes, impressions, tastes
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=600, items=48, days=120, orders_per_user=6.0, tastes=6, seed=3)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(impressions.IMPRESSIONS.make(np.arange(SHOP.users), SHOP))


@pytest.fixture(scope="module")
def item(rows: dict[str, Any]) -> Any:
    return tastes.item_number(rows["item_id"], SHOP)


def test_a_list_shows_ten_items_once(rows: dict[str, Any], item: Any) -> None:
    lists = item.reshape(-1, impressions.LIST)
    assert all(len(set(shown)) == impressions.LIST for shown in lists)
    assert (rows["position"].reshape(lists.shape) == np.arange(1, 11)).all()
    assert len(np.unique(rows["shown_time"].reshape(lists.shape), axis=1)[0]) == 1


def test_the_policy_is_proper() -> None:
    items = np.arange(SHOP.items)
    for user in range(3):
        assert impressions.chosen(np.full_like(items, user), items, SHOP).sum() == pytest.approx(1)


def test_propensities_are_those_of_the_draws(rows: dict[str, Any], item: Any) -> None:
    """Weighted by one over the propensity, each position counts every item that is not above it once."""
    for position in (1, 4, 10):
        here = rows["position"] == position
        weight = 1 / rows["propensity"][here]
        assert weight.mean() == pytest.approx(SHOP.items - position + 1, rel=0.04)
    first = rows["position"] == 1
    expected = np.zeros(SHOP.items)
    for user, lists in zip(*np.unique(rows["user"][first], return_counts=True), strict=True):
        expected += lists * impressions.chosen(np.full(SHOP.items, user), np.arange(SHOP.items), SHOP)
    counted = np.bincount(item[first], minlength=SHOP.items)
    assert ((counted - expected) ** 2 / expected).sum() / SHOP.items < 1.7


@pytest.mark.parametrize(
    ("time", "probability"), [("click_time", "click_probability"), ("buy_time", "buy_probability")]
)
def test_reactions_follow_their_probability(rows: dict[str, Any], time: str, probability: str) -> None:
    p, happened = rows[probability], ~np.isnan(rows[time])
    assert happened.sum() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum()))
    high = p > np.quantile(p, 0.9)
    assert happened[high].sum() == pytest.approx(p[high].sum(), abs=4 * np.sqrt(p[high].sum()))
    assert bayes.auc(p) > 0.75


def test_one_truth_with_the_feedback(rows: dict[str, Any], item: Any) -> None:
    day = (rows["shown_time"] - tastes.start_s(SHOP)) / 86_400
    odds = tastes.purchase_odds(rows["user"], item, day, rows["position"], SHOP)
    assert rows["buy_probability"] == pytest.approx(odds, abs=1e-4)
    announced = tastes.appeal(item, day, SHOP) == 0
    assert announced.any()
    assert np.isnan(rows["buy_time"][announced]).all()


def test_one_thing_follows_another(rows: dict[str, Any]) -> None:
    chain = [rows[name] for name in ("shown_time", "click_time", "cart_time", "buy_time")]
    for before, after in pairwise(chain):
        happened = ~np.isnan(after)
        assert happened.any()
        assert (after[happened] > before[happened]).all()


def test_position_bias_can_be_weighed_out(rows: dict[str, Any], item: Any) -> None:
    """Clicks by position fall faster than looks, as good items stand above; weighted by propensity they fall alike."""
    clicked, wish = ~np.isnan(rows["click_time"]), rows["click_probability"] / rows["look_probability"]
    by_position = [clicked[rows["position"] == position].mean() for position in range(1, 11)]
    assert by_position[0] > 1.5 * by_position[-1]
    looked = [
        clicked[rows["position"] == position].sum() / wish[rows["position"] == position].sum()
        for position in (1, 3, 10)
    ]
    assert looked == pytest.approx(impressions.looks(np.asarray([1, 3, 10])), rel=0.12)
