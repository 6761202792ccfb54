"""Why each series is ordered so much: a sentence for the one who signs the order."""

from __future__ import annotations

from typing import Any

import pandas as pd

from spark_udfs.stocking.terms import BATCHES

CUTS = {
    "pack": "whole packs of {pack}",
    "min_order": "the smallest order is {min_order}",
    "shelf": "the shelf holds {shelf}",
    "budget": "the budget goes to others first",
}


def reasons(orders: pd.DataFrame, said: pd.DataFrame) -> list[str]:
    """A text for each row.

    Args:
        orders: the columns of an order but for `reason`.
        said: of the same rows, what the stock table says: pack, min_order, shelf.
    """
    limits = said[["pack", "min_order", "shelf"]].to_dict("records")
    return [_reason(row, limit) for row, limit in zip(orders.to_dict("records"), limits, strict=True)]


def _reason(row: dict[Any, Any], limits: dict[Any, Any]) -> str:
    until = f"demand until the next order's arrival is {row['demand']:,.1f}, at its {row['level']:.3g} quantile"
    held = f"{until} {_told(row['demand_at_level'])}{_lost(row)}; there and coming by then {_told(row['position'])}"
    cuts = [CUTS[name].format(**{key: _told(value) for key, value in limits.items()}) for name in row["cut_by"]]
    return "; ".join([f"{held}: {_wanted(row)}", *cuts])


def _lost(row: dict[Any, Any]) -> str:
    """What lies between the quantile of demand and S, unless a batch does: pieces that nobody waits for."""
    lost = row["demand_at_level"] - row["order_up_to"]
    if row["policy"] == BATCHES or lost < 1:
        return ""
    return f", of which {_told(lost)} would be lost before the order is there"


def _wanted(row: dict[Any, Any]) -> str:
    if row["reorder_at"] < row["position"] < row["order_up_to"]:
        return f"an order does not pay for itself until it is {_told(row['reorder_at'])} or less"
    if row["reorder_at"] < row["position"]:
        return f"nothing is needed until it is {_told(row['reorder_at'])} or less"
    return f"{_told(row['wanted'])} more bring it to {_told(row['order_up_to'])}"


def _told(pieces: float) -> str:
    return f"{pieces:,.10g}"
