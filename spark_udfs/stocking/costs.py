"""What an order is expected to cost, in the review that it is for and over as many reviews as it lasts.

With what a piece too few costs (under) and a piece too many (over), an order of q is expected to cost

    G(q) = over E(q - need)+ + under E(need - q)+

in its review. It goes on: a review later the same position lies lower by what is asked for in between, so an order that
is the only one of n reviews costs (K + G(q) + G(q - rate) + ... + G(q - (n - 1) rate)) / n a review.

Shape suffixes: N series, P paths, X places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST_LEVEL = 1e-9  # levels below are rounding: a piece too few costs nothing
LASTS = 64  # places at which an order's life is looked at: each review of 64, each second one of 128


class Costs(NamedTuple):
    """What orders of some series cost, in one currency.

    Attributes:
        under: (N,) a piece that is asked for and not there.
        over: (N,) a piece that is left at the end of the window.
        order: (N,) each order; 0: nothing.
        rate: (N,) pieces that are asked for in a review, on the average.
        once: (N,) whether what is left is sold off at the end of the window: an order is for that review alone.
    """

    under: Floats
    over: Floats
    order: Floats
    rate: Floats
    once: Mask

    def at_price(self, money: Floats) -> Costs:
        """The costs where money is short: each piece takes some, which one too few saves and one too many has taken."""
        return self._replace(under=np.maximum(self.under - money, 0.0), over=self.over + money)

    def of(self, rows: Mask) -> Costs:
        """Those of some series."""
        return Costs(self.under[rows], self.over[rows], self.order[rows], self.rate[rows], self.once[rows])


def ratio(costs: Costs) -> Floats:
    """(N,) the level at which the need's quantile is ordered; 0 where a piece too few costs nothing."""
    both = costs.under + costs.over
    level = np.where(both > 0, costs.under / np.where(both > 0, both, 1.0), 0.0)
    return np.where(level < LEAST_LEVEL, 0.0, level)


def quantile(need_NP: Floats, level: Floats) -> Floats:
    """(N,) the least order in whole pieces that meets the need on this share of the paths.

    Args:
        need_NP: ascending.
        level: (N,).
    """
    paths = need_NP.shape[1]
    place = np.clip(np.ceil(level * paths - 1e-9).astype(np.int64) - 1, 0, paths - 1)
    return np.asarray(np.ceil(np.take_along_axis(need_NP, place[:, None], axis=1)[:, 0] - 1e-9))


def expected(need_NP: Floats, quantity: Floats) -> tuple[Floats, Floats, Floats]:
    """(N,) each: the share of paths on which an order meets the need, pieces short, and pieces left."""
    gap = need_NP - quantity[:, None]
    return (gap <= 1e-9).mean(axis=1), np.maximum(gap, 0).mean(axis=1), np.maximum(-gap, 0).mean(axis=1)


def cost(need_NP: Floats, quantity: Floats, costs: Costs) -> Floats:
    """(N,) what an order is expected to cost in its window, itself included."""
    _, short, left = expected(need_NP, quantity)
    return costs.under * short + costs.over * left + np.where(quantity > 0, costs.order, 0.0)


class Curve:
    """G of some series, and how many of their needs lie below a place.

    Args:
        need_NP: ascending.
        costs: of the series.
    """

    def __init__(self, need_NP: Floats, costs: Costs) -> None:
        self.need, self.costs = need_NP, costs
        self._sums = np.concatenate([np.zeros((len(need_NP), 1)), np.cumsum(need_NP, axis=1)], axis=1)

    def below(self, place_NX: Floats) -> Ints:
        """(N, X) how many needs are met at a place: by halving, of all series at once."""
        paths = self.need.shape[1]
        low, high = np.zeros(place_NX.shape, np.int64), np.full(place_NX.shape, paths)
        for _ in range(paths.bit_length()):
            middle = (low + high) // 2
            held = np.take_along_axis(self.need, np.minimum(middle, paths - 1), axis=1)
            is_met = (middle < high) & (held <= place_NX)
            low, high = np.where(is_met, middle + 1, low), np.where(is_met, high, middle)
        return low

    def at(self, place_NX: Floats) -> Floats:
        """(N, X) G at some places."""
        return self._at(place_NX, self.below(place_NX))

    def at_needs(self) -> Floats:
        """(N, P) G at the needs."""
        return self._at(self.need, np.broadcast_to(np.arange(1, self.need.shape[1] + 1), self.need.shape))

    def _at(self, place_NX: Floats, below: Ints) -> Floats:
        paths = self.need.shape[1]
        sums = np.take_along_axis(self._sums, below, axis=1)
        left = place_NX * below - sums
        short = self._sums[:, -1:] - sums - place_NX * (paths - below)
        return np.asarray((self.costs.over[:, None] * left + self.costs.under[:, None] * short) / paths)

    def a_review(self, quantity: Floats) -> Floats:
        """(N,) what an order costs a review, over as many reviews as make that least; of no order, what its own costs.

        An order that lasts longer than LASTS reviews is looked at in the middle of as many stretches.
        """
        costs, rate = self.costs, np.maximum(self.costs.rate, 1e-12)
        most = np.maximum(np.ceil((quantity - self.need[:, 0]) / rate), 1.0)
        stretch = np.where(costs.once, 1.0, np.ceil(most / LASTS))[:, None]
        number = np.arange(LASTS)
        place = quantity[:, None] - (number * stretch + (stretch - 1) / 2) * rate[:, None]
        mean = (costs.order[:, None] + np.cumsum(self.at(place), axis=1) * stretch) / ((number + 1) * stretch)
        first = np.where(quantity > 0, mean[:, 0], mean[:, 0] - costs.order / stretch[:, 0])
        return np.where((quantity > 0) & ~costs.once, mean.min(axis=1), first)
