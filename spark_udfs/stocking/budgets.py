"""A budget over the orders of all series: a price of money, and a share of what changes just below it.

With a price on money all orders together spend some sum. Where series are alike, many orders change at one price, and
the sum jumps over the budget there. So there are two prices next to each other: at the one what is ordered keeps the
budget, just below it does not. Each series is ordered as at the first, and of what it would have more at the second one
common share, in whole packs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spark_udfs.stocking.lots import Lots

Floats = npt.NDArray[np.float64]

SPLITS = 17  # of a range, in a pass: to the driver come 16 sums
CLOSE = 1e-4  # of the price: two that are so near to each other are next to each other
MOST_PASSES = 30
SHARE_PASSES = 5
HASHES = 2**32


class Price(NamedTuple):
    """By how much money must be dearer than it is.

    Attributes:
        at: where all orders keep the budget.
        below: the price next to it, where they do not.
        share: of what is ordered more at `below`, from 0 to 1.
    """

    at: float
    below: float
    share: float


FREE = Price(0.0, 0.0, 0.0)


def found_price(spent: Callable[[list[Price]], list[float]], dearest: float, budget: float) -> Price:
    """The price at which all orders together keep a budget; FREE where they do anyway.

    What is spent may rise with the price for a moment, where orders have a cost of their own. So of the prices that are
    looked at, the lowest above which all keep the budget is taken, and never one that was not looked at.

    Args:
        spent: what all orders cost together at each of some prices.
        dearest: a price at which nothing is ordered that costs money.
        budget: for all orders together.
    """
    if spent([FREE])[0] <= budget:
        return FREE
    low, high = 0.0, dearest
    for _ in range(MOST_PASSES):
        if high - low <= CLOSE * high:
            break
        prices = _between(low, high)
        low, high = _around(low, high, prices, spent([Price(price, 0.0, 0.0) for price in prices]), budget)
    none, some = 0.0, 1.0
    for _ in range(SHARE_PASSES):
        shares = _between(none, some)
        sums = spent([Price(high, low, share) for share in shares])
        too_much = [place for place, each in enumerate(sums) if each > budget]
        last = too_much[0] if too_much else len(shares)
        none, some = [none, *shares][last], [*shares, some][last]
    return Price(high, low, none)


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * place / SPLITS for place in range(1, SPLITS)]


def _around(low: float, high: float, prices: list[float], sums: list[float], budget: float) -> tuple[float, float]:
    """The last price that spends too much, and the one after it."""
    last = max((place for place, each in enumerate(sums, 1) if each > budget), default=0)
    return [low, *prices][last], [*prices, high][last]


def shared(series: Iterable[str], dear: Floats, cheap: Floats, lots: Lots, share: float) -> Floats:
    """(N,) pieces: what is ordered at the dearer price, and a share of what the cheaper one has more, in whole packs.

    A hash of the series rounds up or down, so that a share of packs becomes that share of the series. What is then
    below the smallest order is ordered as at the dearer price.
    """
    more = np.maximum(cheap - dear, 0.0) / lots.pack
    drawn = np.array([zlib.crc32(str(name).encode()) / HASHES for name in series])
    made = dear + np.floor(share * more + drawn) * lots.pack
    return np.where(made < lots.least, dear, made)
