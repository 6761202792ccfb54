"""Metrics of rows and panels as additive sums: what a rank, a partition or a resample counts may be added up.

    metric = Binary()
    sums = metric.sums(p, label, weight) + metric.sums(more_p, more_label)    # (metric.width,) float64 each
    metric.finish(sums)["auc"]

Knows numpy alone, so that Spark's executors and ranks count the same. A row that weighs 2 counts as two rows: a Poisson
bootstrap passes its draws as weights. Rows of weight 0 are not looked at, whatever they hold.

Scores are kept as a histogram over their log-odds (`Binary`): two scores whose odds differ by less than `resolution`
may fall together, and what that can change at most is part of the result (`auc_error`, `average_precision_error`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.errors import DataError, SettingsError

Array = NDArray[np.float64]

LIMIT = 16.0  # log-odds; scores nearer to 0 or 1 than 1.1e-7, which float32 can hardly tell from them, fall together
CLIP = 1e-7  # of probabilities in the log loss


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
        p, label, weights = _rows(answer, truth, weight)
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
        auc, auc_error = _auc(came, stayed)
        precision, precision_error = _average_precision(came[::-1], stayed[::-1])
        groups = equal_groups(came + stayed, self.GROUPS)
        gaps = np.abs(np.bincount(groups, came - predicted, self.GROUPS)).sum()
        return {
            "log_loss": _ratio(total[0], rows),
            "brier": _ratio(total[1], rows),
            "auc": auc,
            "auc_error": auc_error,
            "average_precision": precision,
            "average_precision_error": precision_error,
            "ece": _ratio(gaps, rows),
            "predicted_over_actual": _ratio(predicted.sum(), came.sum()),
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
        return _ratio(reached(came[::-1], stayed[::-1], false_alarms * others), came.sum())

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


class Errors(Metric):
    """Numbers against numbers: `mae`, `rmse`, `wape` (sum of errors over sum of truths), `bias` (mean error)."""

    width = 5

    def sums(self, answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None = None) -> Array:
        """Of arrays of one shape; the first dimension is the rows."""
        answers, truths, weights = _rows(answer, truth, weight)
        error = answers - truths
        values = [np.ones_like(error), np.abs(error), error**2, error, np.abs(truths)]
        return np.array([weights @ value for value in values])

    def finish(self, sums: ArrayLike) -> dict[str, float]:
        rows, absolute, square, error, size = np.asarray(sums, np.float64)
        return {
            "mae": _ratio(absolute, rows),
            "rmse": float(np.sqrt(_ratio(square, rows))),
            "wape": _ratio(absolute, size),
            "bias": _ratio(error, rows),
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
            found, truths, weights = _rows(quantiles[..., number], truth, weight)
            error = truths - found
            parts.append([weights @ np.maximum(level * error, (level - 1) * error), weights @ (error <= 0)])
            together = [weights.sum(), weights @ np.abs(truths)]
        return np.array([*together, *(value for part in parts for value in part)])

    def finish(self, sums: ArrayLike) -> dict[str, float]:
        rows, size, *rest = np.asarray(sums, np.float64).tolist()
        losses, below = rest[0::2], rest[1::2]
        return {
            "pinball": _ratio(float(np.mean(losses)), rows),
            "wql": _ratio(2 * float(np.mean(losses)), size),
            **{f"coverage_{level:g}": _ratio(part, rows) for level, part in zip(self.levels, below, strict=True)},
        }


def _rows(answer: ArrayLike, truth: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array, Array]:
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


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below else float("nan")


def pairs_in_order(later: Array, earlier: Array) -> Array:
    """(...) over (..., bins): the pairs of one of each that lie so in the bins; those within a bin count half.

    The area under the ROC curve is their share of all pairs.
    """
    before = np.cumsum(earlier, axis=-1) - earlier
    return np.asarray((later * (before + earlier / 2)).sum(axis=-1))


def reached(adds: Array, spends: Array, budget: ArrayLike) -> Array:
    """(...) over (..., bins): what bins add up to when a budget is spent on them in their order, on the last in part.

    Args:
        adds: what each bin adds.
        spends: what it costs; where that is nothing, it comes with the bin before it.
        budget: (...) of each row of bins.
    """
    spent, each = np.cumsum(spends, axis=-1) - spends, np.asarray(budget)[..., None]
    share = np.clip((each - spent) / np.where(spends > 0, spends, 1), 0, 1)
    return np.asarray((adds * np.where(spends > 0, share, spent <= each)).sum(axis=-1))


def _auc(came: Array, stayed: Array) -> tuple[float, float]:
    """Area under the ROC curve, bins by rising score, ties counted half; and what order within bins can change."""
    pairs = came.sum() * stayed.sum()
    return _ratio(pairs_in_order(came, stayed), pairs), _ratio(came @ stayed / 2, pairs)


def _average_precision(came: Array, stayed: Array) -> tuple[float, float]:
    """Bins by falling score, each one threshold; and what order within bins can change at most.

    Whatever the order in a bin, the precision at each of its events is at most that with all of the bin's events and
    none of its others taken in, and at least that with all others taken in before the first.
    """
    found, alarms = np.cumsum(came), np.cumsum(stayed)
    at = np.flatnonzero(came)
    events, hits, others, inside = came[at], found[at], alarms[at], stayed[at]
    value = events @ (hits / (hits + others))
    most = events @ (hits / (hits + others - inside))
    # The sum over events of (before + x) / (before + x + others) is at least its integral over the bin's events.
    before = np.where(others > 0, hits - events + others, hits + others)  # without others it is all of the events
    least = np.sum(events - others * np.log((hits + others) / before))
    every = came.sum()
    return _ratio(value, every), _ratio(max(most - value, value - least), every)


def equal_groups(weight: Array, groups: int) -> NDArray[np.int64]:
    """The group of each bin, of about equal weight, by the place of its middle in the cumulative weight."""
    middle = np.cumsum(weight) - weight / 2
    return np.minimum((middle / max(float(weight.sum()), 1e-300) * groups).astype(np.int64), groups - 1)
