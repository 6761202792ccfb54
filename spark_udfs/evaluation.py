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
    names, deepest = metric_names(ks), max(ks)
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


def metric_names(ks: Sequence[int]) -> tuple[str, ...]:
    """Names of the per-user metrics, in the order of their values."""
    return tuple(f"{metric}_at_{k}" for k in ks for metric in ("recall", "ndcg", "mrr", "hit_rate", "map"))


def metric_values(found_nk: Ints, truth: Lists, ks: Sequence[int]) -> Doubles:
    """(users, metrics) values of each user, by training's own definitions; every user has something to find."""
    import torch

    from training.batch import Ragged
    from training.metrics.values import ranking_metrics

    ragged = Ragged(torch.from_numpy(truth.values), torch.from_numpy(truth.offsets))
    values = ranking_metrics(torch.from_numpy(found_nk), ragged, ks)
    return np.stack([values[name].numpy() for name in metric_names(ks)], axis=1)


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
    """Coverage and novelty of each model at each K.

    Coverage: the share of the catalogue that is recommended to anybody. Novelty: the mean self-information of what is
    recommended in bits, -log2 of the item's share of all purchase lines before the cut (add-one smoothed).

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
    return {model: {name: {"value": of[name]} for name in of if name != "model"} for model, of in metrics.items()}


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
