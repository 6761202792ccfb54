"""Counts about a mean: Poisson, or negative binomial with variance mean + dispersion * mean ** 2.

One function answers both what a draw gives and what the true quantile is: a draw is the quantile at a uniform level.
"""

from __future__ import annotations

import numpy as np

from spark_udfs.simulated.tastes import Floats, Ints

MOST = 100_000  # no count is larger


def quantile(mean: Floats, dispersion: Floats, level: Floats) -> Ints:
    """The smallest count that a draw exceeds with probability 1 - level at most.

    Args:
        mean: from 0 to 700: the counts are walked through one by one from 0, whose probability a float must hold.
        dispersion: 0 for Poisson.
        level: between 0 and 1, both left out.
    """
    mean, dispersion, level = (np.atleast_1d(values) for values in np.broadcast_arrays(mean, dispersion, level))
    count = np.zeros(mean.shape, np.int64)
    probability = none_at_all(mean, dispersion)
    below = probability.copy()
    todo = np.flatnonzero(below < level)
    number = 0
    while len(todo) and number < MOST:  # rounding may leave the whole below a level that is next to 1
        probability[todo] *= growth(mean[todo], dispersion[todo], number)
        number += 1
        below[todo] += probability[todo]
        count[todo] = number
        todo = todo[below[todo] < level[todo]]
    return count


def expected_pinball(mean: Floats, dispersion: Floats, forecast: Floats, level: float) -> Floats:
    """The pinball loss that a forecast of the level's quantile expects: nothing expects less than the true quantile.

    E max(level * (y - f), (level - 1) * (y - f)) = level * (mean - f) + E (f - y)+.
    """
    mean, dispersion, forecast = np.broadcast_arrays(mean, dispersion, forecast)
    probability, short = none_at_all(mean, dispersion), np.zeros(mean.shape)
    for number in range(int(np.ceil(np.max(forecast, initial=0)))):
        short += probability * np.maximum(forecast - number, 0)
        probability = probability * growth(mean, dispersion, number)
    return np.asarray(level * (mean - forecast) + short)


def none_at_all(mean: Floats, dispersion: Floats) -> Floats:
    """The probability of 0."""
    spread = np.where(dispersion > 0, dispersion, 1.0)
    return np.where(dispersion > 0, np.exp(-np.log1p(spread * mean) / spread), np.exp(-mean))


def growth(mean: Floats, dispersion: Floats, number: int) -> Floats:
    """The probability of number + 1 over that of number."""
    return np.asarray(mean * (1 + dispersion * number) / ((1 + dispersion * mean) * (number + 1)))
