"""The report's sections on what the jobs did: training, tuning, stages; from the JSON that they left.

A job that did not run leaves words in place of figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.headlines import main_k
from jobs.page import run_figures as figures
from jobs.page.frame import Html, Section, absent, grid, html, join, paragraph, plot, table
from jobs.page.lists import METRICS

Json = Mapping[str, Any]

TRIALS_SHOWN = 10
STATES = {"fail": "failed"}


def training_section(record: Sequence[Json], latest: Json | None) -> Section:
    """Loss by step and validation metrics by epoch, from the run record, or from the training's summary without one."""
    title = "Training"
    history = latest["summary"].get("history", []) if latest else []
    ends = [line for line in record if line["kind"] == "epoch"]
    if ends:
        history = [{"epoch": line["epoch"], "step": line["step"], **line["values"]} for line in ends]
    if not history:
        return Section("training", title, absent("No training has left a record here.", "train"))
    said = [
        (line["step"], line["values"]["loss"])
        for line in record
        if "loss" in line["values"] and line["kind"] != "epoch"
    ]
    loss = plot(
        figures.loss_curve(
            [step for step, _ in said],
            [value for _, value in said],
            [(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        ),
        "Training loss by optimizer step, over all ranks: it should fall and level off; a rise means a rate too high.",
        key="loss",
        title="Loss",
    )
    parts, curves = [loss, *_speed(record)], _curves(history)
    if not curves:
        return Section("training", title, grid(*parts))
    metric = plot(
        figures.metric_curves([int(entry["epoch"]) + 1 for entry in history], curves),
        "Metrics on held-out customers after each epoch: falling while the loss still falls means overfitting.",
        key="validation",
        title="Held-out metrics",
    )
    return Section("training", title, grid(loss, metric, *parts[1:]))


def _speed(record: Sequence[Json]) -> list[Html]:
    """What the ranks waited for, and how fast the loaders delivered; nothing where the record does not say."""
    said = [line for line in record if "wait_share" in line["values"]]
    if not said:
        return []
    shares = {
        "waiting for data": [line["values"]["wait_share"] for line in said],
        "waiting for other ranks": [line["values"].get("comm_share") for line in said],
    }
    words = (
        "What rank 0 waited for, as shares of the time: much waiting for data asks for more training.reader_workers."
    )
    loaded = [line["values"] for line in record if "loader_rows_per_s" in line["values"] and line["kind"] == "epoch"]
    if loaded:
        rows, size = loaded[-1]["loader_rows_per_s"], loaded[-1]["loader_bytes_per_s"]
        words += f" In the last epoch the loaders delivered {rows:,.0f} rows/s ({size / 1e6:,.1f} MB/s) over all ranks."
    return [plot(figures.waits([line["step"] for line in said], shares), words, key="waits", title="Waiting")]


def _curves(history: Sequence[Json]) -> dict[str, list[float | None]]:
    """The metrics worth a line: of recall, NDCG and hit rate the list length that the tables show."""
    names = {name for entry in history for name in entry if "_at_" in name}
    ks = sorted({int(name.rsplit("_", 1)[1]) for name in names if name.rsplit("_", 1)[1].isdigit()})
    wanted = [f"{name}_at_{main_k(ks)}" for name in METRICS] if ks else []
    return {name: [entry.get(name) for entry in history] for name in wanted[:4] if name in names}


def tuning_section(tuning: Json | None) -> Section:
    """Values by trial, what mattered, and the best trials."""
    title = "Tuning"
    if tuning is None or not tuning["trials"]:
        return Section("tuning", title, absent("No study has run here.", "tune"))
    trials, best, start = tuning["trials"], tuning["best"], tuning["start"]
    counted = ", ".join(f"{number} {STATES.get(state, state)}" for state, number in tuning["counts"].items())
    words = f"{len(trials)} trials on the validation split ({counted}), for the highest {tuning['metric']}."
    if best and start:
        words += f" As configured: {start['value']:.4f}; best, trial {best['number']}: {best['value']:.4f}."
    history = plot(
        figures.tuning_history(trials, tuning["metric"]),
        "Each trial's best value in order: the stair is the best so far, crosses were given up early, and trial 0 is "
        "the configuration as it was.",
        key="trials",
        title="Trials",
    )
    if tuning["importances"]:
        importance = plot(
            figures.shares(tuning["importances"]),
            "How much each value decided whether a trial was among the better ones (PED-ANOVA), as shares of 100 %.",
            key="importance",
            title="What mattered",
        )
    else:
        importance = paragraph("Too few finished trials to say which values mattered.", "absent")
    return Section("tuning", title, join(paragraph(words), grid(history, importance), _best_trials(trials, best)))


def _best_trials(trials: Sequence[Json], best: Json | None) -> Html:
    ranked = sorted(
        (t for t in trials if t["value"] is not None), key=lambda t: (t["state"] != "complete", -t["value"])
    )
    shown = ranked[:TRIALS_SHOWN]
    names = sorted({name for trial in shown for name in trial["params"]})
    rows = [
        [
            str(trial["number"]),
            trial["state"],
            Html(f"{trial['value']:.4f}"),
            *(_value(trial["params"].get(name, "")) for name in names),
        ]
        for trial in shown
    ]
    marked = next((at for at, trial in enumerate(shown) if best and trial["number"] == best["number"]), None)
    columns = ["trial", "state", "value", *(name.replace("training.", "").replace("model.", "") for name in names)]
    more = f" The {len(ranked) - len(shown)} others are in tuning.json." if len(ranked) > len(shown) else ""
    caption = f"The best trials with their values; the marked one went to best.json.{more}"
    return table(columns, rows, marked=marked, caption=caption)


def _value(value: Any) -> Html:
    return Html(f"{value:.3g}" if isinstance(value, float) else html(str(value)))


def stages_section(stages: Sequence[Json] | None) -> Section:
    """Where the time went."""
    title = "Where the time went"
    if not stages:
        words = "No stage was timed: commands time themselves, functions that a notebook calls do not."
        return Section("stages", title, paragraph(words, "absent"))
    seconds = {entry["stage"]: entry["seconds"] for entry in stages}
    figure = plot(
        figures.shares(seconds, percent=False),
        f"Seconds that each stage took on this machine when it last had something to do, longest on top; "
        f"{sum(seconds.values()):,.0f} s in all.",
        key="stages",
    )
    return Section("stages", title, figure)
