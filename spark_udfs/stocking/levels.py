"""How much to order: the newsvendor's quantile, and batches where an order has a cost of its own.

What an order costs in its review (costs.py) is least at the need's quantile under / (under + over): the newsvendor's
answer (Arrow, Harris and Marschak, 1951), which raises the position to the base-stock level. Where each order costs K,
it pays to wait and to order more at once. An order that is the only one of n reviews is raised to S, the quantile of
the needs of all n together, and the n that costs least a review is taken; 1 is the base stock. A batch that lasts
longer than FEW reviews costs (K rate + the sum of G over the positions that it covers) / its size a review, which is
least where G is as high as that at both of its ends (Federgruen and Zheng, 1992). Either way an order is placed where
the review without one costs as much as a review of the best policy does, or more: at s or below (Zheng and Federgruen,
1991). Both are told here from where the position is now: an order is placed if s is 0 or more.

Shape suffixes: N series, P paths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spark_udfs.stocking.costs import Costs, Curve, quantile, ratio

Floats = npt.NDArray[np.float64]

FEW = 6  # reviews that are counted one by one
HALVINGS = 40


class Levels(NamedTuple):
    """What to order of some series, before packs and shelves.

    Attributes:
        at: (N,) an order is placed if this is 0 or more; how far the position lies below s.
        upto: (N,) and then is so large; how far it lies below S.
    """

    at: Floats
    upto: Floats

    @property
    def quantity(self) -> Floats:
        """(N,) pieces to order now."""
        return np.where(self.at >= 0, np.maximum(self.upto, 0.0), 0.0)


def levels(need_NP: Floats, costs: Costs) -> Levels:
    """What to order of each series.

    Args:
        need_NP: from `needs`, ascending.
        costs: of the series.
    """
    level = ratio(costs)
    best = quantile(need_NP, level)
    best = np.where(level > 0, best, np.minimum(best, 0.0))
    at, upto = best - 1, best.copy()  # a piece too few orders it
    if (batched := (costs.order > 0) & (costs.over > 0) & (level > 0)).any():
        curve = Curve(need_NP[batched], costs.of(batched))
        upto[batched], each = _best(curve, level[batched])
        at[batched] = _reorder(curve, upto[batched], each)
    return Levels(at, upto)


def _best(curve: Curve, level: Floats) -> tuple[Floats, Floats]:
    """(N,) S, and what a review costs with it."""
    size, upto, each = _batch(curve)
    is_short = curve.costs.once | (size <= FEW * curve.costs.rate)
    if is_short.any():
        few = Curve(curve.need[is_short], curve.costs.of(is_short))
        upto[is_short], each[is_short] = _best_of_few(few, level[is_short])
    return upto, each


def _best_of_few(curve: Curve, level: Floats) -> tuple[Floats, Floats]:
    """(N,) the same of orders that are to last FEW reviews at most."""
    upto, each = _only_order_of(curve, level, 1)
    for reviews in range(2, FEW + 1):
        other, its = _only_order_of(curve, level, reviews)
        is_better = ~curve.costs.once & (its < each)
        upto, each = np.where(is_better, other, upto), np.where(is_better, its, each)
    return upto, each


def _only_order_of(curve: Curve, level: Floats, reviews: int) -> tuple[Floats, Floats]:
    """(N,) S in whole pieces of an order that is the only one of some reviews, and what each of them costs."""
    later = np.arange(reviews) * curve.costs.rate[:, None]
    paths = curve.need.shape[1]
    low, high = np.floor(curve.need[:, 0]) - 1, np.ceil(curve.need[:, -1] + later[:, -1])
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        is_met = curve.below(middle[:, None] - later).sum(axis=1) >= level * paths * reviews - 1e-9
        low, high = np.where(is_met, low, middle), np.where(is_met, middle, high)
    return high, (curve.costs.order + curve.at(high[:, None] - later).sum(axis=1)) / reviews


def _batch(curve: Curve) -> tuple[Floats, Floats, Floats]:
    """(N,) how large the best batch is where demand comes piece by piece, S, and what a review costs.

    G is a line between needs, and beyond them; so the area below a cost is known for each cost.
    """
    costs, height, width = curve.costs, curve.at_needs(), np.diff(curve.need, axis=1)
    fall, wanted = np.abs(np.diff(height, axis=1)), costs.order * costs.rate
    is_flat = fall <= 1e-12 * height.max(axis=1, keepdims=True)
    # of a line from one depth to another, cut off where it is none: the difference of two triangles
    by_square, by_depth = (
        np.where(is_flat, 0.0, width / np.where(is_flat, 1.0, 2 * fall)),
        np.where(is_flat, width, 0.0),
    )
    bottom = height.min(axis=1)
    top = height.max(axis=1) + np.sqrt(2 * wanted * np.maximum(costs.under, costs.over))
    for _ in range(HALVINGS):
        middle = (bottom + top) / 2
        depth = np.maximum(middle[:, None] - height, 0.0)
        area = (np.abs(np.diff(depth * depth, axis=1)) * by_square + depth[:, 1:] * by_depth).sum(axis=1)
        area += depth[:, 0] ** 2 / (2 * costs.under) + depth[:, -1] ** 2 / (2 * costs.over)
        bottom, top = np.where(area < wanted, middle, bottom), np.where(area < wanted, top, middle)
    low, high = _crossed(curve, height, top, rising=False), _crossed(curve, height, top, rising=True)
    return high - low, np.ceil(high - 1e-9), top


def _crossed(curve: Curve, height_NP: Floats, level: Floats, *, rising: bool) -> Floats:
    """(N,) where G crosses a height, on its rising or its falling side."""
    step, slope = (-1, curve.costs.over) if rising else (1, curve.costs.under)
    need, height = curve.need[:, ::step], height_NP[:, ::step]  # from the far end inwards
    rows, is_in = np.arange(len(need)), height <= level[:, None]
    inner = np.where(is_in.any(axis=1), is_in.argmax(axis=1), height.argmin(axis=1))
    outer = np.maximum(inner - 1, 0)
    fall = height[rows, outer] - height[rows, inner]
    share = np.clip((level - height[rows, inner]) / np.where(fall > 0, fall, 1.0), 0.0, 1.0)
    between = need[rows, inner] + share * (need[rows, outer] - need[rows, inner])
    beyond = need[:, 0] - step * np.maximum(level - height[:, 0], 0.0) / slope
    return np.where(inner == 0, beyond, between)


def _reorder(curve: Curve, upto: Floats, each: Floats) -> Floats:
    """(N,) s, in whole pieces: the highest position below S without an order costs a review this or more."""
    low = np.floor(curve.need[:, 0] - each / curve.costs.under) - 1
    high = np.maximum(upto, low + 1)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        is_dear = curve.at(middle[:, None])[:, 0] >= each * (1 - 1e-12)
        low, high = np.where(is_dear, middle, low), np.where(is_dear, high, middle)
    return low
