"""Pictures as pixels of one size, and as the numbers of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.tasks.image_options import options_of
from spark_udfs import features
from spark_udfs.pictures import pixels_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Pictures with a time. One that does not say when it arrived was there at once."""
    dated = read["pictures"].where("time IS NOT NULL")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in dated.columns else F.col("time")
    return dated.where(F.col("item_id").isNotNull()).withColumn("arrival_time", arrival)


def class_of(names: Mapping[str, str]) -> Column:
    """The name of a row's category."""
    if not names:
        return F.col("category")
    named = F.create_map(*(F.lit(part) for pair in names.items() for part in pair))
    return F.coalesce(F.try_element_at(named, F.col("category")), F.col("category"))


def known_classes(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> dict[str, DataFrame]:
    """`id`: the classes of pictures of before a cut."""
    said = lines(read).where(features.known_before(cut) & F.col("category").isNotNull())
    return {"classes": said.select(class_of(options_of(settings).names).alias("id"))}


def numbered(ground: Ground, pictures: DataFrame) -> DataFrame:
    """item_id, time, arrival_time, category (its name), picture (pixels, of bytes as `options.size` and `channels`
    say), and label: the number of its class, 0 of one that nobody had before the cut; null where it is not known."""
    options = options_of(ground.settings)
    known = ground.read["vocabulary_classes"].where("id IS NOT NULL")
    numbers = known.select(F.col("id").alias("category"), F.col("index").cast("float").alias("number"))
    named = pictures.withColumn("category", class_of(options.names))
    told = named.join(F.broadcast(numbers), on="category", how="left")
    return told.select(
        "item_id",
        "time",
        "arrival_time",
        "category",
        F.when(F.col("category").isNotNull(), F.coalesce("number", F.lit(0.0).cast("float"))).alias("label"),
        pixels_of(F.col("picture"), options.size, options.channels).alias("picture"),
    )
