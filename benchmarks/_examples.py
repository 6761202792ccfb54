"""What the benchmarks of building examples share: a session, and lines whose customers have many or few."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cluster.session import build_session
from spark_udfs.features import Cuts

START_US, DAYS, ITEMS = 1_704_067_200_000_000, 100, 1_000
CUTS = Cuts(validation=datetime(2024, 3, 20, tzinfo=UTC), test=datetime(2024, 4, 1, tzinfo=UTC))


def session(name: str) -> SparkSession:
    return build_session(name, master="local[2]", driver_memory="3g", shuffle_partitions=8)


def lines(spark: SparkSession, users: int, each: int, of_one: int = 0) -> DataFrame:
    """Lines as `features.indexed` gives them: `each` of every customer and `of_one` of customer 0; all by hash."""
    many = spark.range(users * each).select((F.col("id") % users + 1).alias("user"), F.col("id").alias("n"))
    one = spark.range(of_one).select(F.lit(0).cast("bigint").alias("user"), F.col("id").alias("n"))
    second = F.pmod(F.xxhash64("user", "n"), F.lit(DAYS * 86_400))
    time = F.timestamp_micros(F.lit(START_US) + second * 1_000_000)
    rows = many.unionByName(one).select(
        "user", (F.pmod(F.xxhash64("n", "user"), F.lit(ITEMS)) + 1).alias("item"), time.alias("time")
    )
    return rows.groupBy("user", "item", "time").agg(
        F.min("time").alias("arrival_time"),
        F.min(F.xxhash64("user", "item", "time")).alias("tie"),
        F.lit(1.0).alias("weight"),
    )
