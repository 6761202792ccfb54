"""Orders: the newsvendor's quantity expects the least cost of all, and stock is taken off."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.baselines.panel_classic import poisson_quantiles
from spark_udfs.orders import order_quantity

LEVELS = tuple(np.arange(1, 20) / 20)


@pytest.mark.parametrize(("underage", "overage"), [(1.0, 1.0), (9.0, 1.0), (1.0, 4.0), (99.0, 1.0)])
def test_no_other_order_is_expected_to_cost_less(spark: SparkSession, underage: float, overage: float) -> None:
    quantiles = poisson_quantiles(np.array([12.0]), LEVELS)[0].tolist()
    rows = spark.createDataFrame(
        [(quantiles, 0), (quantiles, 5), (quantiles, 100)], "quantiles array<float>, stock int"
    )
    order = order_quantity(F.col("quantiles"), LEVELS, underage=underage, overage=overage, stock=F.col("stock"))
    ordered, with_five, with_many = (row[0] for row in rows.select(order).collect())
    demand = np.random.default_rng(0).poisson(12, 200_000)
    cost = [np.mean(underage * np.maximum(demand - q, 0) + overage * np.maximum(q - demand, 0)) for q in range(0, 40)]
    ratio = underage / (underage + overage)
    best = int(np.argmin(cost)) if ratio <= LEVELS[-1] else quantiles[-1]  # no level is higher
    assert abs(ordered - best) <= 1
    assert with_five == ordered - 5
    assert with_many == 0


def test_costs_may_be_columns(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [([2.0, 4.0, 10.0], 1.0, 3.0), ([2.0, 4.0, 10.0], 7.0, 3.0)], "q array<float>, u double, o double"
    )
    order = order_quantity(F.col("q"), (0.1, 0.5, 0.9), underage=F.col("u"), overage=F.col("o"))
    assert [row[0] for row in rows.select(order).collect()] == [3, 7]  # 2 + 2 * .15 / .4 = 2.75; 4 + 6 * .2 / .4 = 7
