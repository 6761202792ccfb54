"""The report's sections on lists: their metrics by length, whether they hold only what everyone buys, ten customers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.headlines import JUDGED, main_k
from jobs.page import result_figures as figures
from jobs.page.frame import Html, Section, absent, grid, html, join, paragraph, plot, table, tag
from jobs.page.style import model_name

Json = Mapping[str, Any]

METRICS = {
    "recall": ("Recall", "share of what a customer then bought that is in the list"),
    "ndcg": ("NDCG", "like recall, and hits near the top count more"),
    "mrr": ("MRR", "one over the rank of the first hit"),
    "hit_rate": ("Hit rate", "share of customers with at least one hit"),
    "map": ("MAP", "precision at each hit, averaged"),
    "precision": ("Precision", "share of the list's places that were bought"),
    "capped_recall": ("Capped recall", "like recall, of as many as the list can hold"),
    "coverage": ("Coverage", "share of the catalogue that is recommended to anyone"),
    "novelty": ("Novelty", "how rarely bought the recommended items are, in bits"),
    "gini": ("Gini", "how unevenly the catalogue is recommended: 0 all items alike, towards 1 a few only"),
    "diversity": ("Diversity", "share of a list's pairs of items that are of two categories, where items have one"),
}
CUSTOMERS_OPEN = 4


def _protocol_title(key: str, protocol: Json) -> str:
    names = {
        "new": "Items new to the customer",
        "any": "Any item, bought before or not",
        "cold_items": "Items that nobody had bought before",
        "cold_users": "Customers of whom little was known",
    }
    return f"{names.get(key, key)} ({protocol['users']:,} customers)"


def list_metrics(evaluation: Json) -> Html:
    """Ours against the baselines, per protocol: a table, bars with intervals, and the metric by length of the list."""
    k = main_k(evaluation["ks"])
    intro = paragraph(
        f"Each model ranks the whole catalogue for each customer as of {str(evaluation['test_from'])[:10]}, and is "
        "judged by what the customer bought from then on; nothing after that day was used in training. Brackets and "
        "error bars are 95 % intervals over resampled customers."
    )
    parts = [intro, *(_protocol(key, held, evaluation["ks"], k) for key, held in evaluation["protocols"].items())]
    words = "; ".join(f"{name}: {meaning}" for name, meaning in METRICS.values())
    return join(*parts, paragraph(f"What the columns say. {words}.", "note"))


def _protocol(key: str, protocol: Json, ks: Sequence[int], k: int) -> Html:
    models, differences = protocol["models"], protocol.get("differences", {})
    names = [name for name in METRICS if any(f"{name}_at_{k}" in held for held in models.values())]
    order = sorted(models, key=lambda model: -models[model].get(f"recall_at_{k}", {"value": 0.0})["value"])
    caption = (
        f"In lists of {k}, higher is better, of Gini lower; the marked row is the model of this run, and a star says "
        "that it differs from that baseline beyond chance, customer by customer."
    )
    bars = [
        plot(
            figures.bars_with_intervals({model: models[model][f"{name}_at_{k}"] for model in order}),
            f"{METRICS[name][0]}: {METRICS[name][1]}; bars whose black intervals do not overlap differ beyond chance.",
            key=f"{key}-{name}",
            title=f"{METRICS[name][0]}@{k}",
        )
        for name in JUDGED
        if all(f"{name}_at_{k}" in models[model] for model in order)
    ]
    curves = {
        model: {at: models[model][f"recall_at_{at}"]["value"] for at in ks if f"recall_at_{at}" in models[model]}
        for model in order
    }
    line = plot(
        figures.by_k(curves, "recall"),
        "Recall against the length of the list: a line above another finds more at every length.",
        key=f"{key}-by-k",
        title="Recall by length of the list",
    )
    heading = tag("h3", _protocol_title(key, protocol), "part")
    return join(
        heading,
        paragraph(protocol["what"] + _asked_for(protocol)),
        _table(models, differences, order, names, k, caption),
        grid(*bars, line),
        *(_at_length(models, differences, order, names, at) for at in sorted(ks) if at != k),
    )


def _asked_for(protocol: Json) -> str:
    """By what a reader sees whether two pages judge the same; nothing where an earlier version judged."""
    pairs = protocol.get("pairs")
    if pairs is None:
        return ""
    return f". {pairs['count']:,} pairs of a customer and an item are to be found, hash {pairs['hash']}"


def _at_length(models: Json, differences: Json, order: Sequence[str], names: Sequence[str], k: int) -> Html:
    """The table at another list length, folded."""
    body = _table(models, differences, order, names, k)
    return Html(f"<details><summary>In lists of {k}</summary>{body.text}</details>")


def _table(
    models: Json, differences: Json, order: Sequence[str], names: Sequence[str], k: int, caption: str = ""
) -> Html:
    rows = [
        [
            model_name(model),
            *(metric_cell(f"{name}_at_{k}", models[model], differences.get(model, {})) for name in names),
        ]
        for model in order
    ]
    columns = ["model", *(f"{METRICS[name][0]}@{k}" for name in names)]
    return table(columns, rows, marked=order.index("millrace") if "millrace" in order else None, caption=caption)


def metric_cell(name: str, metrics: Json, differences: Json) -> Html:
    """A value with its interval below; a star where ours differs from it (the paired interval leaves out 0)."""
    metric, difference = metrics.get(name), differences.get(name)
    if metric is None:
        return Html("&ndash;")
    interval = f"[{metric['low']:.3f}, {metric['high']:.3f}]" if "low" in metric else ""
    star = "*" if difference and (difference["low"] > 0 or difference["high"] < 0) else ""
    return join(f"{metric['value']:.3f}{star}", tag("small", interval))


def popularity_section(evaluation: Json | None) -> Section:
    """Whether the model recommends only what everyone buys."""
    missing = "What is recommended has not been counted."
    return _section("popularity", "Popularity", evaluation, "popularity_of_recommended", missing, _popularity)


def examples_section(evaluation: Json | None) -> Section:
    """Ten customers: bought, recommended, then bought."""
    return _section("examples", "Ten customers", evaluation, "examples", "There are no examples.", _customers)


def _section(
    key: str, title: str, evaluation: Json | None, part: str, missing: str, show: Callable[[Any], Html]
) -> Section:
    """A section of one part of an evaluation; where that is not there, words and the command that makes it."""
    held = (evaluation or {}).get(part)
    return Section(key, title, show(held) if held else absent(missing, "evaluate"))


def _popularity(held: Json) -> Html:
    return plot(
        figures.popularity(held["bought"], held["recommended"]),
        "Bars: where purchases lie when items are ranked by popularity and cut into tenths; lines: where "
        "recommendations lie. A line far above the bars at the left recommends only what sells anyway.",
        key="popularity",
    )


def _customers(customers: Sequence[Json]) -> Html:
    intro = paragraph(
        "What a customer had bought (or looked at, where examples.weights counts that), what was recommended on that "
        "ground, and what the customer then bought. "
        "A recommendation that was bought is marked."
    )
    people = [_customer(customer, is_open=number < CUSTOMERS_OPEN) for number, customer in enumerate(customers)]
    return join(intro, *people)


def _customer(customer: Json, *, is_open: bool) -> Html:
    then = set(customer["then_bought"])
    hits = sum(item in then for item in customer["recommended"])
    found = f"{hits} of {len(customer['recommended'])} recommended were bought"
    lists = (
        ("had before", "ul", [(item, False) for item in customer["bought"]]),
        ("recommended", "ol", [(item, item in then) for item in customer["recommended"]]),
        ("then bought", "ul", [(item, False) for item in customer["then_bought"]]),
    )
    blocks = "".join(
        f"<div><h4>{heading}</h4><{kind}>" + "".join(_item(name, hit) for name, hit in items) + f"</{kind}></div>"
        for heading, kind, items in lists
    )
    heading = f"<summary>Customer {html(customer['user_id'])} <small>{found}</small></summary>"
    return Html(f"<details{' open' if is_open else ''}>{heading}<div class=lists>{blocks}</div></details>")


def _item(name: str, hit: bool) -> str:
    return f"<li class=hit>{html(name)}</li>" if hit else f"<li>{html(name)}</li>"
