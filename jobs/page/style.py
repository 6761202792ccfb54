"""The look of the report's figures: colours and names of the models, and an empty figure (plotly).

Colours are those of Okabe and Ito, which people with any colour vision tell apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8a949e"
INK, SOFT, LINE = "#1c2733", "#5b6875", "#e3e7eb"
MODEL_COLOURS = {
    "millrace": BLUE,
    "als": RED,
    "ease": PINK,
    "item_item": GREEN,
    "recent_popularity": ORANGE,
    "popularity": GREY,
}
MODEL_NAMES = {
    "millrace": "Millrace",
    "als": "ALS (Spark)",
    "ease": "EASE",
    "item_item": "Item-item",
    "recent_popularity": "Recent popularity",
    "popularity": "Popularity",
    "past_fraud_rate": "Past fraud rate",
    "past_click_rate": "Past click rate",
    "rows_so_far": "Newness",
    "tf_idf": "TF-IDF, words",
    "tf_idf_pairs": "TF-IDF, words and pairs",
    "product_share": "Product's past share",
    "rule": "One number's order",
    "lightgbm": "LightGBM",
    "auto_ets": "AutoETS",
    "planted_truth": "The planted truth",
}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def model_name(key: str) -> str:
    return MODEL_NAMES.get(key, key)


def model_colour(key: str) -> str:
    return MODEL_COLOURS.get(key, PINK)


def model_colours(models: Iterable[str]) -> dict[str, str]:
    """A colour for each of some models; those without one of their own take the others in turn."""
    taken = {MODEL_COLOURS[key] for key in models if key in MODEL_COLOURS}
    left = itertools.cycle(
        [colour for colour in (RED, GREEN, ORANGE, PINK, SKY, GREY) if colour not in taken] or [PINK]
    )
    return {key: MODEL_COLOURS[key] if key in MODEL_COLOURS else next(left) for key in models}


def empty_figure(height: int, *, x: str = "", y: str = "", legend: bool = False) -> go.Figure:
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
