"""Probabilities of an event against whether it came, as additive sums (training/metrics/additive.py).

Scores are kept as a histogram over their log-odds: two scores whose odds differ by less than `resolution` may fall
together, and what that can change at most is part of the result (`auc_error`, `average_precision_error`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.errors import DataError, SettingsError
from training.metrics.additive import Array, Metric, ratio, rows_of
from training.metrics.in_bins import area_under_roc, average_precision, equal_groups, reached

LIMIT = 16.0  # log-odds; scores nearer to 0 or 1 than 1.1e-7, which float32 can hardly tell from them, fall together
CLIP = 1e-7  # of probabilities in the log loss


class Binary(Metric):
    """Probabilities of an event against whether it came: ranking, calibration and proper scores.

    `log_loss` and `brier` are exact but for probabilities clipped to [1e-7, 1 - 1e-7] in the former; so is
    `predicted_over_actual`, the events predicted over those that came. `auc` counts pairs within a bin as ties, and
    `average_precision` takes a bin as one threshold, as scikit-learn takes equal scores: both are scikit-learn's own
    where no bin holds two scores, and else at most `auc_error` and `average_precision_error` away. `ece` is the
    expected calibration error over 15 groups of equal weight, as near as the bins' borders allow: with groups of equal
    width all of a rare event's scores would lie in one.

    Args:
        bins: of the log-odds from -16 to 16, beside one for 0 and one for 1; the sums have three figures a bin.

    Attributes:
        resolution: the factor in odds within which scores may fall together; of 4,096 bins 1.0078.

    Raises:
        SettingsError: fewer than two bins.
    """

    GROUPS = 15

    def __init__(self, bins: int = 4096) -> None:
        if bins < 2:
            raise SettingsError(f"bins of a score must be at least 2; got {bins}; 4096 tells odds apart by .8 %")
        self.bins, self.resolution = bins, float(np.exp(2 * LIMIT / bins))
        self.width = 2 + 3 * (bins + 2)

    def sums(self, answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Array:
        """Of (rows,) probabilities and (rows,) labels of 0 or 1; a label between counts as that share of an event."""
        p, label, weights = rows_of(answer, truth, weight)
        for what, values in (("a probability", p), ("a label", label)):
            wrong = values[(values < 0) | (values > 1)]
            if len(wrong):
                raise DataError(f"{what} must lie in [0, 1]; got {wrong[0]:g}; a score goes through a sigmoid first")
        clipped = np.clip(p, CLIP, 1 - CLIP)
        log_loss = -(label * np.log(clipped) + (1 - label) * np.log1p(-clipped))
        bins, size = self._bin(p), self.bins + 2
        counted = [
            np.bincount(bins, values, minlength=size)
            for values in (weights * label, weights * (1 - label), weights * p)
        ]
        return np.concatenate([[weights @ log_loss, weights @ (p - label) ** 2], *counted])

    def finish(self, sums: ArrayLike) -> dict[str, float]:
        total, (came, stayed, predicted) = self._parts(sums)
        rows = came.sum() + stayed.sum()
        auc, auc_error = area_under_roc(came, stayed)
        precision, precision_error = average_precision(came[::-1], stayed[::-1])
        groups = equal_groups(came + stayed, self.GROUPS)
        gaps = np.abs(np.bincount(groups, came - predicted, self.GROUPS)).sum()
        return {
            "log_loss": ratio(total[0], rows),
            "brier": ratio(total[1], rows),
            "auc": auc,
            "auc_error": auc_error,
            "average_precision": precision,
            "average_precision_error": precision_error,
            "ece": ratio(gaps, rows),
            "predicted_over_actual": ratio(predicted.sum(), came.sum()),
        }

    def calibration(self, sums: ArrayLike, groups: int = 15) -> Array:
        """(groups, 3): mean prediction, share of events, weight, by rising prediction; groups of no rows are left out.

        Args:
            sums: of `sums`.
            groups: of equal weight, as near as the bins' borders allow.
        """
        _, (came, stayed, predicted) = self._parts(sums)
        group = equal_groups(came + stayed, groups)
        weight, p, event = (np.bincount(group, values, groups) for values in (came + stayed, predicted, came))
        held = weight > 0
        return np.stack([p[held] / weight[held], event[held] / weight[held], weight[held]], axis=1)

    def recall_at(self, sums: ArrayLike, false_alarms: float) -> float:
        """Share of the events among the highest scores that take in this share of all that were none.

        Within the bin in which that share is reached events and others are taken in proportion.

        Args:
            sums: of `sums`.
            false_alarms: share of the rows without an event that may be taken in, 0 to 1.
        """
        _, (came, stayed, _) = self._parts(sums)
        others = stayed.sum()
        if not others:
            return float("nan")
        return ratio(reached(came[::-1], stayed[::-1], false_alarms * others), came.sum())

    def _bin(self, p: Array) -> NDArray[np.int64]:
        with np.errstate(divide="ignore"):
            log_odds = np.log(p) - np.log1p(-p)
        inner = np.floor((np.clip(log_odds, -LIMIT, LIMIT) + LIMIT) * (self.bins / (2 * LIMIT)))
        inside = 1 + np.minimum(inner, self.bins - 1).astype(np.int64)
        return np.where(p <= 0, 0, np.where(p >= 1, self.bins + 1, inside))

    def _parts(self, sums: ArrayLike) -> tuple[Array, Array]:
        """(2,) log loss and Brier score; (3, bins + 2) events, others, predicted, by rising score."""
        values = np.asarray(sums, np.float64)
        return values[:2], values[2:].reshape(3, -1)
