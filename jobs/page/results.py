"""The report's sections on what a model is worth: metrics, recommendations, feedback; from the JSON that jobs left.

A job that did not run leaves words in place of figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.headlines import JUDGED, main_k
from jobs.page import result_figures as figures
from jobs.page.frame import Html, Section, absent, facts, grid, html, join, paragraph, plot, table, tag
from jobs.page.style import model_name

Json = Mapping[str, Any]

METRICS = {
    "recall": ("Recall", "share of what a customer then bought that is in the list"),
    "ndcg": ("NDCG", "like recall, and hits near the top count more"),
    "mrr": ("MRR", "one over the rank of the first hit"),
    "hit_rate": ("Hit rate", "share of customers with at least one hit"),
    "map": ("MAP", "precision at each hit, averaged"),
    "coverage": ("Coverage", "share of the catalogue that is recommended to anyone"),
    "novelty": ("Novelty", "how rarely bought the recommended items are, in bits"),
}
CUSTOMERS_OPEN = 4


def protocol_title(key: str, protocol: Json) -> str:
    names = {"new": "Items new to the customer", "any": "Any item, bought before or not"}
    return f"{names.get(key, key)} ({protocol['users']:,} customers)"


def metrics_section(evaluation: Json | None) -> Section:
    """Ours against the baselines: a table, bars with intervals, and the metric by list length, per protocol."""
    title = "Metrics against baselines"
    if evaluation is None:
        return Section("metrics", title, absent("The bundle has not been evaluated.", "evaluate"))
    if not is_of_lists(evaluation):
        return Section("metrics", title, _plain_metrics(evaluation))
    k = main_k(evaluation["ks"])
    intro = paragraph(
        f"Each model ranks the whole catalogue for each customer as of {str(evaluation['test_from'])[:10]}, and is "
        "judged by what the customer bought from then on; nothing after that day was used in training. Brackets and "
        "error bars are 95 % intervals over resampled customers."
    )
    parts = [intro, *(_protocol(key, held, evaluation["ks"], k) for key, held in evaluation["protocols"].items())]
    words = "; ".join(f"{name}: {meaning}" for name, meaning in METRICS.values())
    return Section("metrics", title, join(*parts, paragraph(f"What the columns say. {words}.", "note")))


def is_of_lists(evaluation: Json | None) -> bool:
    """Whether what is said first are metrics of lists, which have a length; so it is where nothing is said."""
    shown = (evaluation or {}).get("headline", {}).get("judged")
    return shown is None or all("_at_" in metric for metric in shown.values())


def _plain_metrics(evaluation: Json) -> Html:
    """Each slice: a table of the task's metrics, and bars of those that it is judged by."""
    headline = evaluation["headline"]
    lower = set(headline["lower"])
    intro = paragraph(
        f"Each contender answers the same {headline['rows']} as of {str(evaluation['test_from'])[:10]} or later, and "
        "is judged by what then came out; nothing that was known only later was used. Brackets and error bars are 95 % "
        "intervals over resamples; the marked row is the model of this run, and a star says that it differs from that "
        "contender beyond chance."
    )
    parts = [intro]
    titles = {**headline["judged"], **headline["beside"]}
    for key, held in evaluation["protocols"].items():
        models, differences = held["models"], held["differences"]
        rows = [
            [model_name(model), *(_metric(name, models[model], differences.get(model, {})) for name in titles.values())]
            for model in models
        ]
        marked = list(models).index("millrace") if "millrace" in models else None
        columns = [
            "model",
            *(f"{title} (less is better)" if name in lower else title for title, name in titles.items()),
        ]
        bars = [
            plot(
                figures.bars_with_intervals({model: models[model][name] for model in models}),
                f"{title}: {'a shorter' if name in lower else 'a longer'} bar is better.",
                key=f"{key}-{name}",
                title=title,
            )
            for title, name in headline["judged"].items()
        ]
        heading = tag("h3", f"{key} ({held['users']:,} {headline['rows']})", "part")
        parts += [heading, paragraph(held["what"]), table(columns, rows, marked=marked), grid(*bars)]
    return join(*parts)


def drawn_section(evaluation: Json | None) -> Section | None:
    """A table of some of what was asked, and what was answered; None where lists of customers say it at length."""
    drawn = (evaluation or {}).get("drawn")
    if not drawn or (evaluation or {}).get("examples"):
        return None
    return Section("drawn", drawn["title"], table(drawn["columns"], drawn["rows"]))


def curves_section(evaluation: Json | None) -> Section | None:
    """What is a curve for each contender; None where there is none."""
    curves = (evaluation or {}).get("curves")
    if not curves:
        return None
    plots = [
        plot(
            figures.lines(curve["lines"], curve["x"], curve["y"], diagonal=curve.get("diagonal", False)),
            curve["note"],
            key=f"curve-{number}",
            title=curve["title"],
        )
        for number, curve in enumerate(curves)
    ]
    return Section("curves", "Curves", grid(*plots))


def panels_section(evaluation: Json | None) -> Section | None:
    """Series with what was forecast and what came; None where there are none."""
    panels = (evaluation or {}).get("panels")
    if not panels:
        return None
    plots = [
        plot(
            figures.panel(panel),
            "What was known, the forecast's middle and its bands, and what came: it should lie in the wide band nine "
            "times in ten at most, and in the middle of it as often above as below.",
            key=f"panel-{number}",
            title=str(panel["name"]),
        )
        for number, panel in enumerate(panels)
    ]
    return Section("panels", "Series", grid(*plots))


