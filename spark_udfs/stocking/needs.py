"""What an order placed now must be for nothing to be short until the next one could come, on each path of demand.

An order that is placed now arrives after the lead time; the next one is placed a review later and arrives a review
after it. What lies between its arrival and the next one's is all that this order can help: its window. The need is the
largest gap between what the window's demand takes by then and what there is without the order. Before the window stock
goes as it goes: what is asked for when the shelf is empty is lost, or waits, as the shop has it. Where it is lost, less
is needed than demand over lead time and review less the position: what is lost on the way takes nothing from the order.

Shape suffixes: N series, S steps, P paths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Shelf(NamedTuple):
    """What there is and what comes, of some series.

    Attributes:
        on_hand: (N,) pieces; below 0 where pieces are owed.
        arrivals: (N, S) pieces that come at the start of each step; the first is now.
        lead: (N,) steps until an order that is placed now arrives; 0: at once.
    """

    on_hand: Floats
    arrivals: Floats
    lead: Ints


def needs(demand_NSP: Floats, shelf: Shelf, review: int, *, lost: bool) -> Floats:
    """(N, P) pieces to order now for nothing to be short in the order's window; below 0 where more than that is there.

    Args:
        demand_NSP: paths; S reaches to the end of each window, lead + review.
        shelf: what there is.
        review: steps from this order to the next one.
        lost: whether demand is lost that finds no stock; else it waits.
    """
    stock = np.repeat(shelf.on_hand[:, None], demand_NSP.shape[2], axis=1)
    need = np.full_like(stock, -np.inf)
    for step in range(demand_NSP.shape[1]):
        is_before, is_within = step < shelf.lead, step < shelf.lead + review
        stock = stock + shelf.arrivals[:, step, None] - demand_NSP[:, step]
        if lost:
            stock = np.where(is_before[:, None], np.maximum(stock, 0.0), stock)
        need = np.where((is_within & ~is_before)[:, None], np.maximum(need, -stock), need)
    return need
