"""The main job, end to end: data -> examples -> tuning -> training -> evaluation -> scoring -> feedback -> report.

make demo                          a simulated shop, with the feedback loop closed once
make demo DATA=online_retail.csv.gz     the UCI Online Retail file
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.session import TO_SCORE
from jobs import build_examples, evaluate, feedback_round, ingest, report, score, simulate, train, tune
from jobs.console import CONSOLE, say, show_table
from jobs.sessions import open_session
from jobs.settings import Settings, load_settings
from jobs.stages import timed

PIPELINES = Path(__file__).parent / "pipelines"


class Stages:
    """Runs stages in turn, says which, and keeps how long each took this time."""

    def __init__(self, run_dir: str) -> None:
        self.seconds: dict[str, float] = {}
        self._run_dir = run_dir

    def run(self, name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        CONSOLE.rule(f"[bold]{len(self.seconds) + 1}. {name}", align="left")
        started = time.perf_counter()
        summary = timed(self._run_dir, name, call)
        self.seconds[name] = time.perf_counter() - started
        return summary


def run_demo(data: str | None, out: str, flags: list[str]) -> dict[str, Any]:
    """Run the whole pipeline on a file, or on a simulated shop.

    Args:
        data: a file laid out like UCI Online Retail; None simulates a shop.
        out: everything is written below this folder.
        flags: `section.key=value`, over the pipeline's file.

    Returns:
        The evaluation's summary.
    """
    name = "online_retail" if data else "shop"
    home = Path(out) / name
    places = [f"tables.root={home}/tables", f"run_dir={home}/run", *([f"ingest.path={data}"] if data else [])]
    settings = load_settings(PIPELINES / f"{name}.yaml", [*places, *flags])
    stages = Stages(settings.run_dir)
    spark = open_session(settings, beside=TO_SCORE)
    if data is None:
        stages.run("simulate", lambda: simulate.run(settings, spark))
    stages.run("ingest", lambda: ingest.run(settings, spark))
    stages.run("build_examples", lambda: build_examples.run(settings, spark))
    study = stages.run("tune", lambda: tune.run(settings, spark))
    settings = _tuned(settings, found=study["best"] is not None)
    stages.run("train", lambda: train.run(settings, spark))
    evaluation = stages.run("evaluate", lambda: evaluate.run(settings, spark))
    stages.run("score", lambda: score.run(settings, spark))
    if data is None:
        stages.run("feedback", lambda: feedback_round.run(settings, spark))
    page = stages.run("report", lambda: report.run(settings, spark))
    _show_end(settings, evaluation, stages, page)
    return evaluation


def _tuned(settings: Settings, *, found: bool) -> Settings:
    """The settings, told to train with what the study has found, if it has."""
    training = settings.training.model_copy(update={"tuned": found})
    return settings.model_copy(update={"training": training})


def _show_end(settings: Settings, evaluation: dict[str, Any], stages: Stages, page: dict[str, Any]) -> None:
    """What a person wants to know at the end: how good, for whom, where it lies, how long it took."""
    CONSOLE.rule("[bold]the end", align="left")
    evaluate.show(evaluation)
    examples = [
        (example["user_id"], "; ".join(example["bought"][-3:]), "; ".join(example["recommended"][:5]))
        for example in evaluation["examples"]
    ]
    show_table("Ten customers", ("customer", "bought last", "recommended"), examples)
    show_table(
        "How long each stage took",
        ("stage", "seconds"),
        [(name, round(seconds, 1)) for name, seconds in stages.seconds.items()],
    )
    say(f"tables  {settings.tables.root}")
    say(f"bundle  {train.latest_bundle(settings.run_dir)}")
    say(f"report  {page['path']}   (open it in a browser; it needs no server)")
