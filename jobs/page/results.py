"""The report's sections on what a model is worth: metrics, what was drawn, feedback; from the JSON that jobs left.

A job that did not run leaves words in place of figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.page import result_figures as figures
from jobs.page.frame import Html, Section, absent, facts, grid, html, join, paragraph, plot, table, tag
from jobs.page.lists import list_metrics, metric_cell
from jobs.page.style import model_name
from jobs.task import TRUTH

Json = Mapping[str, Any]
BEYOND_REACH = (
    "The planted truth answers with what this simulated shop was drawn from, which no shop knows: what it reaches is "
    "the most that can be expected of anyone, and what a model does not see keeps it below that."
)


def metrics_section(evaluation: Json | None) -> Section:
    """Ours against the baselines: a table, bars with intervals, and of lists the metric by their length, by slice."""
    title = "Metrics against baselines"
    if evaluation is None:
        return Section("metrics", title, absent("The bundle has not been evaluated.", "evaluate"))
    return Section(
        "metrics", title, list_metrics(evaluation) if is_of_lists(evaluation) else _plain_metrics(evaluation)
    )


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
            [
                model_name(model),
                *(metric_cell(name, models[model], differences.get(model, {})) for name in titles.values()),
            ]
            for model in models
        ]
        marked = list(models).index("millrace") if "millrace" in models else None
        columns = [
            "model",
            *(f"{title} (less is better)" if name in lower else title for title, name in titles.items()),
        ]
        bars = [
            plot(
                figures.bars_with_intervals({model: models[model][name] for model in models}, lower=name in lower),
                f"{title}: {'a shorter' if name in lower else 'a longer'} bar is better.",
                key=f"{key}-{name}",
                title=title,
            )
            for title, name in headline["judged"].items()
        ]
        what = str(held["what"])
        heading = tag("h3", f"{what[:1].upper()}{what[1:]} ({held['users']:,} {headline['rows']})", "part")
        known = [paragraph(BEYOND_REACH)] if TRUTH in models else []
        parts += [heading, table(columns, rows, marked=marked), *known, grid(*bars)]
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


def tables_section(evaluation: Json | None) -> Section | None:
    """More tables that the task has people look at; None where there is none."""
    held = (evaluation or {}).get("tables")
    if not held:
        return None
    parts = [
        part
        for each in held
        for part in (tag("h3", each["title"], "part"), table(each["columns"], each["rows"], caption=each["note"]))
    ]
    return Section("tables", "Tables", join(*parts))


def pictures_section(evaluation: Json | None) -> Section | None:
    """Pictures with what is said of each; None where there are none."""
    held = (evaluation or {}).get("pictures")
    if not held or not held["shown"]:
        return None
    shown = [
        Html(
            f'<figure class=picture><img src="data:image/png;base64,{html(each["png"])}" alt="">'
            f"<figcaption>{html(each['words'])}</figcaption></figure>"
        )
        for each in held["shown"]
    ]
    return Section(
        "pictures", held["title"], join(paragraph(held["note"]), Html(f"<div class=pictures>{join(*shown).text}</div>"))
    )


def panels_section(evaluation: Json | None) -> Section | None:
    """Series with what was forecast and what came; None where there are none."""
    panels = (evaluation or {}).get("panels")
    if not panels:
        return None
    plots = [
        plot(
            figures.panel(panel),
            "",
            key=f"panel-{number}",
            title=str(panel["name"]),
        )
        for number, panel in enumerate(panels)
    ]
    words = paragraph(
        "What was known, the forecast's middle and its bands, and what came: it should lie in a band as often as its "
        "two shares lie apart, and as often above the middle as below."
    )
    return Section("panels", "Series", join(words, grid(*plots)))


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
