"""Histories that go on from those of a cut are what histories of all lines are."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs import features
from spark_udfs.histories import Stock, histories, not_held, out_of_reach
from spark_udfs.newest import Cap
from tests.spark_udfs.test_features import LINES, day, some_lines

CUT, MOMENT, KEPT = day(25), day(35), 6
FEW = 7  # the customer with few lines: one late, one told again and worth less, one too late


def indexed(spark: SparkSession, users: DataFrame, asked: Column) -> DataFrame:
    few = [("u7", "i1", day(3), day(3), 2.0), ("u7", "i2", day(4), day(30), 1.0), ("u7", "i1", day(3), day(28), 0.5)]
    few += [("u7", "i3", day(34), day(36), 1.0), ("u7", "i4", day(25), day(25), 1.0)]
    items = spark.createDataFrame([(number + 1, f"i{number}") for number in range(12)], "index bigint, id string")
    lines = spark.createDataFrame([*some_lines(260), *few], LINES).withColumn("is_goal", F.col("weight") >= 1)
    return features.indexed(lines.where(asked), users, items)


def texts(rows: DataFrame) -> set[str]:
    return {row[0] for row in rows.select(F.to_json(F.struct("user", "user_id", "lines", "seen"))).collect()}


def test_they_go_on_from_a_cut(spark: SparkSession) -> None:
    cap = Cap(1_000)
    named = [(number, f"u{number}") for number in range(1, FEW + 1)]
    users = spark.createDataFrame(named, "user bigint, user_id string")
    vocabulary = users.toDF("index", "id")
    by_then = features.known_before(MOMENT)
    held = histories(indexed(spark, vocabulary, features.known_before(CUT)), users, CUT, KEPT, cap)
    every = indexed(spark, vocabulary, by_then)
    new = not_held(indexed(spark, vocabulary, features.known_since(CUT) & by_then), held, CUT)
    far = every.join(out_of_reach(held, new, CUT), on="user", how="left_semi")
    assert 0 < far.select("user").distinct().count() < FEW
    assert far.where(F.col("user") == FEW).isEmpty()
    found = texts(Stock(held, new, users, KEPT, cap, far).as_of(MOMENT))
    assert found == texts(histories(every, users, MOMENT, KEPT, cap))
    assert len(found) == FEW


def test_no_more_lines_than_count_are_kept(spark: SparkSession) -> None:
    users = spark.createDataFrame([(1, "u1")], "user bigint, user_id string")
    rows = [("u1", f"i{at}", day(at), day(at), 1.0, True) for at in (1, 2, 3, 26, 27)]
    lines = spark.createDataFrame(rows, f"{LINES}, is_goal boolean")
    items = spark.createDataFrame([(at, f"i{at}") for at in (1, 2, 3, 26, 27)], "index bigint, id string")
    known = features.indexed(lines, users.toDF("index", "id"), items)
    cap = Cap(2, users.select("user"))
    held = histories(known, users, CUT, KEPT, cap)
    later = Stock(held, known.where(features.known_since(CUT)), users, KEPT, cap).as_of(MOMENT).collect()[0]
    assert [line["item"] for line in later["lines"]] == [26, 27]
