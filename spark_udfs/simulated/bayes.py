"""What the planted probabilities themselves score: nobody who knows less can expect more.

The figures are expectations over the labels, not those of one draw: each row counts as `p` positives and `1 - p`
negatives. Probabilities that were counted elsewhere (say in bins, for tables of any size) come with their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spark_udfs.simulated import counts
from spark_udfs.simulated.tastes import Floats


def auc(p: Floats, weight: Floats | None = None) -> float:
    """The area under the ROC curve of the truth as score; equal scores count half."""
    positive, negative = _by_score(p, weight)
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2)) / (positive.sum() * negative.sum()))


def average_precision(p: Floats, weight: Floats | None = None) -> float:
    """The area under the steps of precision over recall, of the truth as score."""
    positive, negative = (of_score[::-1] for of_score in _by_score(p, weight))
    precision = np.cumsum(positive) / np.cumsum(positive + negative)
    return float(np.sum(positive * precision) / positive.sum())


def log_loss(p: Floats, weight: Floats | None = None) -> float:
    """The mean entropy, in nats."""
    inside = np.clip(p, 1e-15, 1 - 1e-15)
    return float(np.average(-(p * np.log(inside) + (1 - p) * np.log1p(-inside)), weights=weight))


def wql(mean: Floats, dispersion: Floats, levels: Sequence[float]) -> float:
    """The weighted quantile loss of the true quantiles: twice the pinball loss over the demand, mean of the levels."""
    losses = []
    for level in levels:
        true = counts.quantile(mean, dispersion, np.full_like(mean, level)).astype(np.float64)
        losses.append(2 * counts.expected_pinball(mean, dispersion, true, level).sum() / mean.sum())
    return float(np.mean(losses))


def _by_score(p: Floats, weight: Floats | None) -> tuple[Floats, Floats]:
    """Expected positives and negatives at each score, from the lowest."""
    weights = np.ones_like(p) if weight is None else weight
    _, place = np.unique(p, return_inverse=True)
    positive, negative = (np.bincount(place, weights * share) for share in (p, 1 - p))
    return positive, negative
