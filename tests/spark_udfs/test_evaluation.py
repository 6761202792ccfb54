"""Judging ranked rows: values worked out by hand, intervals against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.bootstrap import poisson_weights
from spark_udfs.evaluation import diversity, judge, padded, popularity_deciles, spread
from spark_udfs.top_k import Lists

RANKED = "model string, user bigint, rank int, item bigint"
TRUTH = "user bigint, truth array<bigint>"


def ranked(spark: SparkSession, **lists: dict[int, list[int]]) -> DataFrame:
    rows = [
        (model, user, rank, item)
        for model, users in lists.items()
        for user, items in users.items()
        for rank, item in enumerate(items, start=1)
    ]
    return spark.createDataFrame(rows, RANKED)


def test_values_are_means_over_all_users(spark: SparkSession) -> None:
    answers = ranked(spark, good={1: [5, 6], 2: [8, 7]}, poor={1: [9, 5]})
    truth = spark.createDataFrame([(1, [5, 6]), (2, [7]), (3, [1])], TRUTH)  # nobody answers user 3
    judged = judge(answers, truth, ks=(1, 2), resamples=100)
    good, poor = (dict(zip(judged[name].names, judged[name].values, strict=True)) for name in ("good", "poor"))
    assert judged["poor"].users == judged["good"].users == 3
    assert good["recall_at_1"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert good["recall_at_2"] == pytest.approx((1 + 1 + 0) / 3)
    assert good["hit_rate_at_2"] == pytest.approx(2 / 3)
    assert good["mrr_at_2"] == pytest.approx((1 + 0.5) / 3)
    assert good["ndcg_at_2"] == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert good["map_at_2"] == pytest.approx((1 + 0.5) / 3)
    assert poor["recall_at_2"] == pytest.approx(0.5 / 3)


def test_values_agree_with_trainings_metrics_and_intervals_with_theory(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    users = 400
    lists = {user: rng.choice(50, 5, replace=False).tolist() for user in range(users)}
    truth = spark.createDataFrame([(user, [1, 2, 3]) for user in range(users)], TRUTH)
    judged = judge(ranked(spark, m=lists), truth, ks=(5,), resamples=1_000)["m"]
    hits = np.array([len({1, 2, 3} & set(items)) / 3 for items in lists.values()])
    recall = judged.intervals()["recall_at_5"]
    assert recall["value"] == pytest.approx(hits.mean())
    half = 1.96 * hits.std() / math.sqrt(users)
    assert recall["low"] == pytest.approx(hits.mean() - half, abs=0.2 * half)
    assert recall["high"] == pytest.approx(hits.mean() + half, abs=0.2 * half)


def test_differences_are_paired(spark: SparkSession) -> None:
    """Models that differ by one user's hit differ by a little, always in one direction."""
    lists = {user: [1 if user % 2 else 2] for user in range(200)}
    better = lists | {user: [1] for user in range(0, 20, 2)}
    truth = spark.createDataFrame([(user, [1]) for user in range(200)], TRUTH)
    judged = judge(ranked(spark, a=better, b=lists), truth, ks=(1,), resamples=500)
    difference = judged["a"].minus(judged["b"])["recall_at_1"]
    assert difference["value"] == pytest.approx(10 / 200)
    assert 0 < difference["low"] < 0.05 < difference["high"] < 0.1
    assert judged["a"].minus(judged["a"])["recall_at_1"] == {"value": 0, "low": 0, "high": 0}


def test_resamples_draw_poisson_counts_by_hash() -> None:
    weights = poisson_weights(np.arange(2_000), 500, seed=1)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.01)
    assert np.corrcoef(weights[:, :20].T)[np.triu_indices(20, 1)].max() < 0.12
    assert np.corrcoef(weights[:20])[np.triu_indices(20, 1)].max() < 0.2
    np.testing.assert_array_equal(poisson_weights(np.array([7, 3]), 500, seed=1), weights[[7, 3]])
    assert (poisson_weights(np.arange(50), 500, seed=2) != weights[:50]).any()


def test_lists_are_padded_and_cut() -> None:
    lists = Lists(np.array([4, 5, 6, 9]), np.array([0, 3, 3, 4]))
    assert padded(lists, 2).tolist() == [[4, 5], [-1, -1], [9, -1]]


def test_coverage_novelty_and_gini(spark: SparkSession) -> None:
    catalogue = spark.createDataFrame([(1, 4), (2, 2), (3, 1), (4, 0)], "item bigint, count bigint")
    answers = ranked(spark, narrow={1: [1, 2], 2: [1, 2]}, wide={1: [3, 4], 2: [2, 1]})
    found = spread(answers, catalogue, ks=(1, 2))
    share = {item: (count + 1) / 11 for item, count in ((1, 4), (2, 2), (3, 1), (4, 0))}
    assert found["narrow"]["coverage_at_1"] == {"value": 0.25}
    assert found["wide"]["coverage_at_2"] == {"value": 1.0}
    assert found["narrow"]["novelty_at_1"]["value"] == pytest.approx(-math.log2(share[1]))
    assert found["wide"]["novelty_at_2"]["value"] == pytest.approx(-sum(map(math.log2, share.values())) / 4)
    assert found["narrow"]["gini_at_1"]["value"] == pytest.approx(0.75)  # one of four items is all
    assert found["narrow"]["gini_at_2"]["value"] == pytest.approx(0.5)
    assert found["wide"]["gini_at_2"]["value"] == pytest.approx(0)
    assert found["wide"]["gini_at_1"]["value"] == pytest.approx(0.5)


def test_gini_coefficient_is_that_of_all_pairs_of_items(spark: SparkSession) -> None:
    times = [0, 0, 1, 1, 3, 7]
    catalogue = spark.createDataFrame([(item, 1) for item in range(1, 7)], "item bigint, count bigint")
    rows = [("m", user, 1, item) for item, often in enumerate(times, 1) for user in range(often)]
    found = spread(spark.createDataFrame(rows, RANKED), catalogue, ks=(1,))
    pairs = sum(abs(a - b) for a in times for b in times)
    assert found["m"]["gini_at_1"]["value"] == pytest.approx(pairs / (2 * len(times) * sum(times)))


def test_diversity_is_the_share_of_pairs_of_two_groups(spark: SparkSession) -> None:
    groups = spark.createDataFrame([(1, "a"), (2, "a"), (3, "b")], "item bigint, group string")
    answers = ranked(spark, mixed={1: [1, 3, 2], 2: [3, 4, 1]}, alike={1: [1, 2], 2: [4, 5]}, none={1: [4]})
    found = diversity(answers, groups, ks=(1, 2, 3))
    assert found["mixed"] == {
        "diversity_at_2": {"value": 1.0},
        "diversity_at_3": {"value": pytest.approx((2 / 3 + 1) / 2)},
    }
    assert found["alike"] == {"diversity_at_2": {"value": 0.0}, "diversity_at_3": {"value": 0.0}}
    assert found.get("none", {}) == {}


def test_deciles_go_from_the_most_popular_tenth(spark: SparkSession) -> None:
    catalogue = spark.createDataFrame([(item, 100 - item) for item in range(1, 21)], "item bigint, count bigint")
    rows = spark.createDataFrame([("a", 1), ("a", 2), ("a", 20), ("b", 3)], "source string, item bigint")
    assert popularity_deciles(rows, catalogue) == {"a": [2, *[0] * 8, 1], "b": [0, 1, *[0] * 8]}
