"""The report's figures (plotly). Colours are those of Okabe and Ito, which people with any colour vision tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8a949e"
INK, SOFT, LINE = "#1c2733", "#5b6875", "#e3e7eb"
MODEL_COLOURS = {
    "millrace": BLUE,
    "als": RED,
    "item_item": GREEN,
    "recent_popularity": ORANGE,
    "popularity": GREY,
}
MODEL_NAMES = {
    "millrace": "Millrace",
    "als": "ALS (Spark)",
    "item_item": "Item-item",
    "recent_popularity": "Recent popularity",
    "popularity": "Popularity",
}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'

Metric = Mapping[str, float]


def model_name(key: str) -> str:
    return MODEL_NAMES.get(key, key)


def model_colour(key: str) -> str:
    return MODEL_COLOURS.get(key, PINK)


def _figure(height: int, *, x: str = "", y: str = "", legend: bool = False) -> go.Figure:
    """An empty figure in the page's style."""
    axis = {"gridcolor": LINE, "zerolinecolor": LINE, "linecolor": LINE, "automargin": True, "ticks": ""}
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 16, "t": 28 if legend else 8, "b": 8},
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"font": {"family": FONT, "size": 13}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        xaxis={**axis, "title": {"text": x, "font": {"size": 12, "color": SOFT}}},
        yaxis={**axis, "title": {"text": y, "font": {"size": 12, "color": SOFT}}},
    )
    return figure


def bars_with_intervals(models: Mapping[str, Metric]) -> go.Figure:
    """One bar a model, best on top, each with its interval and its value.

    Args:
        models: {"value", "low", "high"} by model.
    """
    order = sorted(models, key=lambda key: models[key]["value"])
    values = [models[key]["value"] for key in order]
    highs = [models[key].get("high", models[key]["value"]) for key in order]
    lows = [models[key].get("low", models[key]["value"]) for key in order]
    figure = _figure(40 + 42 * len(order))
    figure.add_bar(
        y=[escape(model_name(key)) for key in order],
        x=values,
        orientation="h",
        marker={"color": [model_colour(key) for key in order]},
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
    figure = _figure(300, x="K, items in the list", y=metric, legend=True)
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


def loss_curve(steps: Sequence[int], losses: Sequence[float], epoch_ends: Sequence[tuple[int, float]]) -> go.Figure:
    """Loss by step as it was reported, and each epoch's mean where it ended."""
    figure = _figure(300, x="optimizer step", y="loss", legend=True)
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
    figure = _figure(300, x="optimizer step", y="share of the time", legend=True)
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
    figure = _figure(300, x="epoch", y="metric", legend=True)
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
    figure = _figure(320, x="trial", y=escape(metric), legend=True)
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
    figure = _figure(40 + 34 * len(order))
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


def popularity(bought: Sequence[float], recommended: Mapping[str, Sequence[float]]) -> go.Figure:
    """Shares by decile of popularity: what is bought as bars, what each model recommends as lines.

    Args:
        bought: counts by decile, the most bought items first.
        recommended: the same by model.
    """
    figure = _figure(320, x="items by popularity, in tenths (1: the most bought)", y="share", legend=True)
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
    figure = _figure(60 + 44 * len(names))
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
