"""The simulated shop's own forecasts: quantiles that sums of the planted demand keep."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.periods import Form
from spark_udfs.simulated import counts, demand, demand_truth
from spark_udfs.simulated.planted import planted
from spark_udfs.simulated.shop import Shop

LEVELS = [0.1, 0.5, 0.9]
SHOP = Shop(items=12, days=21, tastes=3)


def test_quantiles_are_those_of_sums_of_planted_counts() -> None:
    daily, spread = np.array([0.3, 2.0, 9.0]), np.array([0.0, 0.6, 0.2])
    rng = np.random.default_rng(0)
    level = rng.random(4_000 * 7 * 3)
    drawn = counts.quantile(np.tile(daily, 28_000), np.tile(spread, 28_000), level).reshape(4_000, 7, 3).sum(axis=1)
    found = demand_truth.quantiles(7 * daily, 7 * (daily + spread * daily**2), LEVELS)
    assert np.abs(found - np.quantile(drawn, LEVELS, axis=0).T).max() <= 2
    large = demand_truth.quantiles(np.array([490.0, 2_000.0]), np.array([900.0, 3_000.0]), LEVELS)
    assert np.allclose(large, [[452, 490, 529], [1_930, 2_000, 2_071]], atol=2)


def test_forecasts_are_the_planted_means_of_each_period(spark: SparkSession) -> None:
    days = planted(demand.PRODUCT_DAYS, spark.range(SHOP.items), SHOP, truth=True).persist()
    origin = datetime(2025, 1, 20, tzinfo=UTC)
    named = days.select(F.col("item_id").alias("series_id")).distinct()
    asked = named.select(F.xxhash64("series_id").alias("series"), "series_id", F.lit(origin).alias("time"))
    found = demand_truth.true_forecasts(asked, days, Form("week", horizon=4, lags=8), LEVELS).collect()
    assert len(found) == asked.count()
    week = F.floor(F.datediff("day", F.lit("2025-01-20")) / 7)
    sums = days.groupBy(F.xxhash64("item_id").alias("series"), week.alias("step")).agg(F.sum("demand_mean"))
    wanted = {(row[0], row[1]): row[2] for row in sums.collect()}
    for row in found:
        assert len(row["quantiles"]) == 4 * len(LEVELS)
        expected = [wanted.get((row["series"], step), 0.0) for step in range(4)]
        assert np.allclose(row["mean"], expected, rtol=1e-5)
        assert row["mean"][3] == 0  # no day of that week was made
    days.unpersist()
