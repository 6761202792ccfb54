"""Curves over rows that are counted in bins by their score: exact between bins, told for what lies within one.

Knows numpy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.metrics.additive import Array, ratio

_HARMONIC = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 64))])  # further ones by their series


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


def equal_groups(weight: Array, groups: int) -> NDArray[np.int64]:
    """The group of each bin, of about equal weight, by the place of its middle in the cumulative weight."""
    middle = np.cumsum(weight) - weight / 2
    return np.minimum((middle / max(float(weight.sum()), 1e-300) * groups).astype(np.int64), groups - 1)


def area_under_roc(came: Array, stayed: Array) -> tuple[float, float]:
    """Area under the ROC curve, bins by rising score, ties counted half; and what order within bins can change."""
    pairs = came.sum() * stayed.sum()
    return ratio(pairs_in_order(came, stayed), pairs), ratio(came @ stayed / 2, pairs)


def average_precision(came: Array, stayed: Array) -> tuple[float, float]:
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
    return ratio(value, every), ratio(max(most - value, value - least), every)


def precisions_in_random_order(yes: Array, every: Array) -> Array:
    """(..., bins) the precisions at a bin's positives added up, as expected where its rows stand in random order.

    At the k-th of n rows, y of them positive, stands a positive with probability y / n; on the average the bin's rows
    before it hold (k - 1) (y - 1) / (n - 1) others. The sum over k has a closed form in harmonic numbers.
    """
    before, found = (np.cumsum(part, axis=-1) - part for part in (every, yes))
    density = (yes - 1) / np.maximum(every - 1, 1)
    head = (found + 1 - density * (before + 1)) * (_harmonic(before + every) - _harmonic(before))
    return yes / np.maximum(every, 1) * (every * density + head)


def _harmonic(count: Array) -> Array:
    """1 + 1/2 + ... + 1/count, of whole numbers from 0 on."""
    large = np.maximum(count, len(_HARMONIC))
    series = np.log(large) + np.euler_gamma + 1 / (2 * large) - 1 / (12 * large**2) + 1 / (120 * large**4)
    small = np.minimum(count, len(_HARMONIC) - 1).astype(np.int64)
    return np.where(count < len(_HARMONIC), _HARMONIC[small], series)
