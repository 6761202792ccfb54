"""How log-odds are put right by rows that a model did not learn from: the line's knots, from additive counts.

    sums = counted(log_odds, label) + counted(more_log_odds, more_label)     # over batches and ranks
    knots = isotonic(sums)                                                   # training/models/calibration.py

Rows are counted in cells of 1/128 of the log-odds, so that one pass over them is enough and any number of ranks finds
the same line. Knows numpy alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from training.metrics.additive import Array, ratio, rows_of
from training.metrics.in_bins import equal_groups
from training.models.calibration import KNOTS

LIMIT, CELLS = 32.0, 8192  # log-odds; those beyond stand in the outer cells
WIDTH = 2 * CELLS
MIDDLES: Array = np.linspace(-LIMIT, LIMIT, CELLS, endpoint=False, dtype=np.float64) + LIMIT / CELLS
LEAST_SLOPE = 0.01  # in log-odds: where rows say nothing of an order, the model's stays
LEAST_ROWS = {"platt": 50, "isotonic": 100}  # of each label

_STEPS, _HALVINGS = 100, 40  # of Newton's method


def counted(log_odds: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """(WIDTH,) sums of weights by cell, of the events and then of the others.

    Args:
        log_odds: (rows,), as the model gives them.
        label: (rows,) 0 or 1; one between counts as that share of an event.
        weight: (rows,); None is 1.

    Raises:
        DataError: something is not finite, or shapes differ.
    """
    given, came, weights = rows_of(log_odds, label, weight)
    cells = np.clip((given + LIMIT) * (CELLS / (2 * LIMIT)), 0, CELLS - 1).astype(np.int64)
    return np.concatenate([np.bincount(cells, part, CELLS) for part in (weights * came, weights * (1 - came))])


def log_loss(sums: ArrayLike, true: ArrayLike = MIDDLES) -> float:
    """Mean over all rows, with `true` (CELLS,) for the log-odds of each cell."""
    came, stayed = np.asarray(sums, np.float64).reshape(2, CELLS)
    log_odds = np.asarray(true, np.float64)
    total = came @ np.logaddexp(0, -log_odds) + stayed @ np.logaddexp(0, log_odds)
    return ratio(total, came.sum() + stayed.sum())


def platt(sums: ArrayLike) -> Array:
    """(2, 2) knots of the straight line of most likelihood (Platt 1999).

    Slope and start have a prior, one and nothing with a standard deviation of 1: where rows say little the line changes
    little, and rows that are told apart without a miss have a finite slope. The line rises by LEAST_SLOPE at least.

    Args:
        sums: of `counted`.
    """
    came, stayed = np.asarray(sums, np.float64).reshape(2, CELLS)
    inputs, weight = np.stack([MIDDLES, np.ones(CELLS)]), came + stayed
    slope, start = _most_likely(inputs, np.zeros(CELLS), came, weight, np.array([1.0, 0.0]))
    if slope < LEAST_SLOPE:
        slope = LEAST_SLOPE
        (start,) = _most_likely(inputs[1:], LEAST_SLOPE * MIDDLES, came, weight, np.zeros(1))
    return np.array([[0.0, 1.0], [start, start + slope]])


def isotonic(sums: ArrayLike) -> Array:
    """(2, KNOTS) knots of the rising line through the shares of events of groups of equal weight.

    Neighbouring groups are joined until their shares rise (pool adjacent violators, Ayer et al. 1955); a knot stands in
    the middle of what was joined, so that lines between them rise (Oron and Flournoy 2017). Beyond the outer knots the
    line rises by LEAST_SLOPE. A lowest group without an event, or a highest without another row, counts as if half a
    row more had been one.

    Args:
        sums: of `counted`.
    """
    counts, knots = np.asarray(sums, np.float64).reshape(2, CELLS), KNOTS["isotonic"]
    group = equal_groups(counts.sum(0), knots - 2)
    parts = np.stack([np.bincount(group, part, knots - 2) for part in (*counts, counts.sum(0) * MIDDLES)], axis=1)
    blocks: list[Array] = []
    for part in parts[parts[:, :2].any(1)]:
        joined = part
        while blocks and blocks[-1][0] * joined[1] >= joined[0] * blocks[-1][1]:
            joined = joined + blocks.pop()
        blocks.append(joined)
    came, stayed, summed = np.array(blocks).T
    weight, share = came + stayed, came / (came + stayed)
    if came[0] == 0:
        share[0] = min(0.5 / (weight[0] + 1), *share[1:2] / 2)
    if stayed[-1] == 0:
        share[-1] = 1 - min(0.5 / (weight[-1] + 1), *(1 - share[-2:-1]) / 2)
    given, true = summed / weight, np.log(share) - np.log1p(-share)
    beyond = np.arange(1.0, knots - len(blocks))
    return np.stack(
        [
            np.concatenate([given[:1] - 1, given, given[-1] + beyond]),
            np.concatenate([true[:1] - LEAST_SLOPE, true, true[-1] + LEAST_SLOPE * beyond]),
        ]
    )


def _most_likely(inputs: Array, offset: Array, yes: Array, weight: Array, expected: Array) -> Array:
    """(inputs,) factors of a logistic regression over the cells: Newton's method, a step halved where it goes too far.

    Args:
        inputs: (inputs, CELLS).
        offset: (CELLS,) log-odds to begin with.
        yes: (CELLS,) weight of the events.
        weight: (CELLS,) of all rows.
        expected: (inputs,) the factors' prior means; each has a variance of 1.
    """

    def loss(factors: Array) -> float:
        log_odds = offset + factors @ inputs
        return float(weight @ np.logaddexp(0, log_odds) - yes @ log_odds + np.square(factors - expected).sum() / 2)

    factors = expected
    for _ in range(_STEPS):
        p = 0.5 + 0.5 * np.tanh((offset + factors @ inputs) / 2)  # a sigmoid that overflows nowhere
        gradient = inputs @ (weight * p - yes) + factors - expected
        curvature = (inputs * (weight * p * (1 - p))) @ inputs.T + np.eye(len(inputs))
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < 1e-12:
            break
        before = loss(factors)
        for _ in range(_HALVINGS):
            if loss(factors - step) <= before:
                break
            step = step / 2
        factors = factors - step
    return factors
