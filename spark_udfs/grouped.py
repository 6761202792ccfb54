"""The area under the ROC curve within groups (GAUC; Zhu et al. 2017): whether each user's own rows are in order.

An AUC over all rows also counts who clicks much and who clicks little, which puts no list into a better order. Here
each group's AUC counts by its rows; a group whose labels are all the same has none, and is left out. Groups are
resampled whole (spark_udfs/bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, poisson_weights, summed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

NAMES = ("gauc",)
ROWS = 512  # groups whose resample weights are held at once


def grouped_auc(
    answers: DataFrame, truth: DataFrame, names: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """The mean AUC of groups, each counted by its rows; of equal answers half are in order.

    Work is rows x log rows, in Spark's windows. What comes to the driver is models x resamples doubles.

    Args:
        answers: model, key, p.
        truth: key, label (double: 0 or 1), unit (the group; null: in none).
        names: the models.
        resamples: of the bootstrap.
        seed: of the bootstrap's hashes.

    Returns:
        By model, its `gauc` over `users` groups; no models where no group has both labels.
    """
    rows = truth.where("unit IS NOT NULL").join(answers, on="key", how="inner")
    group = ["model", "unit"]
    first = F.rank().over(Window.partitionBy(*group).orderBy("p"))
    equal = F.count(F.lit(1)).over(Window.partitionBy(*group, "p"))
    placed = rows.withColumn("place", first + (equal - 1) / 2)
    yes = F.count_if(F.col("label") > 0.5)
    places = F.sum(F.when(F.col("label") > 0.5, F.col("place")))
    sums = placed.groupBy(*group).agg(F.count(F.lit(1)).alias("rows"), yes.alias("yes"), places.alias("places"))
    both = sums.where("yes > 0 AND yes < rows")
    pairs = F.col("yes") * (F.col("rows") - F.col("yes"))
    auc = (F.col("places") - F.col("yes") * (F.col("yes") + 1) / 2) / pairs
    found = both.select("model", F.xxhash64("unit").alias("hash"), F.col("rows").cast("double"), auc.alias("auc"))

    def count(batches: Iterable[pa.RecordBatch]) -> dict[str, Doubles]:
        held: dict[str, Doubles] = {}
        for model, hashes, weights, values in _pieces(batches):
            drawn = np.concatenate([np.ones((len(hashes), 1)), poisson_weights(hashes, resamples, seed)], axis=1)
            by_rows = weights[:, None] * drawn
            added = np.concatenate([[len(hashes)], by_rows.sum(axis=0), (by_rows * values[:, None]).sum(axis=0)])
            held[model] = held[model] + added if model in held else added
        return held

    return {name: _judged(of_model, resamples) for name, of_model in summed(found, count).items() if name in set(names)}


def _judged(sums: Doubles, resamples: int) -> Judged:
    rows, ordered = sums[1 : resamples + 2], sums[resamples + 2 :]
    with np.errstate(invalid="ignore"):
        values = ordered / rows
    resampled = values[1:]
    return Judged(int(sums[0]), NAMES, values[:1], resampled[np.isfinite(resampled)][:, None])


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, npt.NDArray[np.int64], Doubles, Doubles]]:
    """Model, and hashes, rows and AUC of a few of its groups at a time."""
    for batch in batches:
        models, hashes, rows, values = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        for model in sorted(set(models)):
            mine = np.flatnonzero(models == model)
            for start in range(0, len(mine), ROWS):
                part = mine[start : start + ROWS]
                yield str(model), hashes[part], rows[part], values[part]
