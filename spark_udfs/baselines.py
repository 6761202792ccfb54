"""What a model has to beat: popularity, recent popularity, item-item neighbours and Spark's ALS.

All answer the same queries (`user`, `seen`) with the same rows as a model does (`user, rank, item, score, fallback`),
under the same mask, so that one evaluation judges them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.ranking import MatrixFile, by_inner_product, by_order, require_columns, save_matrix
from spark_udfs.top_k import Floats, Ints

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

NEIGHBOURS = 100  # kept per item
MAX_ITEMS_PER_USER = 1_000  # pairs grow with the square: a reseller with 5,000 items would make 12 M alone


def interactions(lines: DataFrame) -> DataFrame:
    """How often each user bought each item: user, item, count.

    Args:
        lines: user, item; a row per purchase (`spark_udfs.features.indexed`, what is known before the cut alone).
    """
    return lines.groupBy("user", "item").agg(F.count(F.lit(1)).alias("count"))


def popularity_order(catalogue: DataFrame, by: str) -> Ints:
    """Item indices by a count of the catalogue, largest first, ties by index; as many as there are items.

    Args:
        catalogue: item and the column `by` (count, user_count or recent_count).
        by: the column.
    """
    counts = catalogue.select("item", F.col(by).cast("bigint").alias("by")).toPandas()
    items, count = counts["item"].to_numpy(np.int64), counts["by"].fillna(0).to_numpy(np.int64)
    return np.asarray(items[np.lexsort((items, -count))], np.int64)


def popularity(queries: DataFrame, catalogue: DataFrame, *, by: str, k: int, exclude_seen: bool) -> DataFrame:
    """The items with the largest count, for everybody, less what each has seen.

    Args:
        queries: user, seen.
        catalogue: item and the column `by`: user_count for all time, recent_count for the last 30 days.
        by: the column.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.
    """
    return by_order(queries, popularity_order(catalogue, by), k=k, exclude_seen=exclude_seen)


def neighbours(counts: DataFrame, *, top: int = NEIGHBOURS) -> DataFrame:
    """Each item's most similar items by the cosine of their sets of users: item, neighbour, similarity.

    A user with more than MAX_ITEMS_PER_USER items counts with that many of them, chosen by hash.

    Args:
        counts: user, item (each pair once).
        top: neighbours kept per item; ties go to the smaller index.
    """
    drawn = Window.partitionBy("user").orderBy(F.xxhash64("user", "item"))
    sets = counts.select("user", "item", F.row_number().over(drawn).alias("nth"))
    sets = sets.where(F.col("nth") <= MAX_ITEMS_PER_USER).select("user", "item")
    sizes = sets.groupBy("item").agg(F.count(F.lit(1)).alias("size"))
    together = (
        sets.join(sets.select("user", F.col("item").alias("neighbour")), on="user", how="inner")
        .where(F.col("item") != F.col("neighbour"))
        .groupBy("item", "neighbour")
        .agg(F.count(F.lit(1)).alias("together"))
    )
    its_sizes = sizes.select(F.col("item").alias("neighbour"), F.col("size").alias("its_size"))
    cosine = F.col("together") / F.sqrt(F.col("size") * F.col("its_size"))
    nearest = Window.partitionBy("item").orderBy(F.desc("similarity"), "neighbour")
    return (
        together.join(sizes, on="item", how="inner")
        .join(its_sizes, on="neighbour", how="inner")
        .select("item", "neighbour", cosine.alias("similarity"))
        .withColumn("nth", F.row_number().over(nearest))
        .where(F.col("nth") <= top)
        .select("item", "neighbour", "similarity")
    )


def item_item(queries: DataFrame, near: DataFrame, catalogue: DataFrame, *, k: int, exclude_seen: bool) -> DataFrame:
    """The items most similar to all that a user has bought: the sum of similarities over `seen`.

    A user whose items have fewer than K neighbours gets fewer rows.

    Args:
        queries: user, seen.
        near: what `neighbours` returns.
        catalogue: item; others are not recommended.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})
    bought = queries.select("user", F.explode("seen").alias("item"))
    scored = (
        bought.join(near, on="item", how="inner")
        .groupBy("user", F.col("neighbour").alias("item"))
        .agg(F.sum("similarity").alias("score"))
        .join(catalogue.select("item"), on="item", how="left_semi")
    )
    if exclude_seen:
        scored = scored.join(bought, on=["user", "item"], how="left_anti")
    best = Window.partitionBy("user").orderBy(F.desc("score"), "item")
    return (
        scored.withColumn("rank", F.row_number().over(best))
        .where(F.col("rank") <= k)
        .select("user", "rank", "item", F.col("score").cast("float").alias("score"), F.lit(False).alias("fallback"))
    )


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
