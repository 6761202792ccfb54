"""What a model has to beat: popularity, recent popularity and Spark's ALS; item_item.py beside it has the fourth.

All answer the same queries (`user`, `seen`) with the same rows as a model does (`user, rank, item, score, fallback`),
under the same mask, so that one evaluation judges them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from spark_udfs.lists import MatrixFile, by_inner_product, by_order, save_matrix
from spark_udfs.top_k import Floats, Ints

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame


def interactions(lines: DataFrame) -> DataFrame:
    """How often each user bought each item: user, item, count.

    Args:
        lines: user, item; a row per purchase (`spark_udfs.features.indexed`, what is known before the cut alone).
    """
    return lines.groupBy("user", "item").agg(F.count(F.lit(1)).alias("count"))


def popularity_order(catalogue: DataFrame, by: str) -> Ints:
    """Item indices by a count of the catalogue, largest first, ties by index; as many as there are items.

    Args:
        catalogue: item and the column `by` (customers, recent_customers or another count).
        by: the column.
    """
    counts = catalogue.select("item", F.col(by).cast("bigint").alias("by")).toPandas()
    items, count = counts["item"].to_numpy(np.int64), counts["by"].fillna(0).to_numpy(np.int64)
    return np.asarray(items[np.lexsort((items, -count))], np.int64)


def popularity(queries: DataFrame, catalogue: DataFrame, *, by: str, k: int, exclude_seen: bool) -> DataFrame:
    """The items with the largest count, for everybody, less what each has seen.

    Args:
        queries: user, seen.
        catalogue: item and the column `by`: customers for all time, recent_customers for the last 30 days.
        by: the column.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.
    """
    return by_order(queries, popularity_order(catalogue, by), k=k, exclude_seen=exclude_seen)


class AlsFactors:
    """Spark ML's implicit ALS (Hu, Koren and Volinsky, 2008), fitted on counts.

    Attributes:
        users: user, vector.
        items: the item vectors, row = index; zeros where ALS saw no purchase.
        known: indices of the items that ALS saw.
    """

    def __init__(self, users: DataFrame, items: MatrixFile, known: Ints) -> None:
        self.users = users
        self.items = items
        self.known = known

    def recommend(self, queries: DataFrame, *, k: int, exclude_seen: bool) -> DataFrame:
        """The K items of the largest predicted preference; users that ALS never saw get no rows.

        Args:
            queries: user, seen.
            k: at least 1.
            exclude_seen: leave out each row's `seen`.
        """
        known = queries.select("user", "seen").join(self.users, on="user", how="inner")
        return by_inner_product(known, self.items, k=k, exclude_seen=exclude_seen, allowed=self.known)


def fit_als(
    counts: DataFrame, folder: Path, *, rank: int, iterations: int, alpha: float, regularisation: float, seed: int = 0
) -> AlsFactors:
    """Fit ALS and put its item factors where executors can map them.

    Args:
        counts: user, item, count; indices below 2^31, which is ALS's own limit.
        folder: readable on every executor; item_factors.npy is written there.
        rank: dimensions.
        iterations: alternations.
        alpha: weight of a count in the confidence 1 + alpha * count.
        regularisation: ALS's regParam.
        seed: of the first factors.
    """
    from pyspark.ml.recommendation import ALS

    ratings = counts.select(F.col("user").cast("int"), F.col("item").cast("int"), F.col("count").cast("float"))
    als = ALS(
        rank=rank,
        maxIter=iterations,
        regParam=regularisation,
        alpha=alpha,
        implicitPrefs=True,
        seed=seed,
        userCol="user",
        itemCol="item",
        ratingCol="count",
    )
    model = als.fit(ratings)
    known, matrix = _factors(model.itemFactors, rank)
    users = model.userFactors.select(F.col("id").cast("bigint").alias("user"), F.col("features").alias("vector"))
    return AlsFactors(users, save_matrix(folder / "item_factors.npy", matrix), known)


def _factors(rows: DataFrame, rank: int) -> tuple[Ints, Floats]:
    """Item factors as one matrix by index: bounded by the items, as the matrix is on every host."""
    collected = rows.select("id", "features").toPandas()
    known = collected["id"].to_numpy(np.int64)
    matrix = np.zeros((int(known.max(initial=0)) + 1, rank), np.float32)
    for index, features in zip(known, collected["features"], strict=True):
        matrix[index] = features
    return np.sort(known), matrix
