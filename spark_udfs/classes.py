"""Judging a class for each row against the row's own, with bootstrap intervals, paired.

A row has a class, a number from 1, or none (0): then nothing that is said of its class is right, and what is right is
to say that it is out of scope. All figures are sums over rows (spark_udfs/bootstrap.py): what partitions count grows
with classes and resamples, and never with rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, poisson_weights, summed
from spark_udfs.cells import cells_of
from training.errors import DataError
from training.metrics.in_bins import equal_groups, pairs_in_order

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CELLS = 100  # of about equally many rows, by confidence and by scope
GROUPS = 15  # of these, in which confidence is compared with what is right
COVERED = 0.9
ROWS = 256  # whose resample weights are held at once
OF_CLASSES = ("accuracy", "macro_f1", "error_at_90_percent", "calibration_error", "kept_in_scope", "right_of_all")
OF_SCOPE = ("out_of_scope_recall", "out_of_scope_auc")


class Rows(NamedTuple):
    """Some rows of one model: (rows,) each.

    Attributes:
        hashed: of the key.
        label: the row's class; 0: none.
        said: the class that the model says.
        in_scope: whether it says that the row has one of the classes.
        p: how sure it is of the class.
        scope: what its decision on the scope is made of.
    """

    hashed: Ints
    label: Ints
    said: Ints
    in_scope: npt.NDArray[np.bool_]
    p: Doubles
    scope: Doubles


@dataclass(frozen=True)
class Layout:
    """Where a model's sums lie, one after the other.

    Attributes:
        classes: the highest number of a class, and one.
        of_p, of_scope: (cells - 1,) ascending edges.
    """

    classes: int
    of_p: Doubles
    of_scope: Doubles

    @property
    def width(self) -> int:
        """How many sums there are."""
        return 3 * self.classes + 5 * (CELLS + 1) + 3

    def sums(self, rows: Rows, weights: Doubles) -> Doubles:
        """(width, draws) of rows that count `weights`, (rows, draws)."""
        cells, base = CELLS + 1, 3 * self.classes
        has, every = rows.label > 0, np.ones(len(rows.label))
        right = has & (rows.said == rows.label)
        of_p, of_scope = cells_of(rows.p, self.of_p), cells_of(rows.scope, self.of_scope)
        scalars = base + 5 * cells
        listed = (
            (has, rows.label, every),
            (has, self.classes + rows.said, every),
            (right, 2 * self.classes + rows.label, every),
            (has, base + of_p, every),
            (right, base + cells + of_p, every),
            (has, base + 2 * cells + of_p, rows.p),
            (has, base + 3 * cells + of_scope, every),
            (~has, base + 4 * cells + of_scope, every),
            (has & rows.in_scope, np.full(len(has), scalars), every),
            (right & rows.in_scope, np.full(len(has), scalars + 1), every),
            (~has & ~rows.in_scope, np.full(len(has), scalars + 2), every),
        )
        total = np.zeros((self.width, weights.shape[1]))
        for counts, place, times in listed:
            at = np.flatnonzero(counts)
            if len(at):
                order = at[np.argsort(place[at], kind="stable")]
                there, first = np.unique(place[order], return_index=True)
                total[there] += np.add.reduceat(weights[order] * times[order, None], first, axis=0)
        return total

    def parts(self, sums: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """(3, classes, draws), (5, cells, draws) and (3, draws) of (width, draws)."""
        of_classes, of_cells, scalars = np.split(sums, [3 * self.classes, self.width - 3])
        draws = sums.shape[1]
        return of_classes.reshape(3, -1, draws), of_cells.reshape(5, -1, draws), scalars

    def metrics(self, sums: Doubles, with_scope: bool) -> Doubles:
        """(draws, metrics) of OF_CLASSES, and of OF_SCOPE where there are rows of no class."""
        (own, said, both), (rows, right, p, inside, outside), scalars = self.parts(sums)
        counted, others = rows.sum(axis=0), outside.sum(axis=0)
        there = own[:, 0] > 0  # as all rows have it: the same classes in each resample
        f1 = 2 * both[there] / np.maximum(own[there] + said[there], 1e-9)
        found = [
            both.sum(axis=0) / counted,
            f1.mean(axis=0),
            _errors_of_surest(rows, right) / (COVERED * counted),
            _by_group(right - p, rows[:, 0]) / counted,
            scalars[0] / counted,
            (scalars[1] + scalars[2]) / (counted + others),
        ]
        if with_scope:
            found += [
                scalars[2] / np.maximum(others, 1e-9),
                pairs_in_order(outside.T, inside.T) / np.maximum(counted * others, 1e-9),
            ]
        return np.stack(found, axis=1)


def _errors_of_surest(rows: Doubles, right: Doubles) -> Doubles:
    """(draws,) wrong ones among the COVERED share of rows that come first; of the last cell a part counts."""
    before = np.cumsum(rows, axis=0) - rows
    share = np.clip((COVERED * rows.sum(axis=0) - before) / np.maximum(rows, 1e-9), 0, 1)
    return np.asarray((share * (rows - right)).sum(axis=0))


def _by_group(gaps: Doubles, rows: Doubles) -> Doubles:
    """(draws,) sums of what groups of cells are off by."""
    groups = equal_groups(rows, GROUPS)
    return np.asarray(np.abs([gaps[groups == group].sum(axis=0) for group in range(GROUPS)]).sum(axis=0))


def judge(
    answers: DataFrame, truth: DataFrame, names: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Judged]:
    """Judge what models say of rows.

    Args:
        answers: model, key, intent (bigint: a class), p, scope (double), in_scope (boolean).
        truth: key, label (0: of no class).
        names: the models.
        resamples: of the bootstrap.
        seed: of its hashes.

    Returns:
        By model the metrics: of rows with a class `accuracy`, `macro_f1`, `error_at_90_percent` (of the nine tenths
        that the model is surest of), `calibration_error` and `kept_in_scope`; of all rows `right_of_all` (the class,
        or that there is none); and where there are rows of none `out_of_scope_recall` and `out_of_scope_auc`.

    Raises:
        DataError: no row has a class, or a model did not answer a row.
    """
    layouts, total, others = _counted(answers, truth, names, resamples, seed)
    metrics = OF_CLASSES + (OF_SCOPE if others else ())
    judged = {}
    for name in names:
        values = layouts[name].metrics(total[name], bool(others))
        judged[name] = Judged(_rows(layouts[name], total[name]), metrics, values[0], values[1:])
    return judged


def risk_over_coverage(answers: DataFrame, truth: DataFrame, names: Sequence[str]) -> dict[str, list[list[float]]]:
    """By model [share of the rows with a class that is answered, share of these that is wrong], the surest first;
    arguments as for `judge`."""
    layouts, total, _ = _counted(answers, truth, names, resamples=0, seed=0)
    return {name: _risk(layouts[name], total[name]) for name in names}


def _counted(
    answers: DataFrame, truth: DataFrame, names: Sequence[str], resamples: int, seed: int
) -> tuple[dict[str, Layout], dict[str, Doubles], int]:
    """By model where its sums lie and these, (width, 1 + resamples); and how many rows have no class."""
    held = answers.join(truth.select("key", F.col("label").cast("bigint").alias("label")), on="key", how="inner")
    layouts, others = _layouts(held, truth, names)
    columns = (F.xxhash64("key").alias("hash"), *map(F.col, ("label", "intent", "in_scope", "p", "scope")))

    def count(batches: Iterable[pa.RecordBatch]) -> Mapping[str, Doubles]:
        sums: dict[str, Doubles] = {}
        for model, rows in _pieces(batches):
            drawn = np.concatenate([np.ones((len(rows.p), 1)), poisson_weights(rows.hashed, resamples, seed)], axis=1)
            found = layouts[model].sums(rows, drawn).ravel()
            sums[model] = sums[model] + found if model in sums else found
        return sums

    found = summed(held.select("model", *columns).where(F.col("model").isin(*names)), count)
    return layouts, {name: found[name].reshape(-1, resamples + 1) for name in names}, others


def _rows(layout: Layout, sums: Doubles) -> int:
    _, cells, _ = layout.parts(sums[:, :1])
    return int(cells[0].sum() + cells[4].sum())


def _risk(layout: Layout, sums: Doubles) -> list[list[float]]:
    _, (rows, right, *_), _ = layout.parts(sums[:, :1])
    counted, wrong = np.cumsum(rows[:, 0]), np.cumsum(rows[:, 0] - right[:, 0])
    steps = np.flatnonzero(np.diff(counted, prepend=0.0) > 0)
    return [[float(counted[at] / counted[-1]), float(wrong[at] / counted[at])] for at in steps]


def _layouts(held: DataFrame, truth: DataFrame, names: Sequence[str]) -> tuple[dict[str, Layout], int]:
    """By model where its sums lie; and how many rows have no class."""
    rows, others = truth.agg(F.count(F.lit(1)), F.count_if(F.col("label") == 0)).collect()[0]
    if rows == others:
        raise DataError(
            f"what is judged must hold rows of a class that was learnt; it holds {rows:,} rows, and none has one; move "
            "examples.test_from"
        )
    levels = F.array(*(F.lit(at / CELLS) for at in range(1, CELLS)))
    has = F.col("label") > 0
    edges = (F.percentile_approx(F.when(has, F.col("p")), levels), F.percentile_approx("scope", levels))
    highest = F.greatest(F.max("label"), F.max("intent"))
    found = {row["model"]: row for row in held.groupBy("model").agg(F.count(F.lit(1)), highest, *edges).collect()}
    for name in names:
        if (answered := found[name][1] if name in found else 0) != rows:
            raise DataError(f"'{name}' must answer every row that is judged once; it gave {answered:,} to {rows:,}")
    classes = 1 + max(found[name][2] for name in names)
    unique = {name: [np.unique(np.asarray(of, np.float64)) for of in found[name][3:]] for name in names}
    return {name: Layout(int(classes), *unique[name]) for name in names}, int(others)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, Rows]]:
    """A model and a few of its rows at a time."""
    for batch in batches:
        models, *columns = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        for model in sorted(set(models)):
            mine = np.flatnonzero(models == model)
            for start in range(0, len(mine), ROWS):
                hashed, label, said, in_scope, p, scope = (column[mine[start : start + ROWS]] for column in columns)
                yield str(model), Rows(hashed, label, said, in_scope.astype(bool), p, scope)
