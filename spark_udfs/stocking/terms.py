"""What a stock table says of series, as the numbers that orders are made from.

service given:       under = over service / (1 - service)        the share of windows without a piece short
margin, or price:    under = margin = price - unit_cost           a piece too few is a sale that is lost
otherwise:           as if the default service were given
salvage given:       over = unit_cost - salvage                   what is left at the end of the window goes for it
otherwise:           over = holding_cost x review                 or holding_rate x unit_cost x review
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from spark_udfs.stocking.costs import Costs
from spark_udfs.stocking.lots import Lots

Floats = npt.NDArray[np.float64]

NEWSVENDOR, BASE_STOCK, BATCHES = "newsvendor", "base stock", "(s, S)"
COLUMNS = (  # of a series, double; null where nobody says so, but for on_hand and lead
    "on_hand", "lead", "pack", "shelf", "min_order", "unit_cost", "price", "margin", "salvage", "service",
    "holding_cost", "order_cost",
)  # fmt: skip


class Habits(NamedTuple):
    """What holds for all series.

    Attributes:
        review: periods from one order to the next.
        service: where a series says neither its service nor what it earns.
        holding_rate: of the unit cost, for a piece and a period; where a series says no holding cost.
        lost: whether demand is lost that finds no stock; else it waits.
        correlation: of a series' steps.
        levels: of the forecasts' quantiles, ascending.
    """

    review: int
    service: float
    holding_rate: float
    lost: bool
    correlation: float
    levels: tuple[float, ...]


def costs_of(said: pd.DataFrame, habits: Habits, rate: Floats) -> Costs:
    """What orders cost.

    Args:
        said: COLUMNS.
        habits: of all series.
        rate: (rows,) pieces that are asked for in a review.
    """
    holding = said["holding_cost"].fillna(habits.holding_rate * said["unit_cost"]) * habits.review
    over = (said["unit_cost"] - said["salvage"]).fillna(holding).to_numpy(np.float64)
    earned = said["margin"].fillna(said["price"] - said["unit_cost"])
    service = said["service"].where(said["service"].notna() | earned.notna(), habits.service).to_numpy(np.float64)
    of_service = over * service / (1 - service)
    under = np.where(np.isnan(service), earned.to_numpy(np.float64), of_service)
    each = said["order_cost"].fillna(0.0).to_numpy(np.float64)
    return Costs(under, over, each, rate, said["salvage"].notna().to_numpy())


def lots_of(said: pd.DataFrame, position: Floats) -> Lots:
    """What can be ordered.

    Args:
        said: COLUMNS.
        position: (rows,) pieces on hand and on their way, of whatever day.
    """
    room = said["shelf"].fillna(np.inf).to_numpy(np.float64) - np.maximum(position, 0.0)
    return Lots(said["pack"].fillna(1.0).to_numpy(np.float64), said["min_order"].fillna(0.0).to_numpy(np.float64), room)


def policies(said: pd.DataFrame) -> list[str]:
    """Which policy orders for each series: by what is said of it."""
    batched = said["order_cost"].fillna(0.0) > 0
    once = said["salvage"].notna()
    return [NEWSVENDOR if one else BATCHES if many else BASE_STOCK for one, many in zip(once, batched, strict=True)]
