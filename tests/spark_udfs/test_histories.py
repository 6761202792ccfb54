"""Histories that go on from those of a cut are what histories of all lines are."""

from __future__ import annotations

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs import features
from spark_udfs.histories import continued, histories, unsaid
from tests.spark_udfs.test_features import LINES, day, some_lines

CUT, MOMENT, KEPT = day(25), day(35), 6
FEW = 7  # the customer with few lines: one late, one told again and worth more, one too late


def indexed(spark: SparkSession, users: DataFrame, asked: Column) -> DataFrame:
    few = [("u7", "i1", day(3), day(3), 0.5), ("u7", "i2", day(4), day(30), 1.0), ("u7", "i1", day(3), day(28), 2.0)]
    few += [("u7", "i3", day(34), day(36), 1.0), ("u7", "i4", day(25), day(25), 1.0)]
    items = spark.createDataFrame([(number + 1, f"i{number}") for number in range(12)], "index bigint, id string")
    lines = spark.createDataFrame([*some_lines(260), *few], LINES).withColumn("is_goal", F.col("weight") >= 1)
    return features.indexed(lines.where(asked), users, items)


def texts(rows: DataFrame) -> set[str]:
    return {row[0] for row in rows.select(F.to_json(F.struct("user", "user_id", "lines", "seen"))).collect()}


@pytest.mark.parametrize(("cap", "least"), [(1_000, 2), (32, 1)])
def test_they_go_on_from_a_cut(spark: SparkSession, cap: int, least: int) -> None:
    users = spark.createDataFrame([(number, f"u{number}") for number in range(1, FEW + 1)], "index bigint, id string")
    by_then = features.known_before(MOMENT)
    held = histories(indexed(spark, users, features.known_before(CUT)), users, CUT, KEPT, cap)
    new = indexed(spark, users, features.known_since(CUT) & by_then)
    beyond = [row["user"] for row in unsaid(held, new, CUT, cap).collect()]
    assert 0 < len(beyond) <= FEW - least
    assert FEW not in beyond
    near = ~F.col("user").isin(beyond)
    found = texts(continued(held.where(near), new.where(near), users, KEPT))
    assert found == texts(histories(indexed(spark, users, by_then), users, MOMENT, KEPT, cap).where(near))
    assert len(found) == FEW - len(beyond)
