"""Paths of demand from a forecast's quantiles: counts for each step, and how steps go together.

    quantiles, mean of each step --fitted--> a negative binomial a step --> counts at even levels --> paths

Quantiles of steps do not add up: the sum of two steps' .9 quantiles lies above the .9 quantile of their sum. So a
series' steps become paths, whose sums are taken. Each step keeps the forecast's mean; its width is the dispersion with
which counts have the forecast's quantiles, one for all steps of a series, so that levels beyond the highest one that
was forecast are those of a count and no guess. Steps go together by a common part: a series that is forecast too low in
one week tends to be so in the next.

The paths are no random draws but the points of a lattice (Korobov, 1959), the same for each series: each step takes
each of its levels once, and the same forecast has the same paths wherever it is worked on. Steps beyond the lattice's
take theirs in the order of a hash.

Shape suffixes: N series, S steps, Q levels, D dispersions, P paths.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from spark_udfs.simulated.counts import growth, none_at_all

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PATHS, GENERATOR = 1_021, 956  # a prime; the multiplier whose quantiles of sums come nearest to those of drawn counts
LATTICE = 8  # steps; beyond, powers of the multiplier repeat each other nearly, and sums are too narrow or too wide
SALT = 36  # of the hash; of 0 to 39 the one whose sums of 9 to 90 Poisson counts have the variance nearest to theirs
COUNTED = 500.0  # means above are counted in larger units: 1,000 pieces as 500 pairs
DISPERSIONS = np.concatenate([[0.0], np.geomspace(0.004, 6.0, 27)])
TIED = 0.002  # of a level: dispersions that miss the quantiles by so little more are as good


def dispersion(quantiles_NSQ: Floats, mean_NS: Floats, levels: Sequence[float]) -> Floats:
    """(N,) the dispersion with which counts of these means have these quantiles; variance = mean + dispersion mean^2.

    A count q is the quantile of a level where the chance of q at most reaches it and that of q - 1 does not: what is
    missing of either is added up over levels and steps, and the dispersion that misses least is taken; of several that
    miss as little the middle one. Quantiles that are no whole numbers are held against the counts on both sides.

    Args:
        quantiles_NSQ: of each step, ascending.
        mean_NS: of each step.
        levels: of the quantiles, ascending.
    """
    series, steps, _ = quantiles_NSQ.shape
    unit = np.maximum(1.0, mean_NS / COUNTED)
    mean, held = (mean_NS / unit).ravel(), (quantiles_NSQ / unit[..., None]).reshape(series * steps, -1)
    spread = _in_units(DISPERSIONS[None, :], mean_NS.ravel()[:, None], mean[:, None])
    missed = _missed(held, mean, spread, np.asarray(levels)).reshape(series, steps, -1).sum(axis=1)
    near = missed <= missed.min(axis=1, keepdims=True) + TIED * steps
    return np.asarray(
        DISPERSIONS[np.round((near * np.arange(len(DISPERSIONS))).sum(axis=1) / near.sum(axis=1)).astype(int)]
    )


def _in_units(spread: Floats, mean: Floats, in_units: Floats) -> Floats:
    """The dispersion of counts in larger units that have the same variance; 0 where units alone are wider than that."""
    some = np.maximum(mean, 1e-12)
    return np.maximum(spread + 1 / some - 1 / np.maximum(in_units, 1e-12), 0.0)


def _missed(held_RQ: Floats, mean_R: Floats, spread_RD: Floats, levels: Floats) -> Floats:
    """(R, D) by how much the chances up to each quantile miss its level."""
    upper, lower = np.floor(held_RQ), np.ceil(held_RQ) - 1
    chance = none_at_all(mean_R[:, None], spread_RD)
    below, missed = np.zeros_like(chance), np.zeros_like(chance)
    for count in range(int(upper.max(initial=0)) + 1):
        below = below + chance
        for place, level in enumerate(levels):
            reached, passed = upper[:, place] == count, lower[:, place] == count
            missed[reached] += np.maximum(level - below[reached], 0)
            missed[passed] += np.maximum(below[passed] - level, 0)
        chance = chance * growth(mean_R[:, None], spread_RD, count)
    return missed


def counts(mean_R: Floats, dispersion_R: Floats, paths: int = PATHS) -> Floats:
    """(R, P) the quantiles of counts at the levels (.5, 1.5, ...) / P, ascending.

    Means above COUNTED are counted in larger units of the same mean and variance; where these would be wider than the
    count itself, by the normal law with the Poisson's skew (Cornish and Fisher, 1938).
    """
    unit = np.maximum(1.0, mean_R / COUNTED)
    spread = _in_units(dispersion_R, mean_R, mean_R / unit)
    found = _walked(mean_R / unit, spread, paths) * unit[:, None]
    if (narrow := (unit > 1) & (spread == 0)).any():
        normal = np.array([NormalDist().inv_cdf((place + 0.5) / paths) for place in range(paths)])
        mean = mean_R[narrow, None]
        wide = np.sqrt(mean + dispersion_R[narrow, None] * mean**2)
        found[narrow] = np.maximum(mean + wide * normal + (normal**2 - 1) / 6, 0.0)
    return np.asarray(np.round(found))


def _walked(mean_R: Floats, spread_R: Floats, paths: int) -> Floats:
    """Counts from 0 on: of each, from which level on draws are above it."""
    above = np.zeros((len(mean_R), paths + 1))
    rows, chance, below = np.arange(len(mean_R)), none_at_all(mean_R, spread_R), np.zeros(len(mean_R))
    count = 0
    while len(rows):
        below = below + chance
        first = np.floor(below * paths + 0.5).astype(np.int64)
        is_open = (first < paths) & ((chance > 0) | (count < mean_R[rows]))
        rows, chance, below, first = rows[is_open], chance[is_open], below[is_open], first[is_open]
        above[rows, first] += 1
        chance = chance * growth(mean_R[rows], spread_R[rows], count)
        count += 1
    return np.cumsum(above, axis=1)[:, :paths]


def places(steps: int, correlation: float, paths: int = PATHS) -> Ints:
    """(S, P) which of its levels each step takes on each path: a permutation a step.

    Normal scores of the steps have this correlation, all alike; the levels are where these stand (Iman and Conover,
    1982).
    """
    normal = np.array([NormalDist().inv_cdf((place + 0.5) / paths) for place in range(paths)])
    score = normal[np.array([_order_of(step, paths) for step in range(steps + 1)])]
    mixed = math.sqrt(correlation) * score[0] + math.sqrt(1 - correlation) * score[1:]
    return np.argsort(np.argsort(mixed, axis=1, kind="stable"), axis=1, kind="stable")


def _order_of(step: int, paths: int) -> Ints:
    """(P,) the numbers below P, each once: of the first steps a lattice's, of the later ones in the order of a hash."""
    point = np.arange(paths)
    if step <= LATTICE:
        return point * pow(GENERATOR, step, paths) % paths
    digests = [hashlib.blake2b(f"{SALT} {step} {each}".encode(), digest_size=8).digest() for each in range(paths)]
    return np.array(sorted(range(paths), key=digests.__getitem__))


def demand_paths(quantiles_NSQ: Floats, mean_NS: Floats, levels: Sequence[float], place_SP: Ints) -> Floats:
    """(N, S, P) paths of demand.

    Args:
        quantiles_NSQ: of each step that is forecast, ascending: all of them say how wide a series' counts are.
        mean_NS: of each of these steps.
        levels: of the quantiles, ascending.
        place_SP: from `places`, of the first steps, which are those that have paths.
    """
    series, steps = len(mean_NS), len(place_SP)
    spread = np.repeat(dispersion(quantiles_NSQ, mean_NS, levels), steps)
    held = counts(mean_NS[:, :steps].ravel(), spread, place_SP.shape[1]).reshape(series, steps, -1)
    return np.take_along_axis(held, np.broadcast_to(place_SP, held.shape), axis=2)
