"""The simulated shop: tastes that can be found, draws that repeat, dirt of the planted shares, true outcomes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.simulated import shop as module
from spark_udfs.simulated import tastes
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=300, items=120, days=120, orders_per_user=8.0, tastes=6, seed=3)


@pytest.fixture(scope="module")
def lines() -> dict[str, Any]:
    return tastes.lines(np.arange(SHOP.users), SHOP)


def test_lines_do_not_depend_on_how_users_are_grouped(lines: dict[str, Any]) -> None:
    parts = [tastes.lines(part, SHOP) for part in (np.arange(200, 300), np.arange(200))]
    for name, whole in lines.items():
        assert np.array_equal(np.concatenate([parts[1][name], parts[0][name]]), whole)
    other = tastes.lines(np.arange(SHOP.users), Shop(users=300, items=120, days=120, seed=4))
    assert len(other["item"]) != len(lines["item"])


def test_lines_lie_in_the_shop(lines: dict[str, Any]) -> None:
    assert lines["day"].min() >= 0
    assert lines["day"].max() <= SHOP.days
    assert set(np.unique(lines["item"])) <= set(range(SHOP.items))
    per_order = len(lines["item"]) / len(np.unique(lines["user"] * 10_000 + lines["order"]))
    assert per_order == pytest.approx(2.6, abs=0.4)
    in_order = np.lexsort((lines["line"], lines["order"], lines["user"]))
    same_user = np.diff(lines["user"][in_order]) == 0
    assert (np.diff(lines["day"][in_order])[same_user] >= 0).all()


def test_nothing_is_sold_before_it_arrives(lines: dict[str, Any]) -> None:
    again_at_worst = tastes.appeal(lines["item"], lines["day"], SHOP)
    assert (again_at_worst > 0).all()


def test_tastes_are_there_and_popularity_does_not_show_them(lines: dict[str, Any]) -> None:
    of_line = tastes.taste_of_item(lines["item"], SHOP)
    ruling = tastes.ruling_taste(lines["user"], lines["day"], SHOP)
    assert 0.6 < np.mean(of_line == ruling) < 0.95
    shares = np.bincount(of_line, minlength=SHOP.tastes) / len(of_line)
    assert shares.max() < 0.4
    phases = {user: len(np.unique(ruling[lines["user"] == user])) for user in range(SHOP.users)}
    assert np.mean([count > 1 for count in phases.values()]) > 0.5


def test_popularity_and_odds_are_proper() -> None:
    items = np.arange(SHOP.items)
    for taste in range(SHOP.tastes):
        assert tastes.popularity(items[items % SHOP.tastes == taste], SHOP).sum() == pytest.approx(1)
    user = np.zeros(SHOP.items, np.int64)
    odds = tastes.purchase_odds(user, items, np.full(SHOP.items, 60.0), np.ones(SHOP.items, np.int64), SHOP)
    assert ((odds >= 0) & (odds < 1)).all()
    ruling = tastes.ruling_taste(np.zeros(1, np.int64), np.full(1, 60.0), SHOP)[0]
    assert odds[items % SHOP.tastes == ruling].mean() > 3 * odds[items % SHOP.tastes != ruling].mean()


@pytest.mark.parametrize("items", [20, 97, 600, 100_000])
def test_item_numbers_are_permuted(items: int) -> None:
    shop = Shop(items=items, seed=5)
    shown = tastes.shown_number(np.arange(items), shop)
    assert np.array_equal(np.sort(shown), np.arange(items))
    assert np.array_equal(tastes.item_number(shown, shop), np.arange(items))


def test_planted_dirt(spark: SparkSession) -> None:
    users = spark.range(SHOP.users).withColumnRenamed("id", "user")
    rows = module.planted_lines(users, SHOP).toPandas()
    again = module.planted_lines(users.repartition(3), SHOP).toPandas()
    assert Counter(map(str, again.itertuples(index=False))) == Counter(map(str, rows.itertuples(index=False)))
    # A duplicate and a cancellation stand twice.
    lines = len(rows) - rows.dirt.isin(module.TWICE).sum() / 2
    for dirt, share in module.DIRT.items():
        count = (rows.dirt == dirt).sum() / (2 if dirt in module.TWICE else 1)
        assert count / lines == pytest.approx(share, abs=0.012), dirt
    raw = list(module.RAW_COLUMNS)
    assert rows[raw].duplicated().sum() >= (rows.dirt == "duplicate").sum() // 2
    back = rows[rows.order_id.str.startswith("C")]
    assert len(back) == (rows.dirt == "cancelled").sum() // 2
    assert (back.quantity.astype(int) < 0).all()
    assert rows[rows.dirt == "no_customer"].user_id.isna().all()
    assert (rows[rows.dirt == "future"].time > "2034").all()
    assert (rows[rows.dirt != "future"].arrival_time >= rows[rows.dirt != "future"].time).all()


@pytest.fixture(scope="module")
def shown(spark: SparkSession) -> DataFrame:
    """Every customer is shown the ten most popular items of the taste that rules them, and an unknown one."""
    users = np.arange(SHOP.users)
    ruling = tastes.ruling_taste(users, np.full(SHOP.users, 120.0), SHOP)
    moment = datetime(2025, 5, 1)
    rows = [
        (f"U{user:09d}", f"P{tastes.shown_number(np.asarray(rank * SHOP.tastes + taste), SHOP):08d}", rank + 1, moment)
        for user, taste in zip(users, ruling, strict=True)
        for rank in range(10)
    ]
    rows += [("U000000001", "P99999999", 1, moment), ("someone", rows[0][1], 1, moment)]
    return spark.createDataFrame(rows, "user_id string, item_id string, rank int, moment timestamp")


def test_outcomes_follow_the_truth(shown: DataFrame) -> None:
    valued = module.true_value(shown, SHOP).toPandas()
    first, again = (module.respond(frame, SHOP).toPandas() for frame in (shown, shown.repartition(3)))
    key = ["user_id", "item_id"]
    first, again = first.sort_values(key, ignore_index=True), again.sort_values(key, ignore_index=True)
    assert first.equals(again)
    bought = first.outcome == "purchased"
    expected = valued.true_value.sum()
    assert bought.sum() == pytest.approx(expected, abs=4 * expected**0.5)
    assert set(first.outcome) == {"ignored", "viewed", "purchased"}
    assert (first.outcome_time.isna() == (first.outcome == "ignored")).all()
    assert (first.outcome_time.dropna() > datetime(2025, 5, 1)).all()
    stranger = valued.user_id.eq("someone") | valued.item_id.eq("P99999999")
    assert (valued[stranger].true_value == 0).all()
    assert list(first.columns) == [*shown.columns, "outcome", "outcome_time"]
