"""Attribution, worked out by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs.outcomes import attribute, check, from_events, unmatched
from training.errors import SchemaError

SHOWN_AT = datetime(2025, 3, 1, 12)
LATER = SHOWN_AT + timedelta(days=7)
SHOWN = "user_id string, item_id string, rank int, bundle string, shown_at timestamp"
OUTCOMES = "user_id string, item_id string, outcome string, outcome_time timestamp, bundle string"


def at(days: float) -> datetime:
    return SHOWN_AT + timedelta(days=days)


@pytest.fixture
def shown(spark: SparkSession) -> DataFrame:
    rows = [
        ("u", "a", 1, "b1", SHOWN_AT),
        ("u", "c", 2, "b1", SHOWN_AT),
        ("v", "a", 1, "b1", SHOWN_AT),
        ("u", "a", 1, "b2", LATER),
    ]
    return spark.createDataFrame(rows, SHOWN)


def happened(spark: SparkSession, *rows: tuple[Any, ...]) -> DataFrame:
    return spark.createDataFrame([(*row, None)[:5] for row in rows], OUTCOMES)


def answers(df: DataFrame) -> dict[tuple[str, str, str], tuple[str, Any]]:
    return {(r["user_id"], r["item_id"], r["bundle"]): (r["outcome"], r["outcome_time"]) for r in df.collect()}


def test_last_touch_and_the_strongest_outcome_win(spark: SparkSession, shown: DataFrame) -> None:
    outcomes = happened(
        spark,
        ("u", "a", "viewed", at(1)),
        ("u", "a", "purchased", at(6)),  # the second was still to come
        ("u", "a", "purchased", at(9)),  # both showings qualify: the latest has it
        ("u", "a", "purchased", at(8)),
        ("u", "c", "viewed", at(2)),
    )
    feedback = attribute(shown, outcomes, window_days=14)
    assert feedback.columns == ["user_id", "item_id", "rank", "bundle", "shown_at", "outcome", "outcome_time"]
    assert answers(feedback) == {
        ("u", "a", "b1"): ("purchased", at(6)),
        ("u", "a", "b2"): ("purchased", at(8)),
        ("u", "c", "b1"): ("viewed", at(2)),
        ("v", "a", "b1"): ("ignored", None),
    }


def test_the_window_holds_its_start_and_not_its_end(spark: SparkSession, shown: DataFrame) -> None:
    first = shown.where("bundle = 'b1'")
    outcomes = happened(spark, ("u", "a", "purchased", at(0)), ("u", "c", "purchased", at(14)))
    assert answers(attribute(first, outcomes, window_days=14)) == {
        ("u", "a", "b1"): ("purchased", at(0)),
        ("u", "c", "b1"): ("ignored", None),
        ("v", "a", "b1"): ("ignored", None),
    }


def test_an_outcome_may_name_its_bundle(spark: SparkSession, shown: DataFrame) -> None:
    outcomes = happened(spark, ("u", "a", "purchased", at(8), "b2"))
    found = answers(attribute(shown, outcomes, window_days=14))
    assert found["u", "a", "b2"] == ("purchased", at(8))
    assert found["u", "a", "b1"] == ("ignored", None)


def test_of_two_bundles_at_once_the_better_rank_has_it_and_none_is_favoured(spark: SparkSession) -> None:
    ranked = [("u", "a", 5, "b1", SHOWN_AT), ("u", "a", 2, "b2", SHOWN_AT)]
    ties = [(f"u{n}", "a", 1, bundle, SHOWN_AT) for n in range(60) for bundle in ("b1", "b2")]
    shown = spark.createDataFrame([*ranked, *ties], SHOWN)
    outcomes = happened(spark, *((row[0], "a", "purchased", at(1)) for row in [*ranked[:1], *ties[::2]]))
    found = answers(attribute(shown, outcomes, window_days=14))
    assert found["u", "a", "b2"] == ("purchased", at(1))
    credited = [bundle for (user, _, bundle), (outcome, _) in found.items() if outcome == "purchased" and user != "u"]
    assert len(credited) == 60
    assert 15 < credited.count("b1") < 45


def test_what_was_never_shown_is_counted(spark: SparkSession, shown: DataFrame) -> None:
    outcomes = happened(
        spark,
        ("u", "a", "viewed", at(1)),
        ("u", "a", "viewed", at(1)),  # said twice
        ("u", "z", "purchased", at(1)),
        ("v", "a", "purchased", at(15)),
        ("v", "a", "ignored", at(1)),
    )
    assert unmatched(shown, outcomes, window_days=14) == 2


def test_bad_rows_are_set_aside_with_a_reason(spark: SparkSession, shown: DataFrame) -> None:
    outcomes = happened(
        spark,
        (None, "a", "purchased", at(1)),
        ("u", "a", "purchased", None),
        ("u", "a", "ignored", None),
        ("u", "a", "liked", at(1)),
        ("u", "a", None, at(2)),
        ("u", "a", "purchased", at(1), "b9"),
        ("u", "c", "viewed", at(-1)),
        ("u", "a", "purchased", at(1), "b1"),
        ("u", "z", "purchased", at(-1)),  # never shown, so not before its showing
    )
    checked = check(outcomes, shown, shown)
    reasons = sorted(row["reason"] for row in checked.bad.collect())
    assert reasons == [
        "null key",
        "null time",
        "outcome before shown",
        "unknown bundle",
        "unknown outcome",
        "unknown outcome",
    ]
    assert {(row["user_id"], row["item_id"]) for row in checked.good.collect()} == {("u", "a"), ("u", "z")}
    assert checked.good.count() == 3


def test_outcomes_of_other_columns_are_refused(spark: SparkSession, shown: DataFrame) -> None:
    wrong = spark.createDataFrame([("u", "a", 1)], "user_id string, item_id string, outcome int")
    with pytest.raises(SchemaError, match="'outcome' must be string, it is int; column 'outcome_time' must"):
        check(wrong, shown, shown)


def test_events_become_outcomes(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [
            ("u", "a", "purchase", at(1)),
            ("u", "a", "view", at(0)),
            ("u", "a", "return", at(2)),
            (None, "a", "purchase", at(1)),
            ("u", "a", "purchase", at(-1)),
            ("u", "a", "purchase", at(14)),
        ],
        "user_id string, item_id string, kind string, time timestamp",
    )
    found = {
        (row["outcome"], row["outcome_time"])
        for row in from_events(events, start=F.lit(SHOWN_AT), end=F.lit(at(14))).collect()
    }
    assert found == {("purchased", at(1)), ("viewed", at(0))}
