"""What orders from quantiles are held against: base-stock levels from a mean and normal errors, other sums of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spark_udfs.stocking.costs import quantile
from spark_udfs.stocking.paths import PATHS, counts, demand_paths, dispersion, places
from spark_udfs.stocking.play import Played, Seen

Floats = NDArray[np.float64]
LATE = 26  # weeks that the mean to beat is of
WIDEST = 6.0  # dispersion


class Cut(NamedTuple):
    """A bundle that knows nothing from a week on, and what it forecasts in that week and in each of those after it.

    Attributes:
        week: the cut.
        quantiles: by origin, (series, steps, levels).
        means: by origin, (series, steps).
        history: by origin, (series, weeks) what was sold before it, oldest first.
        then: (series, weeks) what was sold from the cut on.
        levels: of the quantiles.
    """

    week: int
    quantiles: list[Floats]
    means: list[Floats]
    history: list[Floats]
    then: Floats
    levels: tuple[float, ...]


def mean_and_error(history: Floats) -> tuple[Floats, Floats]:
    """(series,) the mean of the newest weeks, and the standard deviation of a week."""
    late = history[:, -LATE:]
    return late.mean(axis=1), late.std(axis=1, ddof=1)


def normal_sum(history: Floats, weeks: int, level: float) -> Floats:
    """(series,) the quantile of some weeks' sum by a mean and normal errors."""
    mean, error = mean_and_error(history)
    return mean * weeks + NormalDist().inv_cdf(level) * error * np.sqrt(weeks)


def counted_sum(history: Floats, weeks: int, level: float, correlation: float, *, wide: bool) -> Floats:
    """(series,) the quantile of some weeks' sum of counts about the mean: Poisson, or as wide as the weeks were."""
    mean, error = mean_and_error(history)
    spread = np.where(wide & (mean > 0), np.maximum(error**2 - mean, 0) / np.maximum(mean, 1e-9) ** 2, 0.0)
    held = counts(np.repeat(mean, weeks), np.repeat(np.minimum(spread, WIDEST), weeks)).reshape(len(mean), weeks, -1)
    order = np.broadcast_to(places(weeks, correlation), held.shape)
    return quantile(np.sort(np.take_along_axis(held, order, axis=2).sum(axis=1), axis=1), np.full(len(mean), level))


def sums_of_mean(weeks: int, level: float, correlation: float) -> dict[str, Callable[[Floats], Floats]]:
    """By name, what needs no training: the quantile of some weeks' sum from what was sold, in whole pieces."""
    return {
        "normal, nearest": lambda history: np.round(normal_sum(history, weeks, level)),
        "normal, up": lambda history: np.ceil(normal_sum(history, weeks, level)),
        "Poisson": lambda history: counted_sum(history, weeks, level, correlation, wide=False),
        "negative binomial": lambda history: counted_sum(history, weeks, level, correlation, wide=True),
    }


def base_stock(cut: Cut, weeks: int, upto: Callable[[Floats], Floats]) -> Callable[[Seen], Floats]:
    """Up to a quantile of demand until the next order's arrival."""

    def policy(seen: Seen) -> Floats:
        position = seen.on_hand + seen.arrivals[:, :weeks].sum(axis=1)
        return np.maximum(upto(cut.history[seen.period]) - position, 0.0)

    return policy


def of_sums(cut: Cut, weeks: int, correlation: float) -> dict[str, Callable[[float], Floats]]:
    """Ways to the quantile of the first weeks' sum, as of the cut."""
    quantiles, means = cut.quantiles[0], cut.means[0]

    def of_paths(paths: Floats) -> Callable[[float], Floats]:
        sums = np.sort(paths.sum(axis=1), axis=1)
        return lambda level: quantile(sums, np.full(len(sums), level))

    def alone(level: float) -> Floats:
        spread = np.repeat(dispersion(quantiles, means, cut.levels), weeks)
        held = counts(means[:, :weeks].ravel(), spread).reshape(len(means), weeks, -1)
        return held[..., int(np.ceil(level * PATHS)) - 1].sum(axis=1)

    return {
        "counts, each week by itself": of_paths(demand_paths(quantiles, means, cut.levels, places(weeks, 0.0))),
        "counts, correlated": of_paths(demand_paths(quantiles, means, cut.levels, places(weeks, correlation))),
        "lines between quantiles": of_paths(lines(quantiles[:, :weeks], cut.levels, places(weeks, correlation))),
        "sum of quantiles": alone,
        "mean of 26, normal": lambda level: normal_sum(cut.history[0], weeks, level),
    }


def lines(quantiles: Floats, levels: Sequence[float], place: NDArray[np.int64]) -> Floats:
    """(series, steps, paths) of the quantile functions that are lines between the levels, and go on beyond them."""
    at, held = (np.arange(PATHS) + 0.5) / PATHS, np.asarray(levels)
    right = np.clip(np.searchsorted(held, at), 1, len(held) - 1)
    share = (at - held[right - 1]) / (held[right] - held[right - 1])
    found = np.maximum(quantiles[..., right - 1] * (1 - share) + quantiles[..., right] * share, 0.0)
    return np.take_along_axis(found, np.broadcast_to(place, found.shape), axis=2)


def covered(cut: Cut, correlation: float, targets: Sequence[float]) -> dict[str, Any]:
    """By way and number of weeks, the share of sums at or below each quantile."""
    return {
        f"{weeks} weeks": {
            name: {
                str(level): round(float((cut.then[:, :weeks].sum(axis=1) <= way(level)).mean()), 4) for level in targets
            }
            for name, way in of_sums(cut, weeks, correlation).items()
        }
        for weeks in (1, 2, 4)
    }


def measured_correlation(cut: Cut) -> float:
    """Of the errors of a series' steps, in units of what they are expected to be, over all pairs of steps."""
    spread = dispersion(cut.quantiles[0], cut.means[0], cut.levels)[:, None]
    error = (cut.then - cut.means[0]) / np.sqrt(cut.means[0] + spread * cut.means[0] ** 2)
    error = error - error.mean(axis=0)
    held = np.corrcoef(error.T)
    return float(held[np.triu_indices(len(held), 1)].mean())


def cost(played: Played, under: Floats, over: float, first: int) -> float:
    """What weeks from `first` on cost: pieces short and pieces left."""
    short, left = played.short[:, first:], played.left[:, first:]
    return float((under[:, None] * short).sum() + over * left.sum())


def service(played: Played, first: int) -> float:
    """The share of weeks from `first` on without a piece short."""
    return float((played.short[:, first:] == 0).mean())
