"""What people look at of orders: counts of all, and the largest ones, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import say, show_counts, show_table
from jobs.page.stock import Drawn

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

SHOWN, DRAWN = 20, 12  # series in the terminal, and on the page
SUMS = {"pieces": "quantity", "money": "money", "expected_cost": "expected_cost"}
EXACT = "decimal(38,6)"  # sums of doubles depend on their order


def counted(orders: DataFrame) -> dict[str, Any]:
    """How many series there are, what is ordered and what is expected of it."""
    sums = [F.sum(F.col(column).cast(EXACT)).cast("double").alias(name) for name, column in SUMS.items()]
    service = F.avg(F.col("expected_service").cast(EXACT)).cast("double").alias("expected_service")
    some = F.count_if(F.col("quantity") > 0).alias("ordered")
    whole = orders.agg(F.count(F.lit(1)).alias("series"), some, *sums, service).collect()[0].asDict()
    policies = orders.groupBy("policy").count().orderBy("policy").collect()
    cuts = orders.select(F.explode("cut_by").alias("cut")).groupBy("cut").count().orderBy("cut").collect()
    return whole | {
        "policies": {row["policy"]: row["count"] for row in policies},
        "cut_by": {row["cut"]: row["count"] for row in cuts},
    }


def largest(orders: DataFrame) -> list[Row]:
    """The series that are shown: those with the largest orders, by what they cost, then by pieces."""
    return orders.orderBy(F.desc("money"), F.desc("quantity"), "series_id").limit(SHOWN).collect()


def drawn(listed: Sequence[Row], series: DataFrame, *, lost: bool) -> list[Drawn]:
    """The series that the page draws, with their forecasts and what comes without an order."""
    names = [row["series_id"] for row in listed[:DRAWN]]
    known = series.where(F.col("series_id").isin(names)).select("series_id", "on_hand", "lead", "arrivals", "means")
    by_name = {row["series_id"]: row for row in known.collect()}
    return [
        Drawn(row.asDict(), one["on_hand"], int(one["lead"]), one["arrivals"], one["means"], lost)
        for row in listed[:DRAWN]
        if (one := by_name[row["series_id"]])
    ]


def show(summary: dict[str, Any], listed: Sequence[Row], budget: float | None) -> None:
    """The orders in the terminal."""
    columns = ("series", "order", "arrives", "there", "up to", "service", "why")
    rows = [
        (
            row["series_id"],
            row["quantity"],
            "" if row["arrives"] is None else f"{row['arrives']:%Y-%m-%d}",
            row["position"],
            row["order_up_to"],
            row["expected_service"],
            row["reason"],
        )
        for row in listed
    ]
    more = f", the {SHOWN} largest" if summary["series"] > SHOWN else ""
    show_table(f"Orders as of {summary['moment']}{more}", columns, rows)
    show_counts("Series", {"all": summary["series"], "ordered": summary["ordered"], **summary["policies"]})
    if summary["cut_by"]:
        show_counts("Orders that were cut, by what", summary["cut_by"])
    if budget is not None:
        binds = f"binds: money is {summary['price_of_money']:.3g} dearer" if summary["price_of_money"] else "is enough"
        say(f"the budget of {budget:,.2f} {binds}; {summary['money']:,.2f} of it is spent")
    say(
        f"{summary['pieces']:,.0f} pieces for {summary['money']:,.2f}; expected service "
        f"{summary['expected_service']:.3f}, expected cost of the review {summary['expected_cost']:,.2f}"
    )
    say(f"page: {summary['page']} (open it in a browser)")
