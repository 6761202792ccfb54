"""Vocabularies only grow, number new ids the same way every time, and show damage."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from spark_udfs import vocabularies


def ids(spark: SparkSession, *names: str | None) -> DataFrame:
    return spark.createDataFrame([(name,) for name in names], "id string")


def as_dict(entries: DataFrame) -> dict[str, int]:
    return {row["id"]: row["index"] for row in entries.collect()}


def test_new_ids_follow_the_highest_index(spark: SparkSession) -> None:
    nothing = spark.createDataFrame([], vocabularies.SCHEMA)
    names = [f"item {number}" for number in range(50)]
    first = vocabularies.new_entries(ids(spark, *names, names[3], None), nothing)
    numbered = as_dict(first)
    assert sorted(numbered.values()) == list(range(1, 51))
    assert list(numbered) != sorted(numbered, key=lambda name: numbered[name])[::-1]
    # The same ids in another order and partitioning get the same indices.
    assert as_dict(vocabularies.new_entries(ids(spark, *names[::-1]).repartition(3), nothing)) == numbered

    held = spark.createDataFrame([(index, name) for name, index in numbered.items()], vocabularies.SCHEMA)
    later = as_dict(vocabularies.new_entries(ids(spark, "item 3", "lamp", "rug"), held))
    assert set(later) == {"lamp", "rug"}
    assert sorted(later.values()) == [51, 52]


def test_damage_is_counted(spark: SparkSession) -> None:
    whole = spark.createDataFrame([(1, "a"), (2, "b")], vocabularies.SCHEMA)
    assert vocabularies.faults(whole) == {}
    damaged = spark.createDataFrame([(1, "a"), (1, "b"), (4, "b")], vocabularies.SCHEMA)
    assert vocabularies.faults(damaged) == {
        "indices that stand twice": 1,
        "ids that stand twice or are null": 1,
        "indices left out": 2,
    }
