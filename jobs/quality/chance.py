"""How far a figure of a batch may lie from those of good ones, by chance and by how good ones differ; and the PSI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

PRIOR_WEIGHT = 3  # batches that say as much of how good ones differ as is said of it beforehand
HALF = 0.5  # a row, in each class: a class that nobody was in yet is not impossible
GROUPS, LEAST_GROUP = 12, 0.04  # of classes that lie side by side; the share of a group of categories


class Figure(NamedTuple):
    """A figure of a batch, and the standard deviation that chance gives it."""

    value: float
    noise: float


class Band(NamedTuple):
    """What a figure is expected to be: `middle`, give or take `width`."""

    middle: float
    width: float


def band(good: Sequence[Figure], noise: float, prior: float, sigmas: float) -> Band:
    """What is expected of a figure.

    How good batches differ beyond chance is estimated from them; while they are few it is assumed beforehand: by
    `prior`, and by as much again as chance, for the rows of one customer are alike.

    Args:
        good: of good batches; one at least.
        noise: the standard deviation that chance gives the new figure.
        prior: a standard deviation.
        sigmas: how many standard deviations are allowed.
    """
    middle = median(figure.value for figure in good)
    beyond = sum((figure.value - middle) ** 2 - figure.noise**2 for figure in good)
    assumed = PRIOR_WEIGHT * (prior**2 + noise**2)
    between = (max(0.0, beyond) + assumed) / (len(good) - 1 + PRIOR_WEIGHT)
    return Band(middle, sigmas * math.sqrt(between * (1 + 1 / len(good)) + noise**2))


def psi(one: Sequence[float], other: Sequence[float]) -> float:
    """The population stability index of two sets of counts of the same classes.

    The sum of (p - q) ln(p / q): 0, the same; .1 is called a small shift, .25 a large one (Siddiqi, Credit Risk
    Scorecards, 2006).
    """
    rows, others = sum(one) + HALF * len(one), sum(other) + HALF * len(other)
    shares = [((a + HALF) / rows, (b + HALF) / others) for a, b in zip(one, other, strict=True)]
    return sum((p - q) * math.log(p / q) for p, q in shares)


def psi_noise(classes: int, rows: float, others: float) -> Figure:
    """What the index is by chance alone, where rows are drawn one by one: (classes - 1)(1/n + 1/m), as a chi-square."""
    scale = 1 / max(1.0, rows) + 1 / max(1.0, others)
    return Figure((classes - 1) * scale, math.sqrt(2 * max(1, classes - 1)) * scale)


def pooled(counts: Sequence[Mapping[int, int]]) -> dict[int, int]:
    """The counts of several batches together."""
    total: dict[int, int] = {}
    for held in counts:
        for number, count in held.items():
            total[number] = total.get(number, 0) + count
    return total


def ranges(counts: Mapping[int, int], groups: int = GROUPS) -> list[int]:
    """The last class of each group, but for the last group: groups of classes side by side with about as many rows."""
    wanted, edges, held = sum(counts.values()) / groups, list[int](), 0.0
    for number in sorted(counts):
        held += counts[number]
        if held >= wanted:
            edges.append(number)
            held = 0.0
    return edges[:-1] if edges and edges[-1] == max(counts) else edges


def by_ranges(counts: Mapping[int, int], edges: Sequence[int]) -> list[float]:
    """Rows by group of `ranges`."""
    held = [0.0] * (len(edges) + 1)
    for number, count in counts.items():
        held[sum(edge < number for edge in edges)] += count
    return held


def by_category(counts: Mapping[int, int], named: Sequence[int]) -> list[float]:
    """Rows by category, of the others together."""
    held = [float(counts.get(number, 0)) for number in named]
    return [*held, max(0.0, sum(counts.values()) - sum(held))]


def categories(counts: Mapping[int, int]) -> list[int]:
    """The categories that are compared one by one."""
    total = sum(counts.values())
    return [number for number in sorted(counts) if counts[number] >= LEAST_GROUP / 2 * total]
