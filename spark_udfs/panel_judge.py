"""Judging quantiles of a panel against what was then sold: ratios of sums, with paired bootstrap intervals over series.

Every metric is a sum over a sum, and a partition adds up both for each model, once by step and once for each resample
of the Poisson bootstrap (spark_udfs/bootstrap.py), in which a series counts as often for every model. Nothing that
grows with series or partitions comes to the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spark_udfs.arrow import float_lists, ids_of
from spark_udfs.bootstrap import Judged, poisson_weights, summed
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ROWS = 512  # series whose resample weights are held at once: 512 x 1,000 doubles are 4 MB
_COLUMNS = ("model", "series", "quantiles", "mean", "target", "known", "naive_error")


@dataclass(frozen=True)
class PanelJudged:
    """One model's metrics over one set of series.

    Attributes:
        judged: values and resampled values.
        by_step: metric -> its value at each step; NaN where nothing is known of a step.
    """

    judged: Judged
    by_step: dict[str, list[float]]


def metric_names(levels: Sequence[float]) -> tuple[str, ...]:
    """The metrics: wql (mean over levels of twice the pinball loss, over what was sold), mae and wape (of the median),
    mae_of_mean, mase (of the median, by each series' own error of repeating), bias (of the mean, over what was sold),
    and the share of what was sold that lies from the lowest level to the highest."""
    return ("wql", "mae", "mae_of_mean", "mase", "wape", "bias", coverage_name(levels))


def coverage_name(levels: Sequence[float]) -> str:
    """Of the interval between the lowest and the highest level: coverage_80 for .1 and .9."""
    return f"coverage_{round(100 * (levels[-1] - levels[0]))}"


def judge(
    answers: DataFrame, asked: DataFrame, *, levels: Sequence[float], resamples: int, seed: int = 0
) -> dict[str, PanelJudged]:
    """Judge each model's quantiles.

    What comes to the driver is models x (resamples + steps) x 14 doubles.

    Args:
        answers: model, series, quantiles (array<float>, step after step), mean (array<float>).
        asked: series, target, known, naive_error (`spark_udfs.panel.asked`).
        levels: of the quantiles, ascending; .5 is among them.
        resamples: of the bootstrap.
        seed: of the bootstrap's hashes.

    Raises:
        DataError: nothing was sold in what is judged, or a model did not answer a series.
    """
    names = metric_names(levels)
    joined = asked.join(answers, on="series", how="inner").select(*_COLUMNS)

    def count(batches: Iterable[pa.RecordBatch]) -> dict[str, Doubles]:
        sums: dict[str, _Sums] = {}
        for batch in batches:
            for name, rows in _by_model(batch):
                for start in range(0, rows.num_rows, ROWS):
                    sums.setdefault(name, _Sums(resamples)).add(rows.slice(start, ROWS), levels, seed)
        return {name: of_model.flat() for name, of_model in sums.items()}

    found = {name: _judged(sums, names, resamples) for name, sums in sorted(summed(joined, count).items())}
    _check(found, asked)
    return found


def terms(
    quantiles: Doubles, mean: Doubles, target: Doubles, known: Doubles, naive: Doubles, levels: Sequence[float]
) -> tuple[Doubles, Doubles]:
    """(series, steps, metrics) numerators and denominators of the metrics; zeros where a target is not known.

    Args:
        quantiles: (series, steps, levels).
        mean: (series, steps).
        target: (series, steps) what was sold.
        known: (series, steps) 1 where the target counts.
        naive: (series,) the errors that MASE divides by; a series whose own is 0 counts for no MASE.
        levels: of the quantiles, ascending; .5 is among them.
    """
    error, level = target[..., None] - quantiles, np.asarray(levels)
    pinball = 2 * np.maximum(level * error, (level - 1) * error).mean(axis=-1)
    off = np.abs(target - quantiles[..., int(np.argmin(np.abs(level - 0.5)))])
    within = (target >= quantiles[..., 0]) & (target <= quantiles[..., -1])
    one, told = np.ones_like(target), np.broadcast_to((naive > 0)[:, None], target.shape).astype(np.float64)
    scaled = off / np.where(naive > 0, naive, 1)[:, None] * told
    above = (pinball, off, np.abs(target - mean), scaled, off, mean - target, within.astype(np.float64))
    below = (target, one, one, told, target, target, one)
    return np.stack(above, axis=-1) * known[..., None], np.stack(below, axis=-1) * known[..., None]


class _Sums:
    """One partition's sums for one model."""

    def __init__(self, resamples: int) -> None:
        self.series = 0
        self.steps = np.zeros(0)
        self.resampled: Doubles = np.zeros((resamples, 0))

    def add(self, rows: pa.RecordBatch, levels: Sequence[float], seed: int) -> None:
        series = ids_of(rows.column(1), "series")
        target, known = _matrix(rows.column(4)), _matrix(rows.column(5))
        quantiles = _matrix(rows.column(2)).reshape(*target.shape, len(levels))
        naive = np.asarray(rows.column(6).to_numpy(zero_copy_only=False), np.float64)
        above, below = terms(quantiles, _matrix(rows.column(3)), target, known, naive, levels)
        both = np.concatenate([above, below], axis=-1)
        if not self.series:
            self.steps = np.zeros(both.shape[1:])
            self.resampled = np.zeros((len(self.resampled), both.shape[2]))
        self.series += len(series)
        self.steps += both.sum(axis=0)
        self.resampled += poisson_weights(series, len(self.resampled), seed).T @ both.sum(axis=1)

    def flat(self) -> Doubles:
        return np.concatenate([[self.series], self.resampled.ravel(), self.steps.ravel()])


def _matrix(column: pa.Array) -> Doubles:
    values, offsets = float_lists(column)
    return values.astype(np.float64).reshape(len(offsets) - 1, -1)


def _by_model(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    for name in pc.unique(batch.column(0)).to_pylist():
        yield name, batch.filter(pc.equal(batch.column(0), name))


def _judged(sums: Doubles, names: tuple[str, ...], resamples: int) -> PanelJudged:
    width = 2 * len(names)
    series, of_resamples, of_steps = np.split(sums, np.cumsum([1, resamples * width]))
    resampled, steps = of_resamples.reshape(-1, width), of_steps.reshape(-1, width)
    resampled = resampled[(resampled[:, len(names) :] > 0).all(axis=1)]  # of a handful of series one may draw nobody
    by_step = _ratios(steps, len(names))
    judged = Judged(
        users=int(series[0]),
        names=names,
        values=_ratios(steps.sum(axis=0, keepdims=True), len(names))[0],
        resampled=_ratios(resampled, len(names)),
    )
    return PanelJudged(judged, {name: by_step[:, place].tolist() for place, name in enumerate(names)})


def _ratios(sums: Doubles, metrics: int) -> Doubles:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, :metrics] / sums[:, metrics:])


def _check(found: dict[str, PanelJudged], asked: DataFrame) -> None:
    series = asked.count()
    for name, held in found.items():
        if held.judged.users != series:
            raise DataError(
                f"'{name}' must answer each of {series:,} series once; it has {held.judged.users:,} answers"
            )
        if not len(held.judged.resampled) or not np.isfinite(held.judged.values).all():
            raise DataError(
                "the periods after the cut cannot be judged: nothing was sold in them, or no series has a history that "
                "changes; move examples.test_from"
            )
