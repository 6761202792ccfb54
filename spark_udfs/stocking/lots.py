"""From what is wanted to what can be ordered: whole packs, what the supplier sends at least, what the shelf holds.

Shape suffixes: N series, P paths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spark_udfs.stocking.levels import Costs, Levels, cost, levels

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Lots(NamedTuple):
    """What can be ordered of some series.

    Attributes:
        pack: (N,) pieces of a pack, 1 or more.
        least: (N,) the smallest order in pieces; 0: any.
        room: (N,) pieces that find a place even if nothing is sold until they come; infinite: the shelf is no limit.
    """

    pack: Floats
    least: Floats
    room: Floats


class Order(NamedTuple):
    """What is ordered of some series.

    Attributes:
        wanted: the levels, before all cuts.
        quantity: (N,) pieces.
        by_pack: (N,) whether packs made it another than what was wanted.
        by_least: whether the smallest order did.
        by_room: whether the shelf did.
    """

    wanted: Levels
    quantity: Floats
    by_pack: Mask
    by_least: Mask
    by_room: Mask


def order(need_NP: Floats, costs: Costs, lots: Lots) -> Order:
    """The orders.

    Of the packs below and above what is wanted those are taken that are expected to cost less; where an order has a
    cost of its own the nearer ones, as costs hardly differ near the end of a batch. An order smaller than the smallest
    is made so large, or none is made, whichever is expected to cost less. The shelf cuts last, down to whole packs;
    what is then below the smallest order is not ordered.

    Args:
        need_NP: from `needs`, ascending.
        costs: of the series.
        lots: of the series.
    """
    wanted = levels(need_NP, costs)
    pieces = wanted.quantity
    low, high = (rounded(pieces / lots.pack) * lots.pack for rounded in (np.floor, np.ceil))
    dearer = cost(need_NP, high, costs) > cost(need_NP, low, costs)
    packed = np.where(np.where(costs.order > 0, pieces - low < high - pieces, dearer), low, high)
    least = np.ceil(lots.least / lots.pack) * lots.pack
    is_small = (packed > 0) & (packed < least)
    pays = cost(need_NP, least, costs) <= cost(need_NP, np.zeros_like(least), costs)
    enough = np.where(is_small, np.where(pays, least, 0.0), packed)
    room = np.maximum(np.floor(lots.room / lots.pack) * lots.pack, 0.0)
    fits = np.minimum(enough, room)
    quantity = np.where(fits < least, 0.0, fits)
    return Order(wanted, quantity, packed != pieces, is_small | ((fits > 0) & (quantity == 0)), fits < enough)
