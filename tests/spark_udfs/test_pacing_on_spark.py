"""What pacing does of rows in Spark: cells as those of arrays, auctions that stop with the money, plans by campaign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs.pacing.auctions import BIDS, played
from spark_udfs.pacing.cells import KEYS, SUMS, Cells, Rule, cells, cells_of
from spark_udfs.pacing.curve import ABOVE, BELOW, KNOWN, shaded
from spark_udfs.pacing.plan import NOTHING_SEEN, SoFar, Terms, plan
from spark_udfs.pacing.planned import planned
from tests.spark_udfs.played_days import Day, cells_of_day

STEPS = 4
SCHEMA = "opportunity_id string, campaign_id string, time double, day int, step int, probability double, value double, price double, bid double, won boolean"  # noqa: E501


def a_day(rows: int = 400) -> Day:
    random = np.random.default_rng(1)
    p = np.exp(np.log(0.02) + 0.8 * random.normal(size=rows))
    price = np.exp(np.log(0.05) + 0.6 * random.normal(size=rows))
    step = np.sort(random.integers(0, STEPS, rows))
    return Day(step, p, p, np.full(rows, 4.0), price, random.random(rows) < p)


def as_rows(spark: SparkSession, day: Day, campaign: str = "A") -> DataFrame:
    rows = [
        (f"{number:05d}", campaign, float(number), 1, int(step), float(p), float(value), float(price), None, None)
        for number, (step, p, value, price) in enumerate(zip(day.step, day.p, day.value, day.price, strict=True))
    ]
    return spark.createDataFrame(rows, SCHEMA)


def collected(frame: DataFrame) -> Cells:
    columns = frame.toPandas()
    return cells_of({name: columns[name].to_numpy() for name in (*KEYS, *SUMS)}, 1)


@pytest.mark.parametrize("rule", ["second", "first"])
def test_cells_are_those_of_the_rows(spark: SparkSession, rule: Rule) -> None:
    day = a_day()
    none = as_rows(spark, Day(*(of[:1] for of in day))).withColumn("probability", F.lit(0.0))
    found, expected = collected(cells(as_rows(spark, day).unionByName(none), rule)), cells_of_day(day, rule)
    for name in KEYS:
        assert (found.keys[name] == expected.keys[name]).all(), name
    for name in SUMS:
        assert found.sums[name] == pytest.approx(expected.sums[name], rel=1e-9), name


def test_unknown_prices_are_told_apart_by_what_was_seen(spark: SparkSession) -> None:
    rows = as_rows(spark, a_day(3)).withColumns(
        {
            "price": F.when(F.col("time") == 0, F.col("price")),
            "bid": F.when(F.col("time") > 0, F.lit(0.05)),
            "won": F.when(F.col("time") > 0, F.col("time") == 1),
        }
    )
    found = collected(cells(rows, "second"))
    assert sorted(found.keys["kind"]) == [KNOWN, BELOW, ABOVE]
    assert found.sums["log_price"][found.keys["kind"] != KNOWN] == pytest.approx([np.log(0.05)] * 2)


@pytest.mark.parametrize("rule", ["second", "first"])
def test_auctions_stop_when_the_money_is_gone(spark: SparkSession, rule: Rule) -> None:
    day, left = a_day(), 2.0
    bids: list[Any] = [("A", 0.8, 0.1, left, -3.0, 0.1, 0.6), ("B", 0.0, 0.0, left, -3.0, 0.1, 0.6)]
    bids.append(("C", 0.8, 0.1, left, None, None, None))
    never = as_rows(spark, Day(*(of[:1] for of in day))).withColumns({"probability": F.lit(0.0), "time": F.lit(-1.0)})
    both = as_rows(spark, day).unionByName(as_rows(spark, day, "B")).unionByName(as_rows(spark, day, "C"))
    both = both.unionByName(never.withColumn("campaign_id", F.lit("D")))
    bids.append(("D", *bids[0][1:]))
    rows = played(both, spark.createDataFrame(bids, BIDS), rule).orderBy("campaign_id", "opportunity_id").toPandas()
    assert not rows["won"][rows["campaign_id"].isin(["B", "D"])].any()
    assert rows["bid"][rows["campaign_id"] == "C"].to_numpy() == pytest.approx(day.p * (day.value * 0.8 + 0.1))
    ours = rows[rows["campaign_id"] == "A"]
    bid = day.p * (day.value * 0.8 + 0.1)
    if rule == "first":
        bid = shaded(bid, -3.0 + 0.1 * np.log(day.p), 0.6)
    assert ours["bid"].to_numpy() == pytest.approx(bid)
    pays = np.where(bid > day.price, day.price if rule == "second" else bid, 0.0)
    won = (bid > day.price) & (np.cumsum(pays) <= left)
    assert (ours["won"].to_numpy() == won).all()
    assert ours["paid"].sum() == pytest.approx((pays * won).sum())
    assert left - ours["price"].max() < ours["paid"].sum() <= left


def test_each_campaign_is_planned_where_its_cells_are(spark: SparkSession) -> None:
    """By the days since it began: the second of two."""
    day = a_day()
    terms = "campaign_id string, budget double, target double, spent double, expected double, actions_so_far double, "
    listed = [("A", 3.0, 2.0, 1.0, 0.9, None, 130.0), ("B", 3.0, None, 0.0, 0.0, None, None)]
    campaigns = spark.createDataFrame(listed, terms + "opportunities_so_far double")
    held = cells(as_rows(spark, day), "second")
    rows = planned(campaigns, held, steps=STEPS, first=1, rule="second", days=2, overall=0.9)
    found = rows.orderBy("campaign_id", F.col("step").asc_nulls_last()).toPandas()
    so_far = SoFar(1, 1.0, 0.9, None, 130.0, 0.9)
    made = plan(cells_of_day(day, "second"), STEPS, "second", Terms(3.0, 2.0), so_far)
    ours, other = found[found["campaign_id"] == "A"], found[found["campaign_id"] == "B"]
    assert ours["step"].tolist()[:-1] == [1, 2, 3]
    assert ours["spend"].to_numpy() == pytest.approx([*made.columns["spend"], made.total["spend"]])
    assert ours["of_value"].to_numpy() == pytest.approx([made.weights.of_value] * STEPS)
    assert ours["reason"].isna().all()
    assert (other["reason"] == NOTHING_SEEN).all()
    assert other["of_value"].tolist() == [0.9] * STEPS
    assert other["roi"].isna().all()
