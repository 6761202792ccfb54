"""Judging expected amounts of rows against what came, zeros among them: order, level and error, with paired intervals.

Rows are counted in cells (spark_udfs/cells.py) by what each model expected, and once by what came, which is the best
order there is; within a cell rows count as if in random order. In each resample of the Poisson bootstrap a row counts
as often for every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, added, poisson_weights
from spark_udfs.cells import RESAMPLES_AT_ONCE, ROWS_AT_ONCE, blocks, cells_of, edges_of
from training.errors import DataError
from training.metrics.in_bins import equal_groups

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS, FINEST = 128, 1e-5
GROUPS = 10
NAMES = ("gini", "bias", "mae", "decile_error")
TRUTH = "what came"
ROWS, CAME, EXPECTED, ERROR = range(4)  # what is summed up of a cell


def judge(
    answers: DataFrame, truth: DataFrame, names: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """Judge each model's expected amounts.

    What is shuffled is partitions x models x resamples x 512 doubles; what comes to the driver is models x resamples x
    metrics.

    Args:
        answers: model, key, amount.
        truth: key, amount (at least 0).
        names: the models.
        resamples: of the bootstrap.
        seed: of the bootstrap's hashes.

    Returns:
        By model, NAMES: gini, that of the amounts in the order of what was expected over that in their own order (1:
        nobody orders them better, 0: as by chance); bias (all that was expected over all that came, less 1); mae (the
        mean error of a row); decile_error (in ten groups of about equally many rows by what was expected, all that the
        groups' sums are off, over all that came: Wang et al. 2019 have their mean).

    Raises:
        DataError: a model did not answer a row, or nothing came at all.
    """
    every = [TRUTH, *names]
    wide = _wide(answers, truth, names)
    edges = edges_of(wide, every, CELLS, FINEST)
    numbers = -(-(resamples + 1) // RESAMPLES_AT_ONCE)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = np.zeros((len(every), CELLS, 4, resamples + 1))
        for hashes, amounts in _pieces(batches):
            weights = np.hstack([np.ones((len(hashes), 1)), poisson_weights(hashes, resamples, seed)])
            for model, expected in enumerate(amounts):
                _add(sums[model], cells_of(expected, edges[model]), expected, amounts[0], weights)
        for number in range(numbers):
            part = sums[..., number * RESAMPLES_AT_ONCE : (number + 1) * RESAMPLES_AT_ONCE]
            yield blocks(range(len(every)), [number] * len(every), [*part.reshape(len(every), -1)], pa.float64())

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = added(batches)
        found = [_metrics(held.reshape(CELLS, 4, -1), groups[model]).ravel() for (model, _), held in sums.items()]
        yield blocks([model for model, _ in sums], [number for _, number in sums], found, pa.float64())

    groups = _groups(wide, edges)
    partial = wide.mapInArrow(count, "model int, block int, sums array<double>")
    dealt = partial.repartition("model", "block")
    parts = sorted(dealt.mapInArrow(add_up, "model int, block int, metrics array<double>").collect())
    by_model = [
        np.concatenate([np.reshape(part["metrics"], (-1, len(NAMES))) for part in parts if part["model"] == model])
        for model in range(len(every))
    ]
    return _judged(by_model, names, wide.count())


def _judged(by_model: Sequence[Doubles], names: Sequence[str], rows: int) -> dict[str, Judged]:
    best = by_model[0][:, 0]
    if not best[0] > 0:
        raise DataError(
            "amounts that are judged must differ: all that came are alike, such as 0; move examples.test_from"
        )
    judged = {}
    for name, values in zip(names, by_model[1:], strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            held = np.column_stack([values[:, 0] / best, values[:, 1:]])
        told = np.isfinite(held).all(axis=1)  # of a handful of rows a resample may hold no amount: it says nothing
        judged[name] = Judged(rows, NAMES, held[0], held[1:][told[1:]])
    return judged


def _add(sums: Doubles, cells: Ints, expected: Doubles, came: Doubles, weights: Doubles) -> None:
    """Add rows to (cells, 4, resamples) sums."""
    order = np.argsort(cells, kind="stable")
    there, first = np.unique(cells[order], return_index=True)
    for place, value in enumerate((np.ones(len(came)), came, expected, np.abs(expected - came))):
        sums[there, place] += np.add.reduceat(weights[order] * value[order, None], first, axis=0)


def _metrics(sums: Doubles, groups: Ints) -> Doubles:
    """(resamples, metrics) of (cells, 4, resamples) sums; gini is not normalised yet."""
    rows, came, expected, error = (sums[:, place] for place in (ROWS, CAME, EXPECTED, ERROR))
    off = np.zeros((GROUPS, sums.shape[2]))
    np.add.at(off, groups, expected - came)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (
            _gini(rows[::-1], came[::-1]),
            expected.sum(axis=0) / came.sum(axis=0) - 1,
            error.sum(axis=0) / rows.sum(axis=0),
            np.abs(off).sum(axis=0) / came.sum(axis=0),
        )
    return np.stack(values, axis=1)


def _gini(rows: Doubles, came: Doubles) -> Doubles:
    """(resamples,) twice the area between the diagonal and the curve of what came over the rows, cells ascending."""
    with np.errstate(invalid="ignore", divide="ignore"):
        width, height = rows / rows.sum(axis=0), came / came.sum(axis=0)
    upper = np.cumsum(height, axis=0)
    return np.asarray(1 - (width * (2 * upper - height)).sum(axis=0))


def _groups(wide: DataFrame, edges: Sequence[Doubles]) -> list[Ints]:
    """Of each model, the group of each cell; groups have about equally many rows."""

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = np.zeros((len(edges), CELLS))
        for _, amounts in _pieces(batches):
            for model, expected in enumerate(amounts):
                rows[model] += np.bincount(cells_of(expected, edges[model]), minlength=CELLS)
        yield pa.record_batch([pa.array(np.arange(rows.size)), pa.array(rows.ravel())], ["at", "rows"])

    found = wide.mapInArrow(count, "at bigint, rows double").groupBy("at").agg(F.sum("rows")).collect()
    totals = np.zeros(len(edges) * CELLS)
    for at, rows in found:
        totals[at] = rows
    return [equal_groups(of_model, GROUPS) for of_model in totals.reshape(len(edges), -1)]


def _wide(answers: DataFrame, truth: DataFrame, names: Sequence[str]) -> DataFrame:
    """A row per key: its hash, and scores: what came, and what each model expected."""
    by_model = (F.max(F.when(F.col("model") == name, F.col("amount"))).cast("double") for name in names)
    expected = answers.groupBy("key").agg(F.array(*by_model).alias("expected"))
    came = truth.select("key", F.col("amount").cast("double").alias("came")).join(expected, on="key", how="left")
    given = F.coalesce("expected", F.array(*(F.lit(None).cast("double") for _ in names)))
    return came.select(F.xxhash64("key").alias("hash"), F.concat(F.array("came"), given).alias("scores"))


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Ints, Doubles]]:
    """Hashes and (1 + models, rows) amounts of a few rows at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            hashes, scores = batch.slice(start, ROWS_AT_ONCE).columns
            flat = np.asarray(scores.flatten().to_numpy(zero_copy_only=False), np.float64)
            yield hashes.to_numpy(), flat.reshape(len(hashes), -1).T
