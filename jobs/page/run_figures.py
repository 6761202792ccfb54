"""The report's figures of what ran: training, tuning, and how long each stage took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from jobs.page.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, empty_figure


def loss_curve(steps: Sequence[int], losses: Sequence[float], epoch_ends: Sequence[tuple[int, float]]) -> go.Figure:
    """Loss by step as it was reported, and each epoch's mean where it ended."""
    figure = empty_figure(300, x="optimizer step", y="loss", legend=True)
    if steps:
        figure.add_scatter(
            x=list(steps),
            y=list(losses),
            mode="lines" if len(steps) > 1 else "markers",
            name="as reported",
            line={"color": SKY, "width": 1.6},
            hovertemplate="step %{x}: %{y:.4f}<extra></extra>",
        )
    if epoch_ends:
        figure.add_scatter(
            x=[step for step, _ in epoch_ends],
            y=[loss for _, loss in epoch_ends],
            mode="lines+markers",
            name="mean of the epoch",
            line={"color": BLUE, "width": 2.6},
            marker={"size": 8},
            hovertemplate="epoch's end, step %{x}: %{y:.4f}<extra></extra>",
        )
    return figure


def waits(steps: Sequence[int], shares: Mapping[str, Sequence[float | None]]) -> go.Figure:
    """Shares of the time, 0 to 1, by step."""
    figure = empty_figure(300, x="optimizer step", y="share of the time", legend=True)
    for (name, values), colour in zip(shares.items(), (BLUE, ORANGE), strict=True):
        figure.add_scatter(
            x=list(steps),
            y=list(values),
            mode="lines" if len(steps) > 1 else "markers",
            name=escape(name),
            line={"color": colour, "width": 1.8},
            hovertemplate=f"{escape(name)}, step %{{x}}: %{{y:.1%}}<extra></extra>",
        )
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return figure


def metric_curves(epochs: Sequence[int], metrics: Mapping[str, Sequence[float | None]]) -> go.Figure:
    """Validation metrics after each epoch."""
    figure = empty_figure(300, x="epoch", y="metric", legend=True)
    for (name, values), colour in zip(metrics.items(), (BLUE, RED, GREEN, ORANGE, PINK, GREY), strict=False):
        figure.add_scatter(
            x=list(epochs),
            y=list(values),
            mode="lines+markers",
            name=escape(name),
            line={"color": colour, "width": 2.2},
            marker={"size": 7},
            hovertemplate=f"{escape(name)} after epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(dtick=max(1, len(epochs) // 10))
    return figure


def tuning_history(trials: Sequence[Mapping[str, Any]], metric: str) -> go.Figure:
    """Each trial's value in the order of the trials, and the best so far.

    Args:
        trials: entries of tuning.json's trials.
        metric: what was maximised.
    """
    figure = empty_figure(320, x="trial", y=escape(metric), legend=True)
    looks = {"complete": ("complete", BLUE, "circle"), "pruned": ("pruned", ORANGE, "x")}
    for state, (name, colour, symbol) in looks.items():
        chosen = [trial for trial in trials if trial["state"] == state and trial["value"] is not None]
        if chosen:
            figure.add_scatter(
                x=[trial["number"] for trial in chosen],
                y=[trial["value"] for trial in chosen],
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 10},
                customdata=[values_line(trial["params"]) for trial in chosen],
                hovertemplate="trial %{x}: %{y:.4f}<br>%{customdata}<extra></extra>",
            )
    failed = [trial["number"] for trial in trials if trial["state"] == "fail"]
    for number in failed:
        figure.add_vline(x=number, line={"color": RED, "width": 1.5, "dash": "dot"})
    if failed:
        figure.add_scatter(x=[None], y=[None], mode="lines", name="failed", line={"color": RED, "dash": "dot"})
    numbers: list[int] = []
    best: list[float] = []
    for trial in trials:
        if trial["state"] == "complete":
            numbers.append(trial["number"])
            best.append(max(trial["value"], best[-1] if best else trial["value"]))
    figure.add_scatter(
        x=numbers,
        y=best,
        mode="lines",
        name="best so far",
        line={"color": INK, "width": 1.6, "shape": "hv"},
        hoverinfo="skip",
    )
    last = max(trial["number"] for trial in trials)
    figure.update_xaxes(dtick=max(1, len(trials) // 12), range=[-0.5, last + 0.5], zeroline=False)
    return figure


def values_line(params: Mapping[str, Any]) -> str:
    """A trial's values in one line, for hovering."""
    return "<br>".join(
        f"{escape(name)} = {f'{value:.4g}' if isinstance(value, float) else escape(str(value))}"
        for name, value in params.items()
    )


def shares(values: Mapping[str, float], *, percent: bool = True) -> go.Figure:
    """One bar a name, largest on top."""
    order = sorted(values, key=lambda key: values[key])
    figure = empty_figure(40 + 34 * len(order))
    figure.add_bar(
        y=[escape(name) for name in order],
        x=[values[name] for name in order],
        orientation="h",
        marker={"color": BLUE},
        text=[f"{values[name]:.0%}" if percent else f"{values[name]:,.1f} s" for name in order],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    top = max([*values.values(), 1e-9])
    figure.update_xaxes(range=[0, top * 1.18], tickformat=".0%" if percent else None, nticks=6)
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure
