"""Visits in the simulated shop: streams that say what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import bayes, visits
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=1_500, items=120, days=120, orders_per_user=4.0, tastes=6, seed=6)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    made = dict(visits.STEPS.make(np.arange(SHOP.users), SHOP))
    return made | {"page": np.asarray(made["page"].to_pylist())}


@pytest.fixture(scope="module")
def ends_in_an_order(rows: dict[str, Any]) -> np.ndarray:
    """Of each row whether its visit does."""
    _, visit = np.unique(rows["user"] * 100_000 + rows["visit"], return_inverse=True)
    return np.bincount(visit, rows["page"] == "order")[visit] > 0


def test_orders_follow_their_probability_after_any_number_of_steps(
    rows: dict[str, Any], ends_in_an_order: np.ndarray
) -> None:
    """And more steps say more."""
    aucs = []
    for steps in (1, 4, 10):
        asked = (rows["step"] == steps) & (rows["page"] != "order")
        p, came = rows["buy_probability"][asked], ends_in_an_order[asked]
        for low, high in ((0, 0.1), (0.1, 0.4), (0.4, 1)):
            inside = (low <= p) & (p < high)
            expected, spread = p[inside].sum(), np.sqrt((p * (1 - p))[inside].sum())
            assert came[inside].sum() == pytest.approx(expected, abs=4 * spread)
        aucs.append(bayes.auc(p))
    assert aucs == sorted(aucs)
    assert aucs[-1] > aucs[0] + 0.1


def test_an_order_is_the_last_step_and_times_go_on(rows: dict[str, Any]) -> None:
    last = np.append(rows["step"][1:] == 1, True)
    assert (rows["page"] != "order")[~last].all()
    gaps = np.diff(rows["step_time"])[~last[:-1]]
    assert (gaps > 0).all()
    assert gaps.max() < 1_800  # a visit is one, by any usual limit
    assert (rows["item_id"] >= 0).tolist() == (rows["page"] == "item").tolist()


def test_buyers_come_back_to_a_product(rows: dict[str, Any], ends_in_an_order: np.ndarray) -> None:
    is_item = rows["page"] == "item"
    item, visit, buys = rows["item_id"][is_item], rows["visit"][is_item], ends_in_an_order[is_item]
    again = (item[1:] == item[:-1]) & (visit[1:] == visit[:-1])
    assert again[buys[1:]].mean() > 1.3 * again[~buys[1:]].mean()
