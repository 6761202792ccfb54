"""Judging a probability for each row against the row's label: curves and metrics with bootstrap intervals, paired.

Scores are counted in cells: a cell is a range of the scores, finest at the top, that holds all rows of one score;
within a cell rows count as if in random order. In each resample of the Poisson bootstrap (spark_udfs/bootstrap.py) a
row counts as often for every model, so that differences are paired. Partitions count, Spark adds up what they counted,
and the driver gets the cells of all rows once and the metrics of each resample: nothing that grows with rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, added, poisson_weights
from spark_udfs.cells import RESAMPLES_AT_ONCE, ROWS_AT_ONCE, blocks, cells_of, edges_of
from training.errors import DataError
from training.metrics.in_bins import equal_groups, pairs_in_order, precisions_in_random_order, reached

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS = 512
FINEST = 1e-7  # share of the rows in the highest cell
FALSE_ALARMS = 0.01
BANDS = 20  # of about equally many rows, in which predicted and actual shares are compared
SMALLEST = 1e-6  # a probability is taken for no smaller, and for no nearer to 1


@dataclass(frozen=True)
class Cells:
    """One model's rows by range of their score, the highest scores first.

    Attributes:
        edges: (cells - 1,) ascending: a cell holds scores from an edge on, up to the next one.
        rows: (2, cells) of label 0 and 1.
        p: (2, cells) the mean score; 0 where there is no row.
        log_loss: (2, cells) the mean log loss.
    """

    edges: Doubles
    rows: Doubles
    p: Doubles
    log_loss: Doubles

    @property
    def bands(self) -> Ints:
        """(cells,) the band of each cell."""
        return equal_groups(self.rows.sum(axis=0), BANDS)

    def metrics(self, counts: Doubles, budget: float) -> Doubles:
        """(resamples, metrics) of NAMES; NaN where a resample lacks a label.

        Args:
            counts: (resamples, 2, cells) rows by label.
            budget: the share of rows that can be looked at.
        """
        no, yes = counts[:, 0], counts[:, 1]
        every = no + yes
        rows, frauds, others = every.sum(axis=1), yes.sum(axis=1), no.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (counts * self.p).sum(axis=1)
            values = (
                precisions_in_random_order(yes, every).sum(axis=1) / frauds,
                pairs_in_order(no, yes) / (frauds * others),
                reached(yes, no, FALSE_ALARMS * others) / frauds,
                reached(yes, every, budget * rows) / (budget * rows),
                (counts * self.log_loss).sum(axis=(1, 2)) / rows,
                np.abs(_by_band(expected - yes, self.bands)).sum(axis=1) / rows,
                expected.sum(axis=1) / frauds,
                (counts * self.log_loss).sum(axis=(1, 2)) / rows / _entropy(frauds / rows),
            )
        return np.stack(values, axis=1)


NAMES = (
    "average_precision",
    "auc",
    "recall_at_1_percent_false_alarms",
    "precision_at_budget",
    "log_loss",
    "calibration_error",
    "predicted_to_actual",
    "normalised_entropy",
)


def judge(
    answers: DataFrame, truth: DataFrame, names: Sequence[str], *, budget: float, resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """Judge each model's probabilities.

    What is shuffled is partitions x models x resamples x 1,024 integers; what comes to the driver is models x resamples
    x metrics.

    Args:
        answers: model, key, p.
        truth: key, label (double: 0 or 1); with `unit`, rows of one unit are resampled together, as rows of one user
            are no independent draws (null: a row is a unit of its own).
        names: the models.
        budget: the share of rows that can be looked at.
        resamples: of the bootstrap.
        seed: of the bootstrap's hashes.

    Returns:
        By model, metrics by NAMES: average_precision (that expected of equal scores in random order), auc,
        recall_at_1_percent_false_alarms (the share of frauds found where 1 % of all others are taken for one),
        precision_at_budget (the share of frauds among the rows that are looked at), log_loss, calibration_error (the
        mean over BANDS of |predicted - actual share|), predicted_to_actual (all that is predicted over all that is) and
        normalised_entropy (log_loss over that of the judged rows' own share of label 1: below 1 is better than knowing
        that share alone; He et al. 2014).

    Raises:
        DataError: a model did not answer a row, or all labels are the same.
    """
    wide = _wide(answers, truth, names)
    held = _counted(wide, names)
    _refuse_one_label(held[0])
    edges, parts_of = [cells.edges for cells in held], -(-resamples // RESAMPLES_AT_ONCE)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counts = np.zeros((len(edges), 2 * CELLS, resamples), np.int32)
        for keys, labels, scores in _pieces(batches):
            weights = poisson_weights(keys, resamples, seed).astype(np.int32)
            for model, of_model in enumerate(edges):
                cell = labels * CELLS + cells_of(scores[model], of_model)
                order = np.argsort(cell, kind="stable")
                there, first = np.unique(cell[order], return_index=True)
                counts[model, there] += np.add.reduceat(weights[order], first, axis=0)
        for block in range(parts_of):
            part = counts[:, :, block * RESAMPLES_AT_ONCE : (block + 1) * RESAMPLES_AT_ONCE]
            yield blocks(range(len(edges)), [block] * len(edges), [*part.reshape(len(edges), -1)], pa.int32())

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = added(batches)
        metrics = [
            held[model].metrics(np.moveaxis(found.reshape(2, CELLS, -1), 2, 0), budget).ravel()
            for (model, _), found in sums.items()
        ]
        yield blocks([model for model, _ in sums], [block for _, block in sums], metrics, pa.float64())

    partial = wide.mapInArrow(count, "model int, block int, counts array<int>")
    resampled_by = partial.repartition("model", "block").mapInArrow(
        add_up, "model int, block int, metrics array<double>"
    )
    parts = sorted(resampled_by.collect())
    judged = {}
    for model, (name, cells) in enumerate(zip(names, held, strict=True)):
        blocks_of = [np.reshape(part["metrics"], (-1, len(NAMES))) for part in parts if part["model"] == model]
        resampled = np.concatenate(blocks_of)
        told = np.isfinite(resampled).all(axis=1)  # of a handful of rows a resample may hold no fraud: it says nothing
        values = cells.metrics(cells.rows[None], budget)[0]
        judged[name] = Judged(int(cells.rows.sum()), NAMES, values, resampled[told])
    return judged


def _refuse_one_label(cells: Cells) -> None:
    others, frauds = cells.rows.sum(axis=1)
    if not others or not frauds:
        raise DataError(
            f"what is judged must hold rows of both labels; it holds {int(frauds):,} of label 1 and {int(others):,} of "
            "label 0; move examples.test_from"
        )


def cells(answers: DataFrame, truth: DataFrame, names: Sequence[str]) -> dict[str, Cells]:
    """Each model's rows by range of their score, for curves; arguments as for `judge`.

    Raises:
        DataError: a model did not answer a row.
    """
    return dict(zip(names, _counted(_wide(answers, truth, names), names), strict=True))


def precision_recall(cells: Cells, points: int = 50) -> list[list[float]]:
    """[recall, precision] points of the curve from the highest scores down, at about equal steps of recall."""
    no, yes = cells.rows
    found, looked_at = np.cumsum(yes), np.cumsum(no + yes)
    recall = found / found[-1]
    places = np.unique(np.searchsorted(recall, np.linspace(1 / points, 1, points)).clip(max=len(recall) - 1))
    return [[float(recall[at]), float(found[at] / looked_at[at])] for at in places]


def reliability(cells: Cells) -> list[list[float]]:
    """[mean of what is predicted, actual share] by band, the least likely first."""
    rows, bands = cells.rows.sum(axis=0), cells.bands
    sums = [np.bincount(bands, part, BANDS) for part in (rows, (cells.rows * cells.p).sum(axis=0), cells.rows[1])]
    return [[float(p / count), float(yes / count)] for count, p, yes in zip(*sums, strict=True) if count][::-1]


def _wide(answers: DataFrame, truth: DataFrame, names: Sequence[str]) -> DataFrame:
    """A row per key: its hash, label (0 or 1) and scores, by model."""
    by_model = (F.max(F.when(F.col("model") == name, F.col("p"))).cast("double") for name in names)
    scores = answers.groupBy("key").agg(F.array(*by_model).alias("scores"))
    unit = F.coalesce(F.xxhash64("unit"), F.xxhash64("key")) if "unit" in truth.columns else F.xxhash64("key")
    return truth.join(scores, on="key", how="left").select(
        unit.alias("hash"), F.col("label").cast("int").alias("label"), "scores"
    )


def _counted(wide: DataFrame, names: Sequence[str]) -> list[Cells]:
    """The rows of each model by cell."""
    edges = edges_of(wide, names, CELLS, FINEST)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = np.zeros((3, len(edges), 2 * CELLS))
        for _, labels, scores in _pieces(batches):
            for model, (score, of_model) in enumerate(zip(scores, edges, strict=True)):
                p, at = score.clip(SMALLEST, 1 - SMALLEST), labels * CELLS + cells_of(score, of_model)
                for row, values in enumerate((None, score, -np.log(np.where(labels == 1, p, 1 - p)))):
                    sums[row, model] += np.bincount(at, values, 2 * CELLS)
        flat = sums.reshape(3, -1)
        there = np.flatnonzero(flat[0])
        yield pa.record_batch([pa.array(there), *map(pa.array, flat[:, there])], ["at", "rows", "p", "log_loss"])

    found = wide.mapInArrow(count, "at bigint, rows double, p double, log_loss double")
    totals = np.zeros((3, len(edges) * 2 * CELLS))
    for row in found.groupBy("at").agg(F.sum("rows"), F.sum("p"), F.sum("log_loss")).collect():
        totals[:, row[0]] = row[1:]
    rows, p, log_loss = totals.reshape(3, len(edges), 2, CELLS)
    each = np.maximum(rows, 1)
    return [Cells(*parts) for parts in zip(edges, rows, p / each, log_loss / each, strict=True)]


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Ints, Ints, Doubles]]:
    """Hashes, labels and (models, rows) scores of a few rows at a time."""
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            keys, labels, scores = batch.slice(start, ROWS_AT_ONCE).columns
            flat = np.asarray(scores.flatten().to_numpy(zero_copy_only=False), np.float64)
            yield keys.to_numpy(), labels.to_numpy().astype(np.int64), flat.reshape(len(keys), -1).T


def _entropy(share: Doubles) -> Doubles:
    """The log loss of who says of every row the share of label 1."""
    return -(share * np.log(share) + (1 - share) * np.log1p(-share))


def _by_band(values: Doubles, bands: Ints) -> Doubles:
    """(resamples, bands) sums of (resamples, cells) values."""
    return np.stack([values[:, bands == band].sum(axis=1) for band in range(BANDS)], axis=1)