def _protocol(key: str, protocol: Json, ks: Sequence[int], k: int) -> Html:
    models, differences = protocol["models"], protocol.get("differences", {})
    names = [name for name in METRICS if any(f"{name}_at_{k}" in held for held in models.values())]
    order = sorted(models, key=lambda model: -models[model].get(f"recall_at_{k}", {"value": 0.0})["value"])
    caption = (
        f"In lists of {k}, higher is better; the marked row is the model of this run, and a star says that it differs "
        "from that baseline beyond chance, customer by customer."
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
    heading = tag("h3", protocol_title(key, protocol), "part")
    return join(
        heading,
        paragraph(protocol["what"]),
        _table(models, differences, order, names, k, caption),
        grid(*bars, line),
        *(_at_length(models, differences, order, names, at) for at in sorted(ks) if at != k),
    )


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
            *(_metric(f"{name}_at_{k}", models[model], differences.get(model, {})) for name in names),
        ]
        for model in order
    ]
    columns = ["model", *(f"{METRICS[name][0]}@{k}" for name in names)]
    return table(columns, rows, marked=order.index("millrace") if "millrace" in order else None, caption=caption)


def _metric(name: str, metrics: Json, differences: Json) -> Html:
    """A value with its interval below; a star where ours differs from it (the paired interval leaves out 0)."""
    metric, difference = metrics.get(name), differences.get(name)
    if metric is None:
        return Html("&ndash;")
    interval = f"[{metric['low']:.3f}, {metric['high']:.3f}]" if "low" in metric else ""
    star = "*" if difference and (difference["low"] > 0 or difference["high"] < 0) else ""
    return join(f"{metric['value']:.3f}{star}", tag("small", interval))


def popularity_section(evaluation: Json | None) -> Section:
    """Whether the model recommends only what everyone buys."""
    title = "Popularity"
    held = (evaluation or {}).get("popularity_of_recommended")
    if not held:
        return Section("popularity", title, absent("What is recommended has not been counted.", "evaluate"))
    figure = plot(
        figures.popularity(held["bought"], held["recommended"]),
        "Bars: where purchases lie when items are ranked by popularity and cut into tenths; lines: where "
        "recommendations lie. A line far above the bars at the left recommends only what sells anyway.",
        key="popularity",
    )
    return Section("popularity", title, figure)


def examples_section(evaluation: Json | None) -> Section:
    """Ten customers: bought, recommended, then bought."""
    title = "Ten customers"
    customers = (evaluation or {}).get("examples")
    if not customers:
        return Section("examples", title, absent("There are no examples.", "evaluate"))
    intro = paragraph(
        "What a customer had bought, what was recommended on that ground, and what the customer then bought. "
        "A recommendation that was bought is marked."
    )
    people = [_customer(customer, is_open=number < CUSTOMERS_OPEN) for number, customer in enumerate(customers)]
    return Section("examples", title, join(intro, *people))


def _customer(customer: Json, *, is_open: bool) -> Html:
    then = set(customer["then_bought"])
    hits = sum(item in then for item in customer["recommended"])
    found = f"{hits} of {len(customer['recommended'])} recommended were bought"
    lists = (
        ("had bought", "ul", [(item, False) for item in customer["bought"]]),
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


def feedback_section(feedback: Json | None) -> Section:
    """What came of what was shown; where a simulated shop can say, what each bundle's next lists are worth."""
    title = "Feedback"
    if not feedback:
        return Section("feedback", title, absent("No feedback has come back yet.", "ingest-feedback"))
    shown, purchased, viewed = feedback["shown"], feedback["purchased"], feedback.get("viewed", 0)
    words = paragraph(
        f"Of {shown:,} recommendations shown, {viewed:,} were looked at and {purchased:,} bought "
        f"({_wilson(purchased, shown)['value']:.2%}). The next examples are built with these outcomes."
    )
    if not feedback.get("rounds"):
        return Section("feedback", title, words)
    return Section("feedback", title, join(words, *_rounds(feedback["rounds"])))


def _rounds(rounds: Sequence[Json]) -> tuple[Html, Html]:
    """A table of the bundles' next lists, and their purchases per item shown."""
    rates = {entry["name"]: _wilson(entry["purchased"], entry["shown"]) for entry in rounds}
    rows = [
        [
            entry["name"],
            entry["bundle"],
            entry["shown"],
            entry["purchased"],
            Html(f"{rates[entry['name']]['value']:.2%}"),
            Html(f"{entry['true_value']:.3f}"),
        ]
        for entry in rounds
    ]
    columns = ["model", "bundle", "shown", "purchased", "bought of shown", "expected purchases per customer"]
    best = max(range(len(rounds)), key=lambda at: rounds[at]["true_value"])
    caption = (
        "Next lists, of items that a customer had neither bought nor been shown; expected purchases follow "
        "from the tastes that only a simulated shop knows, and the marked row has most."
    )
    figure = plot(
        figures.rounds(rates),
        "Share of the items shown that were bought, with 95 % intervals (Wilson): a longer bar is the better model.",
        key="rounds",
    )
    return table(columns, rows, marked=best, caption=caption), figure


def _wilson(hits: int, shown: int) -> dict[str, float]:
    """A rate with its 95 % interval (Wilson, 1927)."""
    if shown == 0:
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    z = 1.96
    rate = hits / shown
    middle = (rate + z * z / (2 * shown)) / (1 + z * z / shown)
    half = z * math.sqrt(rate * (1 - rate) / shown + z * z / (4 * shown * shown)) / (1 + z * z / shown)
    return {"value": rate, "low": middle - half, "high": middle + half}


def score_section(score: Json | None) -> Section:
    """What the last scoring wrote."""
    title = "Scoring"
    if score is None:
        return Section("score", title, absent("Nothing has been scored.", "score"))
    plain = [(key.replace("_", " "), value) for key, value in score.items() if isinstance(value, str | int | float)]
    return Section("score", title, facts(plain))
