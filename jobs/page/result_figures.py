"""The report's figures of what is recommended and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from jobs.page.style import BLUE, INK, RED, SKY, empty_figure, model_colour, model_colours, model_name

Metric = Mapping[str, float]
MARKED = 20  # points of a line at most that are marked


def bars_with_intervals(models: Mapping[str, Metric], *, lower: bool = False) -> go.Figure:
    """One bar a model, best on top, each with its interval and its value.

    Args:
        models: {"value", "low", "high"} by model.
        lower: whether less is better.
    """
    order = sorted(models, key=lambda key: models[key]["value"], reverse=lower)  # from the bottom up
    values = [models[key]["value"] for key in order]
    highs = [models[key].get("high", models[key]["value"]) for key in order]
    lows = [models[key].get("low", models[key]["value"]) for key in order]
    figure = empty_figure(40 + 42 * len(order))
    figure.add_bar(
        y=[escape(model_name(key)) for key in order],
        x=values,
        orientation="h",
        marker={"color": [model_colours(models)[key] for key in order]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(highs, values, strict=True)],
            "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
            "color": INK,
            "thickness": 1.4,
            "width": 5,
        },
        customdata=list(zip(lows, highs, strict=True)),
        hovertemplate="%{y}: %{x:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]<extra></extra>",
    )
    top = max([*highs, 1e-9])
    for key, value, high in zip(order, values, highs, strict=True):
        figure.add_annotation(
            x=high,
            y=escape(model_name(key)),
            text=f"{value:.3f}",
            showarrow=False,
            xanchor="left",
            xshift=6,
            font={"size": 12, "color": INK},
        )
    figure.update_xaxes(range=[0, top * 1.18], nticks=5)
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure


def by_k(models: Mapping[str, Mapping[int, float]], metric: str) -> go.Figure:
    """One line a model: a metric against the length of the list.

    Args:
        models: value by K, by model.
        metric: the axis' name.
    """
    figure = empty_figure(300, x="K, items in the list", y=metric, legend=True)
    figure.update_layout(legend={"entrywidth": 0.5, "entrywidthmode": "fraction", "font": {"size": 11}})
    for key, values in models.items():
        ours = key == "millrace"
        ks = sorted(values)
        figure.add_scatter(
            x=ks,
            y=[values[k] for k in ks],
            mode="lines+markers",
            name=escape(model_name(key)),
            line={"color": model_colour(key), "width": 3 if ours else 1.6},
            marker={"size": 7 if ours else 5},
            hovertemplate=f"{escape(model_name(key))}, K=%{{x}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(tickvals=sorted({k for values in models.values() for k in values}))
    return figure


def popularity(bought: Sequence[float], recommended: Mapping[str, Sequence[float]]) -> go.Figure:
    """Shares by decile of popularity: what is bought as bars, what each model recommends as lines.

    Args:
        bought: counts by decile, the most bought items first.
        recommended: the same by model.
    """
    figure = empty_figure(320, x="items by popularity, in tenths (1: the most bought)", y="share", legend=True)
    deciles = [str(number + 1) for number in range(len(bought))]
    figure.add_bar(
        x=deciles,
        y=_to_shares(bought),
        name="bought",
        marker={"color": "#d3dae0"},
        hovertemplate="tenth %{x}: %{y:.1%} of what was bought<extra></extra>",
    )
    for key, counts in recommended.items():
        figure.add_scatter(
            x=deciles,
            y=_to_shares(counts),
            mode="lines+markers",
            name=escape(model_name(key)),
            line={"color": model_colour(key), "width": 3 if key == "millrace" else 1.6},
            marker={"size": 7 if key == "millrace" else 5},
            hovertemplate=f"tenth %{{x}}: %{{y:.1%}} of {escape(model_name(key))}<extra></extra>",
        )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(type="category")
    return figure


def _to_shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def rounds(rates: Mapping[str, Metric]) -> go.Figure:
    """One bar a model, in the order given, with its interval.

    Args:
        rates: {"value", "low", "high"} by name.
    """
    names = list(rates)[::-1]
    values = [rates[name]["value"] for name in names]
    figure = empty_figure(60 + 44 * len(names))
    figure.add_bar(
        y=[escape(name) for name in names],
        x=values,
        orientation="h",
        marker={"color": [BLUE, *[SKY] * len(names)][: len(names)]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [rates[name]["high"] - rates[name]["value"] for name in names],
            "arrayminus": [rates[name]["value"] - rates[name]["low"] for name in names],
            "color": INK,
            "thickness": 1.4,
            "width": 6,
        },
        hovertemplate="%{y}: %{x:.2%}<extra></extra>",
    )
    figure.update_xaxes(tickformat=".1%", rangemode="tozero", nticks=6)
    figure.update_yaxes(showgrid=False, ticksuffix="  ")
    return figure


def lines(models: Mapping[str, Sequence[Sequence[float]]], x: str, y: str, *, diagonal: bool = False) -> go.Figure:
    """One line a model through its points.

    Args:
        models: [x, y] points by model, in the order in which they are joined.
        x: what goes to the right.
        y: what goes up.
        diagonal: whether the line x = y says what is right.
    """
    figure = empty_figure(340, x=escape(x), y=escape(y), legend=True)
    colours = model_colours(models)
    for key, points in models.items():
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines+markers" if len(points) <= MARKED else "lines",
            name=escape(model_name(key)),
            line={"color": colours[key], "width": 2},
        )
    if diagonal:
        top = max((value for points in models.values() for point in points for value in point), default=1.0)
        figure.add_scatter(
            x=[0, top], y=[0, top], mode="lines", name="as it should be", line={"color": INK, "width": 1, "dash": "dot"}
        )
    return figure


def panel(held: Mapping[str, Any]) -> go.Figure:
    """A series: history, quantiles by step, and the truth.

    Args:
        held: `history` [[time, value], ...]; `quantiles`: level -> [[time, value], ...]; `truth` [[time, value], ...].
    """
    figure = empty_figure(300, legend=True)
    levels = sorted(held["quantiles"], key=float)
    for low, high in zip(levels[: len(levels) // 2], reversed(levels), strict=False):
        under, over = held["quantiles"][low], held["quantiles"][high]
        figure.add_scatter(
            x=[*(point[0] for point in under), *(point[0] for point in reversed(over))],
            y=[*(point[1] for point in under), *(point[1] for point in reversed(over))],
            fill="toself",
            mode="none",
            fillcolor="rgba(86, 180, 233, 0.25)",
            name=f"{float(low):.0%} to {float(high):.0%}",
        )
    middle = held["quantiles"][min(levels, key=lambda level: abs(float(level) - 0.5))]
    named = (("known", held["history"], INK), ("forecast", middle, BLUE), ("came", held["truth"], RED))
    for name, points, colour in named:
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines+markers" if name == "came" else "lines",
            name=name,
            line={"color": colour, "width": 2},
        )
    return figure
