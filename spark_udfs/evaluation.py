"""Judging ranked rows against what users then bought: means over users with bootstrap intervals, coverage, novelty.

A partition adds up its users' metric values, once plainly and once for each resample (spark_udfs/bootstrap.py); nothing
that grows with users, items or partitions comes to the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.arrow import ids_of, lists
from spark_udfs.bootstrap import Judged, poisson_weights, summed
from spark_udfs.top_k import Ints, Lists
from training.metrics.of_lists import names_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

ROWS = 512  # users whose resample weights are held at once: 512 x 1,000 doubles are 4 MB


def judge(
    ranked: DataFrame, truth: DataFrame, *, ks: Sequence[int], resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """Judge each model's ranked rows over all users of `truth`; a user without rows scores 0.

    What comes to the driver is models x resamples x metrics doubles: 170 KB a model for 1,000 resamples and 20 metrics.

    Args:
        ranked: model, user, rank (from 1), item.
        truth: user, truth (array of item indices, not empty).
        ks: cut-offs.
        resamples: of the bootstrap.
        seed: of the bootstrap's hashes.
    """
    names, deepest = names_at(ks), max(ks)
    models = ranked.select("model").distinct()
    items = F.transform(F.array_sort(F.collect_list(F.struct("rank", "item"))), lambda row: row["item"])
    lists_by_user = ranked.where(F.col("rank") <= deepest).groupBy("model", "user").agg(items.alias("items"))
    asked = truth.select("user", "truth").crossJoin(F.broadcast(models))
    joined = asked.join(lists_by_user, on=["model", "user"], how="left").select("model", "user", "items", "truth")

    def count(batches: Iterable[pa.RecordBatch]) -> dict[str, Doubles]:
        sums: dict[str, _Sums] = {}
        for batch in batches:
            for name, rows in _by_model(batch):
                sums.setdefault(name, _Sums(len(names), resamples)).add(rows, ks, seed)
        return {name: of_model.flat() for name, of_model in sums.items()}

    return {name: _judged(sums, names, resamples) for name, sums in summed(joined, count).items()}


def metric_values(found_nk: Ints, truth: Lists, ks: Sequence[int]) -> Doubles:
    """(users, metrics) values of each user, by training's own definitions; every user has something to find."""
    import torch

    from training.batch import Ragged
    from training.metrics.values import ranking_metrics

    ragged = Ragged(torch.from_numpy(truth.values), torch.from_numpy(truth.offsets))
    values = ranking_metrics(torch.from_numpy(found_nk), ragged, ks)
    return np.stack([values[name].numpy() for name in names_at(ks)], axis=1)


class _Sums:
    """One partition's sums for one model."""

    def __init__(self, metrics: int, resamples: int) -> None:
        self.users = 0
        self.sums = np.zeros(metrics)
        self.weights = np.zeros(resamples)
        self.resampled = np.zeros((resamples, metrics))

    def add(self, rows: pa.RecordBatch, ks: Sequence[int], seed: int) -> None:
        for start in range(0, rows.num_rows, ROWS):
            part = rows.slice(start, ROWS)
            users = ids_of(part.column(1))
            values = metric_values(padded(lists(part.column(2)), max(ks)), lists(part.column(3)), ks)
            weights = poisson_weights(users, len(self.weights), seed)
            self.users += len(users)
            self.sums += values.sum(axis=0)
            self.weights += weights.sum(axis=0)
            self.resampled += weights.T @ values

    def flat(self) -> Doubles:
        return np.concatenate([[self.users], self.sums, self.weights, self.resampled.ravel()])


def padded(items: Lists, k: int) -> Ints:
    """The first K of each list as a matrix (rows, k), -1 where a list is shorter."""
    rows = np.repeat(np.arange(len(items.offsets) - 1), items.lengths)
    places = np.arange(len(items.values)) - np.repeat(items.offsets[:-1], items.lengths)
    matrix = np.full((len(items.offsets) - 1, k), -1, np.int64)
    kept = places < k
    matrix[rows[kept], places[kept]] = items.values[kept]
    return matrix


