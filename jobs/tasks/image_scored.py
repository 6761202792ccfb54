"""Pictures scored: a class with its probability, an alarm where the shop's own is another, and what looks alike."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.artefacts import ITEM_FILES
from jobs.ground import Ground, Scored
from jobs.tasks.image_options import options_of
from jobs.tasks.image_pixels import numbered
from spark_udfs import features, nearest_vectors
from spark_udfs.scoring import predicted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def by_bundle(asked: DataFrame, path: str) -> DataFrame:
    """Of rows with a `key` and a `picture` (pixels): key, class (bigint), p and vector, of length 1."""
    found = predicted(asked, path, key="key", names=["class", "p", "vector"])
    return found.select(
        "key",
        F.col("class")[0].cast("bigint").alias("class"),
        F.col("p")[0].cast("double").alias("p"),
        "vector",
    )


def vectors(asked: DataFrame, path: str) -> DataFrame:
    """Of rows with a `key` and a `picture`: key, and vector."""
    return predicted(asked, path, key="key", names=["vector"])


def score(ground: Ground, moment: datetime) -> Scored:
    """Every picture that was there by the moment, those that were learnt from too: all are to look like others."""
    there = ground.read["lines"].where(features.known_before(moment))
    asked = ground.keep("asked", lambda: numbered(ground, there))
    return Scored(asked, partial(_answered, ground), _counts, finish=partial(with_similar, ground=ground))


def _answered(ground: Ground, pictures: DataFrame) -> DataFrame:
    """What is said of pictures: a class by its name, and whether their own category is taken for wrong."""
    options = options_of(ground.settings)
    numbers = ground.read["vocabulary_classes"].select(F.col("index").alias("class"), F.col("id").alias("name"))
    found = by_bundle(pictures.withColumnRenamed("item_id", "key"), str(ground.bundle))
    told = found.join(F.broadcast(numbers), on="class", how="left").withColumnRenamed("key", "item_id")
    differs = F.col("category").isNotNull() & (F.col("category") != F.col("name"))
    return (
        pictures.select("item_id", "time", "category")
        .join(told, on="item_id", how="inner")
        .select(
            "item_id",
            "time",
            "category",
            F.col("name").alias("class"),
            "p",
            (differs & (F.col("p") >= F.lit(options.alarm_from))).alias("alarm"),
            "vector",
        )
    )


def with_similar(made: DataFrame, ground: Ground) -> DataFrame:
    """Answers with `similar`: the items whose pictures look most alike, the likest first, each with the cosine of both
    vectors."""
    most, empty = (
        options_of(ground.settings).similar,
        F.expr("CAST(array() AS array<struct<item_id: string, cosine: float>>)"),
    )
    if not most:
        return made.withColumn("similar", empty)
    lists = ground.keep("similar", lambda: _similar(made, ground, most))  # asked for twice: to be checked, and written
    told = made.join(lists, on="item_id", how="left")
    return told.withColumn("similar", F.coalesce("similar", empty))


def _similar(made: DataFrame, ground: Ground, most: int) -> DataFrame:
    """item_id, and `similar`."""
    held = made.select(F.col("item_id").alias("key"), "vector")
    file = nearest_vectors.save(held, ground.folder / ITEM_FILES, "scored_vectors")
    hashed = held.select(F.xxhash64("key").alias("item"), F.col("key").alias("item_id"))
    found = nearest_vectors.similar(held, file, most).join(hashed, on="item", how="inner")
    ranked = F.array_sort(F.collect_list(F.struct("rank", "item_id", "cosine")))
    named = F.transform(ranked, lambda of: F.struct(of["item_id"].alias("item_id"), of["cosine"].alias("cosine")))
    return found.groupBy("key").agg(named.alias("similar")).withColumnRenamed("key", "item_id")


def _counts(written: DataFrame) -> dict[str, int]:
    made = written.agg(F.count(F.lit(1)).alias("pictures"), F.count_if("alarm").alias("wrong_category_alarms"))
    return dict(made.collect()[0].asDict())
