"""What a campaign added: the planted effect in its intervals, ROI, and arms that give none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.pacing.lift import Arm, arms, lift
from training.errors import DataError

CUSTOMERS, EFFECT, PAID = 2_000, 1.5, 1.0  # each, drawn or not; added to an outcome of 5 on average; a customer's cost


def experiment(seed: int) -> tuple[Arm, Arm]:
    """Customers drawn by chance, 70 of 100: some of them cost twice as much, and bring more."""
    random = np.random.default_rng(seed)
    drawn = random.random(CUSTOMERS) < 0.7
    much = random.random(CUSTOMERS) < 0.5
    spend = np.where(drawn, np.where(much, 1.6, 0.4) * PAID, 0.0)
    outcome = random.gamma(0.5, 10.0, CUSTOMERS) + np.where(drawn, EFFECT + np.where(much, 0.5, -0.5), 0.0)

    def arm(at: np.ndarray) -> Arm:  # type: ignore[type-arg]
        y, paid = outcome[at], spend[at]
        return Arm(at.sum(), y.sum(), (y**2).sum(), paid.sum(), (paid**2).sum(), (y * paid).sum())

    return arm(drawn), arm(~drawn)


def test_the_planted_effect_lies_in_its_intervals() -> None:
    truth = {"each": EFFECT, "relative": EFFECT / 5.0, "roi": EFFECT / PAID - 1}
    found = [lift(*experiment(seed)) for seed in range(300)]
    for name, value in truth.items():
        estimates = [getattr(one, name) for one in found]
        inside = np.mean([one.low <= value <= one.high for one in estimates])
        assert 0.91 < inside < 0.985, name
        spread = np.std([one.value for one in estimates])
        assert np.mean([one.error for one in estimates]) == pytest.approx(spread, rel=0.1), name


def test_totals_are_those_of_all_who_were_drawn() -> None:
    drawn, kept = experiment(0)
    found = lift(drawn, kept)
    assert found.total.value == pytest.approx(drawn.customers * found.each.value)
    assert found.total.error == pytest.approx(drawn.customers * found.each.error)


def test_what_cost_nothing_has_no_roi() -> None:
    drawn, kept = experiment(1)
    assert math.isnan(lift(drawn._replace(spend=0.0, spend_squares=0.0, products=0.0), kept).roi.value)
    assert math.isnan(lift(drawn, kept._replace(outcome=0.0)).relative.value)


def test_arms_are_summed_and_refused(spark: SparkSession) -> None:
    rows = [(True, 3.0, 1.0), (True, 5.0, 2.0), (False, 1.0, 0.0), (False, 2.0, 0.0)]
    schema, columns = "drawn boolean, brought double, paid double", (F.col("drawn"), F.col("brought"), F.col("paid"))
    drawn, kept = arms(spark.createDataFrame(rows, schema), *columns)
    assert drawn == Arm(2, 8, 34, 3, 5, 13)
    assert kept == Arm(2, 3, 5, 0, 0, 0)
    with pytest.raises(DataError, match="two customers at least in each arm; held out of it: 1"):
        arms(spark.createDataFrame(rows[:3], schema), *columns)
    for bad in ((True, None, 1.0), (True, float("nan"), 1.0), (None, 1.0, 1.0)):
        with pytest.raises(DataError, match="for every customer; 1 rows have a null or NaN"):
            arms(spark.createDataFrame([*rows, bad], schema), *columns)
