"""The columns of a customer as of a moment (spark_udfs/order_days.py), named without Spark."""

from __future__ import annotations

WINDOWS = (30, 60, 90, 180, 365)  # days before the moment
FEATURES = (
    "recency_days", "tenure_days", "order_days", "order_months", "items", *(f"order_days_{days}d" for days in WINDOWS),
    "value", *(f"value_{days}d" for days in WINDOWS), "value_mean", "value_max", "value_last", "returned",
    "lines_mean", "gap_mean", "gap_max", "gap_last", "overdue", *(f"weekday_{day}" for day in range(7)),
)  # fmt: skip
OUTCOMES = ("buys", "next_spend", "next_order_days")
