"""From quantiles of demand to what is ordered: a pure function of a forecast, the costs and the stock."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pyspark.sql import Column
from pyspark.sql import functions as F


def order_quantity(
    quantiles: Column,
    levels: Sequence[float],
    *,
    underage: Column | float,
    overage: Column | float,
    stock: Column | float = 0.0,
) -> Column:
    """How much to order of what is sold in one step, in whole pieces: the newsvendor's answer (Arrow et al., 1951).

    A piece too few costs `underage` (the margin lost), a piece too many `overage` (what it loses until it is sold). The
    least cost is expected where demand is met with probability underage / (underage + overage): that quantile, read
    between the levels on a line, and outside of them at the nearest one, less what is in stock.

    Args:
        quantiles: array<float> of one step, ascending.
        levels: of the quantiles, ascending.
        underage: above 0.
        overage: above 0.
        stock: pieces that are there.
    """
    under, over = _column(underage), _column(overage)
    ratio = under / (under + over)
    wanted = F.get(quantiles, F.lit(0)).cast("double")
    for place, (low, high) in enumerate(pairwise(levels)):
        share = F.least(F.greatest((ratio - low) / (high - low), F.lit(0.0)), F.lit(1.0))
        rise = F.get(quantiles, F.lit(place + 1)) - F.get(quantiles, F.lit(place))
        wanted = wanted + rise.cast("double") * share
    return F.greatest(F.ceil(wanted - _column(stock)), F.lit(0)).cast("bigint")


def _column(value: Column | float) -> Column:
    return F.lit(float(value)) if isinstance(value, int | float) else value