def _by_model(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each model."""
    table = pa.Table.from_batches([batch])
    for name in pc.unique(batch.column(0)).to_pylist():
        for rows in table.filter(pc.equal(table.column(0), name)).to_batches():
            yield name, rows


def _judged(sums: Doubles, names: tuple[str, ...], resamples: int) -> Judged:
    users, values, weights, resampled = np.split(sums, np.cumsum([1, len(names), resamples]))
    # With a handful of users a resample may draw nobody; it says nothing.
    drawn = weights > 0
    means = resampled.reshape(resamples, -1)[drawn] / weights[drawn][:, None]
    return Judged(int(users[0]), names, values / users[0], means)


def spread(ranked: DataFrame, catalogue: DataFrame, *, ks: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Coverage, novelty and Gini coefficient of each model at each K.

    Coverage: the share of the catalogue that is recommended to anybody. Novelty: the mean self-information of what is
    recommended in bits, -log2 of the item's share of all purchase lines before the cut (add-one smoothed). Gini
    coefficient of how often the catalogue's items are recommended, those that never are among them: 0 where all are
    alike, towards 1 where a few are all.

    Args:
        ranked: model, user, rank, item.
        catalogue: item, count (purchase lines before the cut).
        ks: cut-offs.
    """
    smoothed = F.col("count") + 1
    totals = catalogue.agg(F.count(F.lit(1)).alias("items"), F.sum(smoothed).alias("lines")).collect()[0]
    bits = catalogue.select("item", (-F.log2(smoothed / F.lit(totals["lines"]))).alias("bits"))
    shown = ranked.groupBy("model", "item").agg(*(F.count_if(F.col("rank") <= k).alias(f"at_{k}") for k in ks))
    columns = []
    for k in ks:
        times = F.col(f"at_{k}")
        known = F.sum(F.when(F.col("bits").isNotNull(), times))
        columns += [
            (F.count_if(times > 0) / F.lit(totals["items"])).alias(f"coverage_at_{k}"),
            (F.sum(times * F.col("bits")) / known).alias(f"novelty_at_{k}"),
        ]
    rows = shown.join(bits, on="item", how="left").groupBy("model").agg(*columns).collect()
    metrics = {row["model"]: row.asDict() for row in rows}
    for model, ginis in _gini(shown, totals["items"], ks).items():
        metrics[model] |= ginis
    return {model: {name: {"value": of[name]} for name in of if name != "model"} for model, of in metrics.items()}


def _gini(shown: DataFrame, items: int, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """Each model's Gini coefficients, from how many items were recommended how often: of N recommendations there are
    at most sqrt(2 N) such numbers, which one task a model and K puts in order.

    Args:
        shown: model, item, at_K.
        items: of the catalogue.
        ks: cut-offs.
    """
    times = F.explode(F.array(*(F.struct(F.lit(k).alias("k"), F.col(f"at_{k}").alias("times")) for k in ks)))
    often = shown.select("model", times.alias("at")).select("model", "at.k", "at.times").where("times > 0")
    alike = often.groupBy("model", "k", "times").agg(F.count(F.lit(1)).alias("alike"))
    up_to = F.sum("alike").over(Window.partitionBy("model", "k").orderBy("times"))
    all_of = F.sum("alike").over(Window.partitionBy("model", "k"))
    rank = F.lit(items) - all_of + up_to - (F.col("alike") - 1) / 2  # of what is never recommended comes before
    ranked = alike.select("model", "k", (F.col("alike") * F.col("times")).alias("rows"), rank.alias("rank"))
    weighed = F.sum(F.col("rows") * (2 * F.col("rank") - items - 1)) / (F.lit(items) * F.sum("rows"))
    found: dict[str, dict[str, float]] = {}
    for model, k, gini in ranked.groupBy("model", "k").agg(weighed).collect():
        found.setdefault(model, {})[f"gini_at_{k}"] = gini
    return found


def diversity(ranked: DataFrame, groups: DataFrame, *, ks: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """The share of a list's pairs of items that are of two groups, the mean over lists, of each model at each K.

    Items without a group are left out, and so are lists that hold fewer than two others.

    Args:
        ranked: model, user, rank, item.
        groups: item, group: one row an item, not null.
        ks: cut-offs.
    """
    counts = [F.count_if(F.col("rank") <= k).alias(f"n_{k}") for k in ks]
    of_group = ranked.join(groups, on="item", how="inner").groupBy("model", "user", "group").agg(*counts)
    pairs = {k: (F.sum(f"n_{k}"), F.sum(F.col(f"n_{k}") * (F.col(f"n_{k}") - 1))) for k in ks}
    shares = [
        F.when(many > 1, 1 - alike / (many * (many - 1))).alias(f"diversity_at_{k}")
        for k, (many, alike) in pairs.items()
    ]
    of_list = of_group.groupBy("model", "user").agg(*shares)
    means = of_list.groupBy("model").agg(*(F.avg(f"diversity_at_{k}").alias(f"diversity_at_{k}") for k in ks)).collect()
    found = {row["model"]: {name: row[name] for name in row.asDict() if row[name] is not None} for row in means}
    return {model: {name: {"value": of[name]} for name in of if name != "model"} for model, of in found.items()}


def popularity_deciles(items: DataFrame, catalogue: DataFrame) -> dict[str, list[int]]:
    """How many of some rows fall on each tenth of the catalogue, the most popular tenth first; ties by index.

    One task numbers the catalogue's items in order, row after row. What comes to the driver is ten counts a source.

    Args:
        items: source (a name), item.
        catalogue: item, count.

    Returns:
        By source: ten counts of rows.
    """
    many = catalogue.agg(F.count(F.lit(1)).alias("items"))
    place = F.row_number().over(Window.orderBy(F.desc("count"), "item")) - 1
    numbered = catalogue.select("item", place.alias("place")).crossJoin(many)
    tenths = numbered.select("item", F.expr("place * 10 div items").alias("tenth"))
    of_item = items.groupBy("source", "item").count()
    found = of_item.join(tenths, on="item", how="inner").groupBy("source", "tenth").agg(F.sum("count").alias("rows"))
    counts: dict[str, list[int]] = {}
    for row in sorted(found.collect()):
        counts.setdefault(row["source"], [0] * 10)[row["tenth"]] = row["rows"]
    return counts
