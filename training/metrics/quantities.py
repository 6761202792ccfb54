"""Numbers against numbers, and quantiles of numbers, as additive sums (training/metrics/additive.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from training.errors import DataError, SettingsError
from training.metrics.additive import Array, Metric, ratio, rows_of


class Errors(Metric):
    """Numbers against numbers: `mae`, `rmse`, `wape` (sum of errors over sum of truths), `bias` (mean error)."""

    width = 5

    def sums(self, answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Array:
        """Of arrays of one shape; the first dimension is the rows."""
        answers, truths, weights = rows_of(answer, truth, weight)
        error = answers - truths
        values = [np.ones_like(error), np.abs(error), error**2, error, np.abs(truths)]
        return np.array([weights @ value for value in values])

    def finish(self, sums: ArrayLike) -> dict[str, float]:
        rows, absolute, square, error, size = np.asarray(sums, np.float64)
        return {
            "mae": ratio(absolute, rows),
            "rmse": float(np.sqrt(ratio(square, rows))),
            "wape": ratio(absolute, size),
            "bias": ratio(error, rows),
        }


class Quantiles(Metric):
    """Quantiles of a number, or of each step of a panel, against what came.

    With r_q(e) = max(q e, (q - 1) e), e = truth - quantile: `pinball` is the mean of r_q over rows, steps and levels;
    `wql` the mean over levels of 2 sum r_q / sum |truth| (the weighted quantile loss of Gasthaus et al. 2019 and of the
    M5 benchmarks); `coverage_Q` the share of truths at or below the quantile Q.

    Args:
        levels: of the quantiles, ascending.

    Raises:
        SettingsError: levels are none, not in (0, 1) or not ascending.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(map(float, levels))
        if not self.levels or min(self.levels) <= 0 or max(self.levels) >= 1 or np.any(np.diff(self.levels) <= 0):
            raise SettingsError(f"quantile levels must ascend within (0, 1); got {list(self.levels)}; [0.1, 0.5, 0.9]")
        self.width = 2 + 2 * len(self.levels)

    def sums(self, answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Array:
        """Of (..., levels) quantiles and (...) truths, the first dimension the rows."""
        quantiles = np.asarray(answer, np.float64)
        if quantiles.shape != (*np.shape(truth), len(self.levels)):
            raise DataError(
                f"quantiles must have the shape {(*np.shape(truth), len(self.levels))}, of the truths and the levels; "
                f"they have {quantiles.shape}; predict one number a level {list(self.levels)}"
            )
        parts = []
        for number, level in enumerate(self.levels):
            found, truths, weights = rows_of(quantiles[..., number], truth, weight)
            error = truths - found
            parts.append([weights @ np.maximum(level * error, (level - 1) * error), weights @ (error <= 0)])
            together = [weights.sum(), weights @ np.abs(truths)]
        return np.array([*together, *(value for part in parts for value in part)])

    def finish(self, sums: ArrayLike) -> dict[str, float]:
        rows, size, *rest = np.asarray(sums, np.float64).tolist()
        losses, below = rest[0::2], rest[1::2]
        return {
            "pinball": ratio(float(np.mean(losses)), rows),
            "wql": ratio(2 * float(np.mean(losses)), size),
            **{f"coverage_{level:g}": ratio(part, rows) for level, part in zip(self.levels, below, strict=True)},
        }
