"""Judging ranked rows against what users then bought: means over users with bootstrap intervals, coverage, novelty.

Nothing that grows with the users comes to the driver: each partition returns, per model, the sums of its users' metric
values, once plainly and once for each resample. The bootstrap is the Poisson one (Chamandy et al., "Estimating
uncertainty for massive data streams", 2012): in a resample a user counts Poisson(1) times, drawn by a hash of user and
resample, so that all models see the same resamples and their differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from spark_udfs.arrow import ids_of, lists
from spark_udfs.baselines.classic import popularity_order
from spark_udfs.top_k import Ints, Lists

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

ROWS = 512  # users whose resample weights are held at once: 512 x 1,000 doubles are 4 MB
SUMS_TYPE = "model string, users bigint, sums array<double>, weights array<double>, resampled array<double>"
# P(Poisson(1) <= j) for j = 0..12; the rest has a chance of 1e-11.
_POISSON = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod([1, *range(1, 13)], dtype=np.float64))


@dataclass(frozen=True)
class Judged:
    """One model's metrics over one set of users.

    Attributes:
        users: how many were judged.
        names: the metrics, e.g. recall_at_20.
        values: (metrics,) means over users.
        resampled: (resamples, metrics) the same means over resampled users.
    """

    users: int
    names: tuple[str, ...]
    values: Doubles
    resampled: Doubles

    def intervals(self) -> dict[str, dict[str, float]]:
        """Value and 95 % interval of each metric."""
        return _with_bounds(self.names, self.values, self.resampled)

    def minus(self, other: Judged) -> dict[str, dict[str, float]]:
        """Paired difference and its 95 % interval, of each metric; where it holds no 0, the two differ."""
        return _with_bounds(self.names, self.values - other.values, self.resampled - other.resampled)


def judge(
    ranked: DataFrame, truth: DataFrame, *, ks: Sequence[int], resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """Judge each model's ranked rows over all users of `truth`; a user without rows scores 0.

    What comes to the driver is partitions x models x resamples x metrics doubles: 34 MB for 200 partitions, one model,
    1,000 resamples and 20 metrics.

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

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: dict[str, _Sums] = {}
        for batch in batches:
            for name, rows in _by_model(batch):
                sums.setdefault(name, _Sums(len(names), resamples)).add(rows, ks, seed)
        yield _sums_batch(sums)

    parts = joined.mapInArrow(add_up, SUMS_TYPE).collect()
    found = sorted({part["model"] for part in parts})
    return {name: _judged([part for part in parts if part["model"] == name], names) for name in found}


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


def poisson_weights(users: Ints, resamples: int, seed: int) -> Doubles:
    """(users, resamples) how often each user counts in each resample: Poisson(1), drawn by hash."""
    keys = users.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    draws = np.arange(resamples, dtype=np.uint64)[None, :] + start
    uniform = (_mixed(_mixed(keys) + draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al., 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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


def _sums_batch(sums: Mapping[str, _Sums]) -> pa.RecordBatch:
    parts = list(sums.items())
    columns = {
        "model": pa.array([name for name, _ in parts], pa.string()),
        "users": pa.array([part.users for _, part in parts], pa.int64()),
        "sums": pa.array([part.sums for _, part in parts], pa.list_(pa.float64())),
        "weights": pa.array([part.weights for _, part in parts], pa.list_(pa.float64())),
        "resampled": pa.array([part.resampled.ravel() for _, part in parts], pa.list_(pa.float64())),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _judged(parts: Sequence[Any], names: tuple[str, ...]) -> Judged:
    users = sum(part["users"] for part in parts)
    weights = np.sum([part["weights"] for part in parts], axis=0)
    resampled = np.sum([np.reshape(part["resampled"], (-1, len(names))) for part in parts], axis=0)
    # With a handful of users a resample may draw nobody; it says nothing.
    drawn = weights > 0
    means = resampled[drawn] / weights[drawn][:, None]
    return Judged(users, names, np.sum([part["sums"] for part in parts], axis=0) / users, means)


def _with_bounds(names: Sequence[str], values: Doubles, resampled: Doubles) -> dict[str, dict[str, float]]:
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return {
        name: {"value": float(value), "low": float(below), "high": float(above)}
        for name, value, below, above in zip(names, values, low, high, strict=True)
    }


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
    columns = []
    for k in ks:
        within = F.col("rank") <= k
        columns += [
            (F.count_distinct(F.when(within, F.col("item"))) / F.lit(totals["items"])).alias(f"coverage_at_{k}"),
            F.avg(F.when(within, F.col("bits"))).alias(f"novelty_at_{k}"),
        ]
    rows = ranked.join(F.broadcast(bits), on="item", how="left").groupBy("model").agg(*columns).collect()
    metrics = {row["model"]: row.asDict() for row in rows}
    return {model: {name: {"value": of[name]} for name in of if name != "model"} for model, of in metrics.items()}


def popularity_deciles(items: DataFrame, catalogue: DataFrame) -> dict[str, list[int]]:
    """How many of some rows fall on each tenth of the catalogue, the most popular tenth first.

    Args:
        items: source (a name), item.
        catalogue: item, count.

    Returns:
        By source: ten counts of rows.
    """
    order = popularity_order(catalogue, "count")
    tenths = pd.DataFrame({"item": order, "tenth": np.arange(len(order)) * 10 // max(len(order), 1)})
    rows = items.groupBy("source", "item").count().toPandas()  # a source has as many as the catalogue at most
    counts: dict[str, list[int]] = {}
    for source, tenth, count in rows.merge(tenths, on="item")[["source", "tenth", "count"]].itertuples(index=False):
        counts.setdefault(source, [0] * 10)[tenth] += int(count)
    return counts
