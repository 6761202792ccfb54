"""Multinomial logistic regression of a picture's pixels, by Spark ML: what a model of pictures must beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import functions as F

from spark_udfs.answers import named
from spark_udfs.arrow import fixed_lists

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE = 10_000  # pictures that it learns from, by hash
SIDE = 28  # pixels at most that are read of a side: means of squares of a larger picture's
PENALTY, ITERATIONS = 1e-3, 30


def fit(pictures: DataFrame, shape: tuple[int, int, int]) -> Any:
    """Fit to a sample of pictures.

    Args:
        pictures: key (string), picture (binary, pixels), label (bigint, from 1).
        shape: height, width and channels of each.
    """
    held = _with_pixels(drawn(pictures, SAMPLE), shape, "label").persist()
    try:
        return LogisticRegression(regParam=PENALTY, maxIter=ITERATIONS, family="multinomial").fit(held)
    finally:
        held.unpersist()


def drawn(pictures: DataFrame, most: int) -> DataFrame:
    """Rows by hashes of their keys, `most` at most. No task gets all: the keys alone are put in order."""
    keys = pictures.select("key").orderBy(F.xxhash64("key"), "key").limit(most)
    return pictures.join(keys, on="key", how="left_semi")


def answer(asked: DataFrame, model: Any, shape: tuple[int, int, int]) -> DataFrame:
    """`key`, `class` (bigint) and `p` of each picture: `asked` has key and picture."""
    found: DataFrame = model.transform(_with_pixels(asked, shape))
    found = found.select("key", "prediction", vector_to_array(F.col("probability")).alias("p"))
    return found.select("key", F.col("prediction").cast("bigint").alias("class"), F.array_max("p").alias("p"))


def _with_pixels(pictures: DataFrame, shape: tuple[int, int, int], *more: str) -> DataFrame:
    """`key`, `features` (a vector of numbers from 0 to 1), and more columns as numbers."""
    height, width, channels = shape
    step = math.ceil(max(height, width) / SIDE)
    high, wide = height // step, width // step

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            held = b"".join(named(batch, "picture").to_pylist())
            whole = np.frombuffer(held, np.uint8).reshape(-1, *shape)[:, : high * step, : wide * step]
            means = whole.reshape(-1, high, step, wide, step, channels).mean(axis=(2, 4)) / 255
            columns = [named(batch, "key"), fixed_lists(means.reshape(len(whole), -1))]
            yield pa.record_batch([*columns, *(named(batch, name) for name in more)], ["key", "pixels", *more])

    kept = [F.col(name).cast("double").alias(name) for name in more]
    given = pictures.select("key", "picture", *kept)
    numbers = given.mapInArrow(
        read, ", ".join(["key string, pixels array<float>", *(f"{name} double" for name in more)])
    )
    return numbers.select("key", array_to_vector(F.col("pixels").cast("array<double>")).alias("features"), *more)
