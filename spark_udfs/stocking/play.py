"""Weeks played with orders of any policy: what is left and what is short in each.

Shape suffixes: N series, W periods, L periods that an order may take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Seen(NamedTuple):
    """What a policy knows when it orders.

    Attributes:
        period: the one that begins, from 0.
        on_hand: (N,) pieces; below 0 where pieces are owed.
        arrivals: (N, L) pieces that come at the start of this period and of the next ones.
    """

    period: int
    on_hand: Floats
    arrivals: Floats


class Played(NamedTuple):
    """What came of it.

    Attributes:
        ordered: (N, W) pieces ordered at the start of each period.
        left: (N, W) pieces on hand at its end.
        short: (N, W) pieces that were asked for in it and not there.
    """

    ordered: Floats
    left: Floats
    short: Floats


def play(
    demand_NW: Floats, on_hand: Floats, lead: Ints, review: int, policy: Callable[[Seen], Floats], *, lost: bool
) -> Played:
    """Play all periods; each begins with what arrives.

    Args:
        demand_NW: what is asked for.
        on_hand: (N,) pieces at the start; nothing is on its way.
        lead: (N,) periods that an order takes; 0: it is there at once.
        review: periods from one order to the next; the first is placed at the start of period 0.
        policy: from what is seen to (N,) pieces.
        lost: whether demand is lost that finds no stock; else it waits.
    """
    series, periods = demand_NW.shape
    arrivals = np.zeros((series, periods + int(np.max(lead, initial=0)) + 1))
    stock, rows = on_hand.astype(np.float64), np.arange(series)
    played = Played(*(np.zeros_like(demand_NW) for _ in Played._fields))
    for period in range(periods):
        if period % review == 0:
            played.ordered[:, period] = policy(Seen(period, stock, arrivals[:, period:]))
            arrivals[rows, period + lead] += played.ordered[:, period]
        stock = stock + arrivals[:, period]
        there = np.maximum(stock, 0.0)
        played.short[:, period] = np.maximum(demand_NW[:, period] - there, 0.0)
        stock = stock - demand_NW[:, period]
        if lost:
            stock = np.maximum(stock, 0.0)
        played.left[:, period] = np.maximum(stock, 0.0)
    return played
