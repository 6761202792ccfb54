"""Yes or no from probabilities: the threshold of most F1, and how right decisions are, with intervals.

F1 is that of label 1; weighted F1 is the mean of both labels' F1, each counted by its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, poisson_weights, summed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_udfs.rows import Cells

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEIGHTED, OF_ONES = "weighted_f1", "f1"
NAMES = (WEIGHTED, OF_ONES, "precision", "recall")
ROWS = 512  # whose resample weights are held at once


def thresholds(cells: Mapping[str, Cells], best: str = WEIGHTED) -> dict[str, float]:
    """By model the probability from which on a decision is yes, so that a metric is highest; of equal ones the highest,
    and infinity where it is best to say no to all.

    Args:
        cells: rows by model and probability, from `spark_udfs.rows.cells`; those that thresholds are chosen by.
        best: the metric, of NAMES.
    """
    return {name: _threshold(held, NAMES.index(best)) for name, held in cells.items()}


def _threshold(cells: Cells, metric: int) -> float:
    reached = np.pad(np.cumsum(cells.rows, axis=1)[:, : len(cells.edges)], ((0, 0), (1, 0)))
    no, yes = reached  # of none, of the highest cell, of the two highest, ...
    of_no, of_yes = cells.rows.sum(axis=1)
    counts = np.stack([of_no - no, of_yes - yes, no, yes], axis=1)
    return float(np.append(np.inf, cells.edges[::-1])[np.argmax(_metrics(counts)[:, metric])])


def judge(
    decided: DataFrame, truth: DataFrame, names: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """How right decisions are; what comes to the driver is models x resamples x 4 numbers.

    Args:
        decided: model, key, alarm (boolean).
        truth: key, label (0 or 1).
        names: the models.
        resamples: of the bootstrap, the same ones as `spark_udfs.rows.judge` has.
        seed: of its hashes.

    Returns:
        By model, metrics by NAMES; f1, precision and recall are those of label 1.
    """
    rows = decided.join(truth.select("key", "label"), on="key", how="inner")
    outcome = 2 * F.col("alarm").cast("int") + F.col("label").cast("int")
    held = rows.select("model", F.xxhash64("key").alias("hash"), outcome.alias("outcome"))

    def count(batches: Iterable[pa.RecordBatch]) -> dict[str, Doubles]:
        sums: dict[str, Doubles] = {}
        for model, hashes, outcomes in _pieces(batches):
            drawn = np.concatenate([np.ones((len(hashes), 1)), poisson_weights(hashes, resamples, seed)], axis=1)
            found = np.stack([drawn[outcomes == which].sum(axis=0) for which in range(4)]).ravel()
            sums[model] = sums[model] + found if model in sums else found
        return sums

    return {name: _judged(sums, resamples) for name, sums in summed(held, count).items() if name in set(names)}


def _judged(sums: Doubles, resamples: int) -> Judged:
    counts = sums.reshape(4, resamples + 1).T
    found = _metrics(counts)
    return Judged(int(counts[0].sum()), NAMES, found[0], found[1:])


def _metrics(counts: Doubles) -> Doubles:
    """(rows, metrics) of (rows, 4) counts: rightly no, missed, false alarms, rightly yes; 0 where nothing is there."""
    right_no, missed, false, right_yes = counts.T
    of_no, of_yes = right_no + false, right_yes + missed
    f1_no, f1_yes = (_ratio(2 * right, 2 * right + missed + false) for right in (right_no, right_yes))
    weighted = _ratio(of_no * f1_no + of_yes * f1_yes, of_no + of_yes)
    return np.stack([weighted, f1_yes, _ratio(right_yes, right_yes + false), _ratio(right_yes, of_yes)], axis=1)


def _ratio(part: Doubles, whole: Doubles) -> Doubles:
    return np.asarray(part / np.maximum(whole, 1e-9))


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, Ints, Ints]]:
    """Model, hashes and outcomes of a few of its rows at a time."""
    for batch in batches:
        models, hashes, outcomes = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        for model in sorted(set(models)):
            mine = np.flatnonzero(models == model)
            for start in range(0, len(mine), ROWS):
                part = mine[start : start + ROWS]
                yield str(model), hashes[part], outcomes[part]
