"""What a model has to beat: popularity, recent popularity and Spark's ALS; item_item.py beside it has the fourth.

All answer the same queries (`user`, `seen`) with the same rows as a model does (`user, rank, item, score, fallback`),
under the same mask, so that one evaluation judges them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from spark_udfs.answers import Order
from spark_udfs.baselines.fold_in import FoldIn
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.lists import by_inner_product

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame


def interactions(lines: DataFrame) -> DataFrame:
    """How often each user bought each item: user, item, count.

    Args:
        lines: user, item; a row per purchase (`spark_udfs.features.indexed`, what is known before the cut alone).
    """
    return lines.groupBy("user", "item").agg(F.count(F.lit(1)).alias("count"))


def popularity_order(catalogue: DataFrame, by: str, depth: int) -> Order:
    """Items by a count of the catalogue, largest first, ties by index, as deep as is asked for.

    Executors find the first ones; they come to the driver as one row of `depth` numbers, however many items there are.

    Args:
        catalogue: item and the column `by` (customers, recent_customers or another count); all of its items are in
            the order.
        by: the column.
        depth: K and the longest list of `seen` that is left out.
    """
    counts = catalogue.select((-F.coalesce(F.col(by), F.lit(0)).cast("bigint")).alias("fewer"), "item")
    first = counts.orderBy("fewer", "item").limit(depth)
    listed = first.agg(F.sort_array(F.collect_list(F.struct("fewer", "item"))).alias("first"))
    items = counts.agg(F.count(F.lit(1)).alias("items"))
    row = listed.select(F.transform("first", lambda one: one["item"]).alias("first")).crossJoin(items).collect()[0]
    return Order(np.array(row["first"], np.int64), int(row["items"]))


class AlsFactors:
    """Spark ML's implicit ALS (Hu, Koren and Volinsky, 2008), fitted on counts.

    Attributes:
        users: user, vector.
        items: `item` and `vector` of the items that ALS saw.
        alpha: weight of a count in the confidence.
        regularisation: ALS's regParam.
    """

    def __init__(self, users: DataFrame, items: ItemFile, alpha: float, regularisation: float) -> None:
        self.users, self.items = users, items
        self.alpha, self.regularisation = alpha, regularisation

    def recommend(self, queries: DataFrame, *, k: int, exclude_seen: bool) -> DataFrame:
        """The K items of the largest predicted preference; users that ALS never saw get no rows.

        Args:
            queries: user, seen.
            k: at least 1.
            exclude_seen: leave out each row's `seen`.
        """
        known = queries.select("user", "seen").join(self.users, on="user", how="inner")
        return by_inner_product(known, self.items, k=k, exclude_seen=exclude_seen)

    def recommend_to_others(self, queries: DataFrame, *, k: int, exclude_seen: bool) -> DataFrame:
        """The same to users from whom ALS did not learn, by the items that they have; who has none that ALS saw gets no
        rows.

        Args:
            queries: user, seen: one purchase of each counts.
            k: at least 1.
            exclude_seen: leave out each row's `seen`.
        """
        others = FoldIn(self.items, self.alpha, self.regularisation).vectors(queries)
        return by_inner_product(others, self.items, k=k, exclude_seen=exclude_seen)


def fit_als(
    counts: DataFrame, folder: Path, *, rank: int, iterations: int, alpha: float, regularisation: float, seed: int = 0
) -> AlsFactors:
    """Fit ALS and put its item factors where executors can map them.

    Args:
        counts: user, item, count; indices below 2^31, which is ALS's own limit.
        folder: the same one on the driver and on every executor (`spark_udfs.item_files`).
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
    users, items = (
        factors.select(F.col("id").cast("bigint").alias(name), F.col("features").alias("vector"))
        for name, factors in (("user", model.userFactors), ("item", model.itemFactors))
    )
    return AlsFactors(users, save_items(items, folder, "als"), alpha, regularisation)
