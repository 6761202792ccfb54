"""The page of orders: what is ordered and why, and how the largest ones change what will be in stock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from jobs.page.frame import Section, facts, grid, join, paragraph, planner_page, plot, table, tag
from jobs.page.style import BLUE, GREY, empty_figure

PAGE = "stock.html"
BARS = "Series by policy and by what cut their orders, and rows of which no order is made."


class Drawn(NamedTuple):
    """A series that is drawn.

    Attributes:
        order: its row of `orders`.
        on_hand: pieces now.
        lead: periods until the order arrives.
        arrivals: pieces that come anyway, by period.
        means: the forecast's mean demand, by period.
        lost: whether demand is lost that finds no stock; else it waits, and stock below 0 is owed.
    """

    order: Mapping[str, Any]
    on_hand: float
    lead: int
    arrivals: Sequence[float]
    means: Sequence[float]
    lost: bool

    def stock(self, ordered: float) -> list[float]:
        """Pieces expected at the end of each period if demand comes as its mean."""
        held, found = self.on_hand, []
        for period, (comes, mean) in enumerate(zip(self.arrivals, self.means, strict=True)):
            held += comes + (ordered if period == self.lead else 0) - mean
            held = max(held, 0.0) if self.lost else held
            found.append(held)
        return found


def write_page(run_dir: str, summary: Mapping[str, Any], series: Sequence[Drawn]) -> str:
    """Write run_dir/stock.html; returns its path."""
    figures = [
        plot(_stock(one), "", key=f"series-{number}", title=one.order["series_id"]) for number, one in enumerate(series)
    ]
    intro = paragraph(
        "Pieces in stock at the end of each period if demand comes as its mean: with the order that is made now, and "
        "without it. The largest orders first; nothing that is ordered later is drawn."
    )
    columns = ("series", "order", "policy", "expected service", "why")
    rows = [
        [one.order[name] for name in ("series_id", "quantity", "policy", "expected_service", "reason")]
        for one in series
    ]
    sections = [
        Section("all", "All orders", join(_facts(summary), plot(_bars(summary), BARS, key="series"))),
        Section("largest", "What the largest change", join(intro, grid(*figures))),
        Section("why", "Why so many", table(columns, rows)),
    ]
    head = join(tag("h1", f"Orders as of {summary['moment']}"), paragraph(f"from the forecasts of {summary['bundle']}"))
    return planner_page(Path(run_dir) / PAGE, f"Millrace stock: {summary['moment']}", head, sections, "plan-stock")


def _facts(summary: Mapping[str, Any]) -> Any:
    names = ("series", "ordered", "pieces", "money", "expected_service", "expected_cost", "price_of_money")
    written = {"pieces": "{:,.0f}", "money": "{:,.2f}", "expected_cost": "{:,.2f}"}

    def told(name: str) -> Any:
        value = summary[name]
        return value if value is None or name not in written else written[name].format(value)

    return facts([(name.replace("_", " "), told(name)) for name in names])


def _bars(summary: Mapping[str, Any]) -> go.Figure:
    figure = empty_figure(320, x="series")
    named = [("cut by", summary["cut_by"]), ("", summary["policies"]), ("left out:", summary["problems"])]
    bars = [(f"{prefix} {name}".strip(), count) for prefix, counts in named for name, count in counts.items()]
    figure.add_bar(
        x=[count for _, count in bars], y=[name for name, _ in bars], orientation="h", marker={"color": BLUE}
    )
    return figure


def _stock(series: Drawn) -> go.Figure:
    """Stock by period, with and without the order."""
    figure = empty_figure(240, x="period", y="pieces", legend=True)
    periods = list(range(1, len(series.means) + 1))
    for name, ordered, colour in (("without the order", 0, GREY), ("with it", series.order["quantity"], BLUE)):
        figure.add_scatter(
            x=periods, y=series.stock(ordered), mode="lines", name=name, line={"color": colour, "width": 2}
        )
    figure.update_yaxes(rangemode="tozero")
    return figure
