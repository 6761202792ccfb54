"""Baselines on counts small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.baselines.classic import fit_als, interactions, popularity_order


@pytest.fixture(scope="module")
def catalogue(spark: SparkSession) -> DataFrame:
    rows = [(10, 2, 2), (11, 3, 0), (12, 2, 5), (13, 0, None)]
    return spark.createDataFrame(rows, "item bigint, user_count bigint, recent_count bigint")


def queries(spark: SparkSession, *rows: tuple[int, list[int]]) -> DataFrame:
    return spark.createDataFrame(list(rows), "user bigint, seen array<bigint>")


def ranks(df: DataFrame) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in df.orderBy("user", "rank").collect():
        found.setdefault(row["user"], []).append(row["item"])
    return found


def test_interactions_count_lines(spark: SparkSession) -> None:
    lines = spark.createDataFrame([(1, 7), (1, 7), (2, 7)], "user bigint, item bigint")
    assert sorted(tuple(row) for row in interactions(lines).collect()) == [(1, 7, 2), (2, 7, 1)]


def test_popularity_orders_by_its_column_then_index(catalogue: DataFrame) -> None:
    orders = [popularity_order(catalogue, by, 9) for by in ("user_count", "recent_count")]
    assert [order.first.tolist() for order in orders] == [[11, 10, 12, 13], [12, 10, 11, 13]]
    cut = popularity_order(catalogue.repartition(3), "user_count", 2)
    assert (cut.first.tolist(), cut.items) == ([11, 10], 4)
    none = popularity_order(catalogue.where("item < 0"), "user_count", 2)
    assert (none.first.tolist(), none.items) == ([], 0)


def test_als_finds_the_planted_groups_under_the_same_mask(spark: SparkSession, tmp_path: Path) -> None:
    groups = [(user, 100 * (user % 2) + item, 1) for user in range(1, 41) for item in range(1, 9) if (user + item) % 5]
    counts = spark.createDataFrame(groups, "user bigint, item bigint, count bigint")
    factors = fit_als(counts, tmp_path, rank=4, iterations=5, alpha=10.0, regularisation=0.1)
    seen = {user: [item for who, item, _ in groups if who == user] for user in (2, 3)}
    asked = queries(spark, (2, seen[2]), (3, seen[3]), (999, []))
    answer = ranks(factors.recommend(asked, k=1, exclude_seen=True))
    assert answer == {2: [3], 3: [102]} or (answer[2][0] in (3, 8) and answer[3][0] in (102, 107))
    everything = ranks(factors.recommend(asked, k=100, exclude_seen=False))
    assert set(everything) == {2, 3}
    assert sorted(everything[2]) == sorted({item for _, item, _ in groups})
