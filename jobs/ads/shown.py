"""What people look at of a plan: the largest budgets' figures, as the terminal and the page show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.ads.checks import step_of
from jobs.console import say, show_table
from jobs.given import Given
from jobs.page.ads import Points, Seen

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

SHOWN, DRAWN = 20, 12  # campaigns in the terminal, and on the page: the largest budgets first


def largest(outlook: DataFrame) -> list[Row]:
    """The campaigns that are shown, of an outlook."""
    return outlook.orderBy(F.desc("budget"), "campaign_id").limit(SHOWN).collect()


def drawn(plan: DataFrame, feedback: Given | None, listed: Sequence[Row], day: date, minutes: int) -> list[Seen]:
    """The campaigns that the page draws, with their spend by step as it was planned and as it came.

    Args:
        plan: the table of plans.
        feedback: what was spent so far.
        listed: of `largest`.
        day: that is planned.
        minutes: of a step.
    """
    names = [row["campaign_id"] for row in listed[:DRAWN]]
    steps = plan.where((F.col("day") == F.lit(day)) & F.col("campaign_id").isin(names))
    planned = _by_campaign(steps.select("campaign_id", "step", "spend"))
    spent: dict[str, Points] = {}
    if feedback is not None:
        rows = feedback.rows.where(F.col("campaign_id").isin(names))
        of_step = rows.groupBy("campaign_id", step_of(F.col("time"), minutes).alias("step"))
        spent = _by_campaign(of_step.agg(F.sum("spend").alias("spend")))
    return [
        Seen(row.asDict(), planned.get(name, []), spent.get(name, []))
        for name, row in zip(names, listed[:DRAWN], strict=True)
    ]


def _by_campaign(rows: DataFrame) -> dict[str, Points]:
    """(step, spend) of each campaign, in the order of steps."""
    found: dict[str, Points] = {}
    for row in rows.orderBy("campaign_id", "step").collect():
        found.setdefault(row["campaign_id"], []).append((row["step"], row["spend"]))
    return found


def show(summary: dict[str, Any], listed: Sequence[Row]) -> None:
    """The plan in the terminal."""
    rows = [
        (
            row["campaign_id"],
            row["budget"],
            row["of_value"],
            interval(row, "spend"),
            interval(row, "roi"),
            row["reason"] or f"bound by {row['binds']}",
        )
        for row in listed
    ]
    columns = ("campaign", "budget", "bid of a value of 1", "spend to come, 95 %", "ROI, 95 %", "")
    more = f", the {SHOWN} largest" if summary["campaigns"] > SHOWN else ""
    show_table(f"The plan of {summary['day']} from step {summary['first_step']} on{more}", columns, rows)
    for currency, money in summary["money"].items():
        say(
            f"{money['campaigns']:,} campaigns in {currency}: budget {money['budget']:,.2f}; still to come: spend "
            f"{money['spend']:,.2f}, value {money['value']:,.2f}"
        )
    say(f"page: {summary['page']} (open it in a browser)")


def interval(row: Row, name: str) -> str:
    """A figure with its interval, in words."""
    if row[name] is None:
        return "none"
    return f"{row[name]:,.4g} [{row[f'{name}_low']:,.4g}, {row[f'{name}_high']:,.4g}]"
