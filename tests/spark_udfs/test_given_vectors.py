"""Vectors that a table brings: what is none is missing, and what a column holds is counted."""

from __future__ import annotations

import math

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.given_vectors import Told, fit, look_into

VECTORS = [[1.0, -2.0], None, [], [math.nan, 1.0], [1.0, math.inf], [1e300, 1.0], [1.0, None], [1.0], [1.0, 2.0, 3.0]]


def test_a_vector_has_its_length_and_finite_numbers(spark: SparkSession) -> None:
    rows = spark.createDataFrame(list(enumerate(VECTORS)), "n int, sound array<double>").coalesce(1)
    found = [row["fit"] for row in rows.select("n", fit(F.col("sound"), 2).alias("fit")).orderBy("n").collect()]
    assert found == [[1.0, -2.0], *[None] * 8]
    assert look_into(rows.withColumn("none", F.lit(None).cast("array<float>")), {"sound": 2, "none": 4}) == {
        "sound": Told(items=7, others=2, least=1, greatest=3, unfit=4),
        "none": Told(items=0, others=0, least=None, greatest=None, unfit=0),
    }


@pytest.mark.parametrize("kind", ["array<float>", "array<bigint>"])
def test_numbers_of_other_types_are_taken(spark: SparkSession, kind: str) -> None:
    rows = spark.sql(f"SELECT CAST(array(1, 2) AS {kind}) AS sound")
    assert rows.select(fit(F.col("sound"), 2)).first()[0] == [1.0, 2.0]  # type: ignore[index]
