"""From what is wanted to what can be ordered: whole packs, what the supplier sends at least, what the shelf holds.

Shape suffixes: N series, P paths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spark_udfs.stocking.costs import Costs, Curve
from spark_udfs.stocking.levels import Levels, levels

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

    Of the packs below and above what is wanted those are taken that are expected to cost less a review, over as many
    reviews as they last. An order smaller than the smallest is made so large, or none is made, whichever is expected to
    cost less a review. The shelf cuts last, down to whole packs; what is then below the smallest order is not ordered.

    Args:
        need_NP: from `needs`, ascending.
        costs: of the series.
        lots: of the series.
    """
    wanted = levels(need_NP, costs)
    pieces = wanted.quantity
    low, high = (rounded(pieces / lots.pack) * lots.pack for rounded in (np.floor, np.ceil))
    packed = _cheaper(need_NP, costs, high, low)
    least = np.ceil(lots.least / lots.pack) * lots.pack
    is_small = (packed > 0) & (packed < least)
    enough = np.where(is_small, _cheaper(need_NP, costs, np.where(is_small, least, 0.0), np.zeros_like(least)), packed)
    room = np.maximum(np.floor(lots.room / lots.pack) * lots.pack, 0.0)
    fits = np.minimum(enough, room)
    quantity = np.where(fits < least, 0.0, fits)
    return Order(wanted, quantity, packed != pieces, is_small | ((fits > 0) & (quantity == 0)), fits < enough)


def _cheaper(need_NP: Floats, costs: Costs, one: Floats, other: Floats) -> Floats:
    """(N,) of two orders the one that costs less a review; the first where they cost the same."""
    found = one.copy()
    if (differ := one != other).any():
        curve = Curve(need_NP[differ], costs.of(differ))
        is_dearer = curve.a_review(one[differ]) > curve.a_review(other[differ])
        found[differ] = np.where(is_dearer, other[differ], one[differ])
    return found
