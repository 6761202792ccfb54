"""The page of a plan: spend against plan by campaign, and what each may expect of what is left of the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from jobs.page.frame import Section, grid, join, paragraph, planner_page, plot, table, tag
from jobs.page.style import BLUE, INK, RED, empty_figure

PAGE = "ads.html"
Points = list[tuple[int, float]]


class Seen(NamedTuple):
    """A campaign that is drawn.

    Attributes:
        outlook: its row of `ads_outlook`.
        planned: (step, spend) as it was planned.
        spent: (step, spend) as it came.
    """

    outlook: Mapping[str, Any]
    planned: Points
    spent: Points


def write_page(run_dir: str, day: str, price_rule: str, campaigns: Sequence[Seen]) -> str:
    """Write run_dir/ads.html; returns its path."""
    figures = [
        plot(_spend(one), "", key=f"campaign-{number}", title=one.outlook["campaign_id"])
        for number, one in enumerate(campaigns)
    ]
    intro = paragraph(
        "What each campaign was to have spent by each step, by the plan that was in force for it, and what it has "
        "spent; the dotted line is its budget. After a step those to come are planned anew from what was spent."
    )
    columns = ("campaign", "budget", "spend to come", "ROI", "bound by", "")
    names = ("campaign_id", "budget", "spend", "roi", "binds", "reason")
    rows = [["" if one.outlook[name] is None else one.outlook[name] for name in names] for one in campaigns]
    sections = [
        Section("spend", "Spend against plan", join(intro, grid(*figures))),
        Section("outlook", "What is left of the day", table(columns, rows)),
    ]
    head = join(tag("h1", f"Ads: the plan of {day}"), paragraph(f"{price_rule}-price auctions; the largest budgets"))
    return planner_page(Path(run_dir) / PAGE, f"Millrace ads: {day}", head, sections, "plan-ads")


def _spend(campaign: Seen) -> go.Figure:
    """Cumulated spend by step."""
    figure = empty_figure(240, x="step", y="spent by then", legend=True)
    for name, points, colour in (("plan", campaign.planned, BLUE), ("spent", campaign.spent, RED)):
        figure.add_scatter(
            x=[step for step, _ in points],
            y=list(accumulate(value for _, value in points)),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2},
        )
    figure.add_hline(y=campaign.outlook["budget"], line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(rangemode="tozero")
    return figure
