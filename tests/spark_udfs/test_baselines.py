"""Baselines on counts small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.baselines.classic import AlsFactors, fit_als, interactions, popularity_order
from spark_udfs.baselines.fold_in import FoldIn


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


GROUPS = [(user, 100 * (user % 2) + item, 1) for user in range(1, 41) for item in range(1, 9) if (user + item) % 5]


@pytest.fixture(scope="module")
def factors(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> AlsFactors:
    counts = spark.createDataFrame(GROUPS, "user bigint, item bigint, count bigint")
    folder = tmp_path_factory.mktemp("als")
    return fit_als(counts, folder, rank=4, iterations=5, alpha=10.0, regularisation=0.1)


def seen(user: int) -> list[int]:
    return [item for who, item, _ in GROUPS if who == user]


def test_als_finds_the_planted_groups_under_the_same_mask(spark: SparkSession, factors: AlsFactors) -> None:
    asked = queries(spark, (2, seen(2)), (3, seen(3)), (999, []))
    answer = ranks(factors.recommend(asked, k=1, exclude_seen=True))
    assert answer == {2: [3], 3: [102]} or (answer[2][0] in (3, 8) and answer[3][0] in (102, 107))
    everything = ranks(factors.recommend(asked, k=100, exclude_seen=False))
    assert set(everything) == {2, 3}
    assert sorted(everything[2]) == sorted({item for _, item, _ in GROUPS})


def test_als_knows_others_as_if_it_had_learnt_them(spark: SparkSession, factors: AlsFactors) -> None:
    """A user's vector is what the last half iteration solved for: of the same items, the closed form is the same."""
    asked = queries(spark, (502, seen(2)), (503, [*seen(3), 9_999]), (504, [9_999]), (505, []))
    others = FoldIn(factors.items, factors.alpha, factors.regularisation).vectors(asked).collect()
    learnt = {row["user"] + 500: row["vector"] for row in factors.users.collect()}
    assert sorted(row["user"] for row in others) == [502, 503]
    for row in others:
        np.testing.assert_allclose(row["vector"], learnt[row["user"]], rtol=1e-3, atol=1e-4)
    answer = ranks(factors.recommend_to_others(asked, k=1, exclude_seen=True))
    known = ranks(factors.recommend(queries(spark, (2, seen(2)), (3, seen(3))), k=1, exclude_seen=True))
    assert answer == {502: known[2], 503: known[3]}
