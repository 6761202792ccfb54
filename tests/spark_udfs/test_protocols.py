"""Protocols: which of a user's interactions are learned from, chosen by and asked for."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import protocols

Row = tuple[str, str, float | None, int]
TEST = protocols.TEST.replace(tzinfo=None)
VALIDATION = TEST - timedelta(days=protocols.VALIDATION_DAYS)


def frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    return spark.createDataFrame(rows, "user string, item string, time double, position long")


def lines(rows: DataFrame) -> dict[str, list[tuple[str, datetime]]]:
    found: dict[str, list[tuple[str, datetime]]] = {}
    for row in rows.orderBy("user", "time", "item").collect():
        found.setdefault(row["user"], []).append((row["item"], row["time"]))
    return found


def days_before(*days: int) -> list[datetime]:
    return [TEST - timedelta(days=number) for number in days]


def test_the_last_one_is_the_test_and_the_last_but_one_the_validation(spark: SparkSession) -> None:
    rows: list[Row] = [("a", "x", 30.0, 0), ("a", "y", 10.0, 1), ("a", "z", 20.0, 2), ("b", "x", 5.0, 3)]
    found = lines(protocols.leave_one_out(frame(spark, rows).repartition(3)))
    assert found == {"a": list(zip("yzx", days_before(2, 1, 0), strict=True)), "b": [("x", TEST)]}


def test_the_same_time_is_in_the_order_of_the_file(spark: SparkSession) -> None:
    rows: list[Row] = [("a", "y", 7.0, 0), ("a", "x", 7.0, 1), ("b", "y", None, 2), ("b", "x", None, 3)]
    found = lines(protocols.leave_one_out(frame(spark, rows).repartition(3)))
    assert [item for item, _ in found["a"]] == [item for item, _ in found["b"]] == ["y", "x"]


def test_a_given_test_lies_at_the_cut_and_one_of_the_others_before_it(spark: SparkSession) -> None:
    train: list[Row] = [("a", "x", 1.0, 0), ("a", "y", 2.0, 1), ("a", "z", 3.0, 2), ("b", "x", 1.0, 3)]
    test: list[Row] = [("a", "v", None, 0), ("a", "v", None, 1), ("a", "w", None, 2)]
    found = lines(protocols.given(frame(spark, train), frame(spark, test)))
    assert found["a"] == [
        ("x", days_before(3)[0]),
        ("y", days_before(2)[0]),
        ("z", VALIDATION),
        ("v", TEST),
        ("w", TEST),
    ]
    assert found["b"] == [("x", days_before(2)[0])]  # who has one alone learns from it


def test_without_times_a_hash_chooses_the_validation(spark: SparkSession) -> None:
    train: list[Row] = [(user, f"{n}", None, n) for user in "abcdefgh" for n in range(6)]
    found = lines(protocols.given(frame(spark, train), frame(spark, [("a", "v", None, 0)])))
    chosen = [item for of_user in found.values() for item, time in of_user if time == VALIDATION]
    assert len(chosen) == 8
    assert len(set(chosen)) > 2
    again = lines(protocols.given(frame(spark, train).repartition(5), frame(spark, [("a", "v", None, 0)])))
    assert again == found


def test_by_date_times_stay(spark: SparkSession) -> None:
    found = lines(protocols.by_date(frame(spark, [("a", "x", 1_260_759_144.25, 0)])))
    assert found == {"a": [("x", datetime(2009, 12, 14, 2, 52, 24, 250_000))]}


def test_of_very_many_interactions_the_newest_count(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "LONGEST", 2)
    rows: list[Row] = [("a", item, float(n), n) for n, item in enumerate("vwxyz")]
    assert [item for item, _ in lines(protocols.leave_one_out(frame(spark, rows)))["a"]] == ["y", "z"]
