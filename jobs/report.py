"""Report: one HTML file of all that a run has left, to open in a browser without a server or a network.

    python -m jobs.report --settings shop.yaml

Reads only the run folder's JSON files; what is not there yet is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.artefacts import EVALUATION, FEEDBACK, LATEST, SCORE, STAGES, TUNING, read_json
from jobs.command import main_of
from jobs.console import say
from jobs.headlines import JUDGED, gained, hardest, main_k
from jobs.page.frame import Html, facts, join, page, paragraph, tag, tiles
from jobs.page.lists import examples_section, popularity_section
from jobs.page.results import (
    curves_section,
    drawn_section,
    feedback_section,
    is_of_lists,
    metrics_section,
    panels_section,
    pictures_section,
    score_section,
    tables_section,
)
from jobs.page.runs import stages_section, training_section, tuning_section
from jobs.page.style import model_name
from jobs.settings import Settings
from jobs.tasks import TASKS
from training.errors import ArtefactError
from training.state.json_files import write_text
from training.watch.record import read_record

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

REPORT = "report.html"


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:  # noqa: ARG001  no table is read
    """Write run_dir/report.html.

    Returns:
        path, and sections: the names of those that had something to show.

    Raises:
        ArtefactError: a file of the run folder is damaged, or it holds none of a run's.
    """
    run_dir = Path(settings.run_dir)
    record = read_record(run_dir)
    held = {name: read_json(run_dir, name) for name in (EVALUATION, FEEDBACK, LATEST, SCORE, STAGES, TUNING)}
    if not record and not any(held.values()):
        raise ArtefactError(
            f"there is nothing to report in run_dir '{run_dir}': it holds no {', '.join(held)}; name the folder of a "
            "run, or run a job first"
        )
    evaluation = held[EVALUATION]
    of_lists = [examples_section(evaluation), popularity_section(evaluation)] if is_of_lists(evaluation) else []
    of_others = [curves_section(evaluation), panels_section(evaluation), drawn_section(evaluation)]
    of_others += [tables_section(evaluation), pictures_section(evaluation)]
    sections = [
        metrics_section(evaluation),
        *of_lists,
        *(section for section in of_others if section is not None),
        *([feedback_section(held[FEEDBACK])] if TASKS[settings.task].demo.closes_the_loop else []),
        training_section(record, held[LATEST]),
        tuning_section(held[TUNING]),
        score_section(held[SCORE]),
        stages_section(held[STAGES]),
    ]
    title = f"Millrace report: {settings.task}, {_data_name(settings)}"
    foot = "Made by millrace report from the JSON files beside it; the page needs neither a server nor a network."
    text = page(title, _head(settings, held), sections, foot)
    path = run_dir / REPORT
    write_text(path, text)
    say(f"report: {path} ({len(text) / 1e6:.1f} MB; open it in a browser)")
    shown = [section.key for section in sections if 'class="absent"' not in section.body.text[:20]]
    return {"path": str(path), "sections": shown}


def _data_name(settings: Settings) -> str:
    asked = [*settings.ingest.events().values(), *settings.sources.values()]
    names = [Path(each.path).name if each.path else each.table for each in asked]
    return ", ".join(name for name in names if name) or "a simulated shop"


def _head(settings: Settings, held: Mapping[str, Any]) -> Html:
    evaluation, latest = held[EVALUATION], held[LATEST]
    pairs: list[tuple[str, Any]] = [
        ("Made", datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")),
        ("Data", _data_name(settings)),
    ]
    if evaluation is not None:
        pairs.append(("Held out from", str(evaluation["test_from"])[:10]))
        pairs.append(("Examples table", f"version {evaluation['version']}"))
    if latest is not None:
        pairs.append(("Bundle", latest.get("compressed", latest["bundle"])))
        rows = latest["summary"].get("rows")
        pairs += [("Trained on", f"{rows:,} examples")] if rows else []
        treated = latest["summary"].get("rare_labels")
        pairs += [("Rare labels", ", ".join(f"{name} {value}" for name, value in treated.items()))] if treated else []
    pairs.append(("Model", settings.model["name"].replace("_", " ")))
    pairs.append(("Ranks", settings.training.ranks))
    about = paragraph("What was trained, how good it is and what it answers.")
    return join(tag("h1", f"{settings.task.capitalize()}: {_data_name(settings)}"), about, _tiles(held), facts(pairs))


def _tiles(held: Mapping[str, Any]) -> Html:
    """The four figures that a person looks for first, those of them that are there."""
    found: list[tuple[str, str, str]] = []
    evaluation = held[EVALUATION]
    if evaluation is not None:
        found += _headlines(evaluation)
    tuning = held[TUNING]
    if tuning and tuning["best"] and tuning["start"] and tuning["start"]["value"]:
        gain = gained(tuning["best"]["value"], tuning["start"]["value"])
        found.append((f"{gain:+.1%}", "gained by tuning", f"{tuning['metric']} on the validation split"))
    stages = held[STAGES]
    if stages:
        seconds = sum(entry["seconds"] for entry in stages)
        found.append((f"{seconds / 60:.1f} min", "for all that was run", f"{len(stages)} stages"))
    return tiles(found[:4])


def _headlines(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """By protocol: recall with its interval, and the comparisons in which it and NDCG fare worst."""
    if not is_of_lists(evaluation):
        return _plain_headlines(evaluation)
    k = main_k(evaluation["ks"])
    names = {
        "new": "items new to the customer",
        "any": "any item",
        "cold_items": "items nobody had bought before",
        "cold_users": "customers of whom little was known",
    }
    found = []
    for key, protocol in evaluation["protocols"].items():
        ours = protocol["models"].get("millrace", {}).get(f"recall_at_{k}")
        if ours is None:
            continue
        leads = [lead for metric in JUDGED if (lead := hardest(protocol, f"{metric}_at_{k}"))]
        what = f"recall@{k} [{ours['low']:.3f}, {ours['high']:.3f}], {names.get(key, key)}"
        found.append((f"{ours['value']:.3f}", what, "; ".join(lead.words(model_name) for lead in leads)))
    return found


def _plain_headlines(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """By slice: the first metric with its interval, and the comparison in which it fares worst."""
    headline, found = evaluation["headline"], []
    title, metric = next(iter(headline["judged"].items()))
    for protocol in evaluation["protocols"].values():
        ours = protocol["models"]["millrace"][metric]
        lead = hardest(protocol, metric, headline["lower"])
        what = f"{title} [{ours['low']:.3f}, {ours['high']:.3f}], {protocol['what']}"
        found.append((f"{ours['value']:.3f}", what, replace(lead, metric=title).words(model_name) if lead else ""))
    return found


if __name__ == "__main__":
    main_of(run)
