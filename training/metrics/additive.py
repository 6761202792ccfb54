"""Metrics of rows and panels as additive sums: what a rank, a partition or a resample counts may be added up.

    metric = Binary()                                                         # training/metrics/probabilities.py
    sums = metric.sums(p, label, weight) + metric.sums(more_p, more_label)    # (metric.width,) float64 each
    metric.finish(sums)["auc"]

Knows numpy alone, so that Spark's executors and ranks count the same. A row that weighs 2 counts as two rows: a Poisson
bootstrap passes its draws as weights. Rows of weight 0 are not looked at, whatever they hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.errors import DataError

Array = NDArray[np.float64]


class Metric(ABC):
    """Counts rows into sums, and finishes the sums.

    Attributes:
        width: length of the sums.
    """

    width: int

    @abstractmethod
    def sums(self, answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Array:
        """(width,) sums of some rows; those of no rows are zeros.

        Args:
            answer: what was predicted, of the metric's shape.
            truth: what was so.
            weight: of each truth, or of each row (`(rows,)` for a panel); None is 1.

        Raises:
            DataError: shapes do not fit, or a value is not finite or out of its range.
        """

    @abstractmethod
    def finish(self, sums: ArrayLike) -> dict[str, float]:
        """Each figure by its name, NaN where no row decides it."""


def rows_of(answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array, Array]:
    """All three flat, as float64, of what weighs anything."""
    answers, truths = np.asarray(answer, np.float64), np.asarray(truth, np.float64)
    if answers.shape != truths.shape:
        raise DataError(
            f"answers must have the truths' shape, {truths.shape}; they have {answers.shape}; judge row by row"
        )
    weights = np.ones(truths.shape) if weight is None else np.asarray(weight, np.float64)
    if weights.shape != truths.shape and weights.shape == truths.shape[:1]:
        weights = np.broadcast_to(weights.reshape(-1, *[1] * (truths.ndim - 1)), truths.shape)
    if weights.shape != truths.shape:
        raise DataError(
            f"weights must have the truths' shape, {truths.shape}, or one a row; they have {weights.shape}; give "
            "one a row"
        )
    held = weights != 0
    flat: tuple[Any, ...] = answers[held], truths[held], weights[held]
    for what, values in zip(("an answer", "a truth", "a weight"), flat, strict=True):
        wrong = values[~np.isfinite(values)]
        if len(wrong):
            raise DataError(f"{what} must be finite; got {wrong[0]}; give rows that cannot be judged the weight 0")
    if np.any(flat[2] < 0):
        raise DataError(f"a weight must not be negative; got {flat[2].min():g}; correct it where the rows are built")
    return flat


def ratio(above: Any, below: Any) -> float:
    """NaN where there is nothing to divide by."""
    return float(above / below) if below else float("nan")
