"""What answers must be to be published, and how far they have moved: planted rows, no shop."""

from __future__ import annotations

import math
import re

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.answer_checks import checked, refuse_too_much
from jobs.answer_drift import drift
from jobs.ground import Scored
from jobs.publishing import refuse_unasked
from jobs.settings_sections import ScoringSettings
from jobs.tasks import TASKS
from training.errors import DataError, SettingsError

LISTS = "user_id string, user bigint, rank int, item_id string, item bigint, score float, fallback boolean"
FORECASTS = "series_id string, series bigint, step int, period date, quantiles array<float>, mean double"
CASES = "case_id string, time timestamp, p double, alarm boolean, reasons array<string>"
GOOD = [
    ("u1", 1, 1, "i1", 1, 0.9, False),
    ("u1", 1, 2, "i2", 2, 0.8, False),
    ("u2", 2, 1, "i1", 1, 7.0, True),
    ("u2", 2, 2, "i3", 3, 6.0, False),
]


def found(spark: SparkSession, task: str, rows: DataFrame, keys: list[str], silent: str = "false") -> dict:
    key = TASKS[task].columns.key
    asked = spark.createDataFrame([(one,) for one in keys], f"{key} string").selectExpr("*", f"{silent} AS silent")
    return checked(TASKS[task], Scored(asked, lambda _: rows, lambda _: {}, silent=asked["silent"]), rows)


def test_whole_answers_are_measured(spark: SparkSession) -> None:
    rows = spark.createDataFrame(GOOD, LISTS)
    told = found(spark, "recommend", rows, ["u1", "u2", "u3"], "user_id = 'u3'")
    assert told == {"keys_asked": 3, "keys_answered": 2, "coverage": 2 / 3, "fallback_share": 1 / 4}
    nothing = found(spark, "recommend", rows.limit(0), [])
    assert nothing == {"keys_asked": 0, "keys_answered": 0, "coverage": 1.0, "fallback_share": 0.0}


def test_all_that_is_wrong_is_said_with_counts_and_examples(spark: SparkSession) -> None:
    wrong = [
        ("u3", 3, 1, "i1", 1, None, False),
        ("u3", 3, 2, None, 2, 0.5, False),
        ("u4", 4, 1, "i1", 1, math.nan, False),
        ("u4", 4, 2, "i2", 2, -math.inf, False),
        ("u5", 5, 1, "i1", 1, 0.5, False),
        ("u5", 5, 1, "i2", 2, 0.4, False),
        ("u5", 5, 2, "i2", 2, 0.3, False),
    ]
    rows = spark.createDataFrame([*GOOD, *wrong], LISTS)
    with pytest.raises(DataError) as refused:
        found(spark, "recommend", rows, ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"], "user_id = 'u8'")
    told = str(refused.value)
    for problem in (
        "whole before they are published in 'recommendations': 2 rows have a null among user_id, rank, item_id, score"
        ', as {"user_id":"u3","user":3,"rank":1,"item_id":"i1"}',
        '2 rows have no finite number among score, as {"user_id":"u4"',
        "1 rows have the same user_id and rank as another, as one of 'u5'",
        "1 rows have the same user_id and item_id as another, as one of 'u5'",
        "2 of 8 user_id that were asked have no answer, as 'u6'. Nothing was published",
    ):
        assert re.search(re.escape(problem), told), told


def test_lists_of_numbers_and_tasks_of_one_row_a_key_are_checked_too(spark: SparkSession) -> None:
    steps = [
        ("s", 1, 1, None, [0.1, None], 1.0),
        ("s", 1, 2, None, [0.1, math.nan], 1.0),
        ("s", 1, 2, None, [1.0], 1.0),
    ]
    with pytest.raises(DataError) as refused:
        found(spark, "demand", spark.createDataFrame(steps, FORECASTS), ["s"])
    told = str(refused.value)
    assert "1 rows have a null among series_id, step, quantiles, mean" in told
    assert "1 rows have no finite number among quantiles, mean" in told
    assert "1 rows have the same series_id and step as another" in told
    cases = spark.createDataFrame([("c", None, 0.5, False, [])] * 2, CASES)
    with pytest.raises(DataError, match="'fraud_scores': 1 rows have the same case_id as another, as one of 'c'"):
        found(spark, "fraud", cases, ["c"])


def test_drift_is_the_total_variation_of_tenths(spark: SparkSession) -> None:
    scores = spark.range(1, 101).selectExpr("CAST(id AS double) AS p")
    assert drift(scores, scores, "p") == 0
    assert drift(scores.selectExpr("100D AS p"), scores, "p") == pytest.approx(0.9)
    assert drift(scores.where("p > 20"), scores, "p") == pytest.approx(0.2)
    assert drift(scores, scores.limit(0), "p") is None

    def shown(**times: int) -> DataFrame:
        rows = [(item,) for item, count in times.items() for _ in range(count)]
        return spark.createDataFrame(rows, "item_id string")

    before = shown(a=50, b=30, c=20)
    assert drift(shown(a=25, b=15, c=10, d=50), before, "item_id") == pytest.approx(0.5)
    assert drift(shown(a=5, b=3, c=2), before, "item_id") == pytest.approx(0)


def test_limits_are_held_and_refused_where_there_is_nothing_to_limit() -> None:
    measured, task = {"coverage": 0.75, "fallback_share": 0.25, "drift": 0.5}, TASKS["recommend"]
    refuse_too_much(measured, ScoringSettings(most_fallback=0.25, most_drift=0.5, least_coverage=0.75), task)
    refuse_too_much({"coverage": 1.0}, ScoringSettings(most_drift=0), task)  # nothing lies there yet
    with pytest.raises(DataError, match=r"not the model's must be at most scoring.most_fallback=0.2; it is 0.250"):
        refuse_too_much(measured, ScoringSettings(most_fallback=0.2), task)
    with pytest.raises(DataError, match=r"must be at least scoring.least_coverage=0.8; it is 0.750. Nothing was pub"):
        refuse_too_much(measured, ScoringSettings(least_coverage=0.8), task)
    with pytest.raises(DataError, match=r"have moved .* at most scoring.most_drift=0.1; it is 0.500. Nothing was pub"):
        refuse_too_much(measured, ScoringSettings(most_drift=0.1), task)
    with pytest.raises(SettingsError, match=r"most_fallback must be left out where the task is fraud"):
        refuse_unasked(ScoringSettings(most_fallback=0.5), TASKS["fraud"])
