"""How much to order: the newsvendor's quantile, and batches where an order has a cost of its own.

With what a piece too few costs (under) and a piece too many (over), an order of q is expected to cost

    G(q) = over E(q - need)+ + under E(need - q)+

which is least at the need's quantile under / (under + over): the newsvendor's answer (Arrow, Harris and Marschak,
1951), which raises the position to the base-stock level. Where each order costs K, it pays to wait and to order more at
once: a batch that covers the positions from a to b costs (K rate + sum of G over them) / (b - a) a review, which is
least where G(a) = G(b) = that cost (Federgruen and Zheng, 1992). An order is placed when the position is at a or below,
and raises it to b: (s, S). Both are told here from where the position is now: b is ordered if a is 0 or more.

Shape suffixes: N series, P paths, X places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PLACES, HALVINGS = 257, 40


class Costs(NamedTuple):
    """What orders of some series cost, in one currency.

    Attributes:
        under: (N,) a piece that is asked for and not there.
        over: (N,) a piece that is left at the end of the window.
        order: (N,) each order; 0: nothing.
        rate: (N,) pieces that are asked for in a review, on the average.
    """

    under: Floats
    over: Floats
    order: Floats
    rate: Floats

    def at_price(self, money: Floats) -> Costs:
        """The costs where money is short: each piece takes some, which one too few saves and one too many has taken."""
        return self._replace(under=np.maximum(self.under - money, 0.0), over=self.over + money)


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


def ratio(costs: Costs) -> Floats:
    """(N,) the level at which the need's quantile is ordered; 0 where a piece too few costs nothing."""
    both = costs.under + costs.over
    return np.where(both > 0, costs.under / np.where(both > 0, both, 1.0), 0.0)


def quantile(need_NP: Floats, level: Floats) -> Floats:
    """(N,) the least order in whole pieces that meets the need on this share of the paths.

    Args:
        need_NP: ascending.
        level: (N,).
    """
    paths = need_NP.shape[1]
    place = np.clip(np.ceil(level * paths - 1e-9).astype(np.int64) - 1, 0, paths - 1)
    return np.asarray(np.ceil(np.take_along_axis(need_NP, place[:, None], axis=1)[:, 0] - 1e-9))


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
    if (batched := (costs.order > 0) & (costs.over > 0) & (costs.under > 0)).any():
        some = Costs(*(each[batched] for each in costs))
        at[batched], upto[batched] = _batches(need_NP[batched], some)
    return Levels(at, upto)


def expected(need_NP: Floats, quantity: Floats) -> tuple[Floats, Floats, Floats]:
    """(N,) each: the share of paths on which an order meets the need, pieces short, and pieces left."""
    gap = need_NP - quantity[:, None]
    return (gap <= 1e-9).mean(axis=1), np.maximum(gap, 0).mean(axis=1), np.maximum(-gap, 0).mean(axis=1)


def cost(need_NP: Floats, quantity: Floats, costs: Costs) -> Floats:
    """(N,) what an order is expected to cost in its window, itself included."""
    _, short, left = expected(need_NP, quantity)
    return costs.under * short + costs.over * left + np.where(quantity > 0, costs.order, 0.0)


def _batches(need_NP: Floats, costs: Costs) -> tuple[Floats, Floats]:
    """(N,) a and b, in whole pieces."""
    of_order = 2 * costs.order * costs.rate
    low = need_NP[:, 0] - np.sqrt(of_order / costs.under) - 1  # beyond the needs G is a line, and so is the area's root
    high = need_NP[:, -1] + np.sqrt(of_order / costs.over) + 1
    place = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, PLACES)
    expected_NX = _curve(need_NP, place, costs)
    width = (high - low) / (PLACES - 1)
    least = expected_NX.min(axis=1)
    bottom, top = least, expected_NX.max(axis=1)
    for _ in range(HALVINGS):
        middle = (bottom + top) / 2
        area = np.maximum(middle[:, None] - expected_NX, 0).sum(axis=1) * width
        is_low = area < costs.order * costs.rate
        bottom, top = np.where(is_low, middle, bottom), np.where(is_low, top, middle)
    is_in = expected_NX <= np.maximum(top, least)[:, None]
    first, last = is_in.argmax(axis=1), PLACES - 1 - is_in[:, ::-1].argmax(axis=1)
    rows = np.arange(len(place))
    return np.floor(place[rows, first]), np.ceil(place[rows, last])


def _curve(need_NP: Floats, place_NX: Floats, costs: Costs) -> Floats:
    """(N, X) G at places that ascend."""
    paths = need_NP.shape[1]
    found = np.empty_like(place_NX)
    for row, (need, place) in enumerate(zip(need_NP, place_NX, strict=True)):
        below = np.searchsorted(need, place, side="right")
        sums = np.concatenate([[0.0], np.cumsum(need)])
        left = place * below - sums[below]
        short = sums[-1] - sums[below] - place * (paths - below)
        found[row] = (costs.over[row] * left + costs.under[row] * short) / paths
    return found
