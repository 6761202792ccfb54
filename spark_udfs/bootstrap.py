"""The Poisson bootstrap over what partitions count: intervals of sums, whatever the number of rows or partitions.

In a resample a row counts Poisson(1) times (Chamandy et al., "Estimating uncertainty for massive data streams", 2012),
drawn by a hash of the row and the resample: all models see the same resamples, and their differences are paired. Every
figure is made of sums, so partitions count, executors add up what they counted, and what comes to the driver grows with
models, resamples and metrics alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.top_k import Ints

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

PIECE = 1_024  # sums of a row on its way: an Arrow batch of 10,000 rows holds 80 MB
# P(Poisson(1) <= j) for j = 0..12; the rest has a chance of 1e-11.
_POISSON = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod([1, *range(1, 13)], dtype=np.float64))


@dataclass(frozen=True)
class Judged:
    """One model's metrics over one set of rows: users, cases or series.

    Attributes:
        users: how many were judged.
        names: the metrics, e.g. recall_at_20.
        values: (metrics,) over all of them.
        resampled: (resamples, metrics) the same over resampled ones.
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


def poisson_weights(keys: Ints, resamples: int, seed: int) -> Doubles:
    """(keys, resamples) how often each key counts in each resample: Poisson(1), drawn by hash."""
    hashed = _mixed(keys.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15))
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    draws = np.arange(resamples, dtype=np.uint64)[None, :] + start
    uniform = (_mixed(hashed + draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al., 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def summed(rows: DataFrame, count: Callable[[Iterable[pa.RecordBatch]], Mapping[str, Doubles]]) -> dict[str, Doubles]:
    """What all partitions count of each model, added up on the executors in the order of the partitions.

    Args:
        rows: of any columns.
        count: a partition's batches -> the sums of each model, always as many.
    """

    def counted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        part = context.partitionId() if context is not None else 0
        for model, sums in count(batches).items():
            pieces = np.split(sums, range(PIECE, len(sums), PIECE))
            keys = [[model] * len(pieces), [*range(len(pieces))], [part] * len(pieces)]
            yield _batch(["model", "piece", "part"], keys, pieces)

    def of_all(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if found := added(batch.select(["model", "piece", "sums"]) for batch in batches):
            yield _batch(["model", "piece"], [*zip(*found, strict=True)], [*found.values()])

    parts = rows.mapInArrow(counted, "model string, piece int, part int, sums array<double>")
    dealt = parts.repartition("model", "piece").sortWithinPartitions("model", "piece", "part")
    totals = dealt.mapInArrow(of_all, "model string, piece int, sums array<double>").collect()
    pieces: dict[str, list[Sequence[float]]] = {}
    for row in sorted(totals, key=lambda row: (row["model"], row["piece"])):
        pieces.setdefault(row["model"], []).append(row["sums"])
    return {model: np.concatenate([np.asarray(piece) for piece in held]) for model, held in pieces.items()}


def added(batches: Iterable[pa.RecordBatch]) -> dict[tuple[Any, ...], Doubles]:
    """The lists of the last column added up by the columns before it, in the order in which they come."""
    sums: dict[tuple[Any, ...], Doubles] = {}
    for batch in batches:
        *keys, lists = batch.columns
        for place, key in enumerate(zip(*(column.to_pylist() for column in keys), strict=True)):
            found = np.asarray(lists[place].values.to_numpy(), np.float64)
            sums[key] = sums[key] + found if key in sums else found
    return sums


def _batch(names: list[str], keys: Sequence[Sequence[Any]], sums: Sequence[Doubles]) -> pa.RecordBatch:
    kinds = {"model": pa.string(), "piece": pa.int32(), "part": pa.int32()}
    columns = [pa.array(list(values), kinds[name]) for name, values in zip(names, keys, strict=True)]
    return pa.RecordBatch.from_arrays([*columns, pa.array(sums, pa.list_(pa.float64()))], names=[*names, "sums"])


def _with_bounds(names: Sequence[str], values: Doubles, resampled: Doubles) -> dict[str, dict[str, float]]:
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return {
        name: {"value": float(value), "low": float(below), "high": float(above)}
        for name, value, below, above in zip(names, values, low, high, strict=True)
    }
