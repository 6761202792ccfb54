"""Fraud in the simulated shop: labels that follow their probability, come late, and can be foreseen from the past."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.simulated import bayes, fraud
from spark_udfs.simulated.planted import planted
from spark_udfs.simulated.shop import Shop, order_lines

SHOP = Shop(users=4_000, items=200, days=180, orders_per_user=6.0, tastes=6, seed=2)
TABLES = {
    "payments": (fraud.PAYMENTS, "payment_time", fraud.CHARGEBACK_WITHIN),
    "registrations": (fraud.REGISTRATIONS, "registration_time", fraud.REVIEW_WITHIN),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    return {name: dict(table.make(np.arange(SHOP.users), SHOP)) for name, (table, _, _) in TABLES.items()}


def auc(score: Any, label: Any) -> float:
    order = np.sort(score[~label])
    below = np.searchsorted(order, score[label]) + np.searchsorted(order, score[label], side="right")
    return float(below.mean() / 2 / len(order))


@pytest.mark.parametrize(("name", "low", "high"), [("payments", 0.005, 0.03), ("registrations", 0.02, 0.08)])
def test_labels_follow_their_probability(rows: dict[str, dict[str, Any]], name: str, low: float, high: float) -> None:
    p, label = rows[name]["fraud_probability"], rows[name]["fraud"]
    assert low < p.mean() < high
    assert label.sum() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum()))
    likely = p > 0.3
    assert label[likely].mean() == pytest.approx(p[likely].mean(), abs=0.08)
    assert auc(p, label) == pytest.approx(bayes.auc(p), abs=0.03)
    assert bayes.auc(p) > 0.85


@pytest.mark.parametrize("name", TABLES)
def test_labels_come_late(rows: dict[str, dict[str, Any]], name: str) -> None:
    _, time, within = TABLES[name]
    label = rows[name]["fraud"]
    days = (rows[name]["label_time"] - rows[name][time]) / 86_400
    assert days.min() > 2.9
    assert days.max() <= within + 0.001
    assert days[~label].min() > within - 0.001
    assert np.median(days[label]) < within / 2


def test_compromise_comes_and_goes() -> None:
    days = np.arange(0, 1_200, 1.0)
    for kind, share in fraud.COMPROMISED.items():
        held = np.asarray(
            [fraud.compromised(kind, np.full_like(days, entity, np.int64), days, SHOP) for entity in range(500)]
        )
        assert held.mean() == pytest.approx(share * 70 / fraud.PERIOD_DAYS, abs=3 * (share / 5_000) ** 0.5)
        lasting = held.reshape(500, 10, -1).sum(axis=2)
        assert set(np.unique(lasting)) <= {0, *range(39, 102)}


def test_what_was_known_of_an_address_foretells(rows: dict[str, dict[str, Any]]) -> None:
    """The frauds of the last 45 days at the address that were known, as of each registration."""
    one = rows["registrations"]
    address = one["network"] << 16 | one["host"]
    score = np.zeros(len(address))
    for number, (here, now) in enumerate(zip(address, one["registration_time"], strict=True)):
        known = (address == here) & (one["label_time"] <= now) & (one["registration_time"] > now - 45 * 86_400)
        score[number] = (known & one["fraud"]).sum()
    late = one["registration_time"] > np.quantile(one["registration_time"], 0.4)
    assert auc(score[late], one["fraud"][late]) > 0.6


def test_a_payment_is_an_orders(spark: SparkSession) -> None:
    small = Shop(users=40, items=40, days=60, orders_per_user=4.0, tastes=4, seed=7)
    units = spark.range(small.users)
    paid = planted(fraud.PAYMENTS, units, small)
    lines = order_lines(units.withColumnRenamed("id", "user"), small).where("user_id IS NOT NULL")
    ordered = lines.groupBy("order_id", "user_id").agg(F.min("time").alias("time")).where("order_id NOT LIKE 'C%'")
    found = ordered.join(paid, on=["order_id", "user_id"], how="left").toPandas()
    assert found.payment_time.notna().all()
    assert (found.payment_time.dt.strftime("%Y-%m-%d %H:%M:%S") == found.time).mean() > 0.95  # others: dirt
