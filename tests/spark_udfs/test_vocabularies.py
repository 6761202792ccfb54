"""Vocabularies only grow, number new ids the same way every time, and show damage."""

from __future__ import annotations

import itertools

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


def test_an_index_tells_nothing_of_its_id(spark: SparkSession) -> None:
    """Many ids a bucket: their order must not be that of the alphabet within it either."""
    nothing = spark.createDataFrame([], vocabularies.SCHEMA)
    many = spark.range(8 * vocabularies.BUCKETS).selectExpr("format_string('%06d', id) AS id")
    ids_in_order = [row["id"] for row in vocabularies.new_entries(many, nothing).orderBy("index").collect()]
    rising = sum(first < second for first, second in itertools.pairwise(ids_in_order))
    assert 0.47 < rising / len(ids_in_order) < 0.53


def test_an_erased_id_leaves_its_index_behind(spark: SparkSession) -> None:
    held = spark.createDataFrame([(1, "a"), (2, None), (3, None)], vocabularies.SCHEMA)
    assert vocabularies.faults(held) == {}
    assert as_dict(vocabularies.new_entries(ids(spark, "a", "b", None), held)) == {"b": 4}


def test_damage_is_counted(spark: SparkSession) -> None:
    whole = spark.createDataFrame([(1, "a"), (2, "b")], vocabularies.SCHEMA)
    assert vocabularies.faults(whole) == {}
    damaged = spark.createDataFrame([(1, "a"), (1, "b"), (4, "b")], vocabularies.SCHEMA)
    assert vocabularies.faults(damaged) == {
        "indices that stand twice": 1,
        "ids that stand twice": 1,
        "indices left out": 2,
    }
