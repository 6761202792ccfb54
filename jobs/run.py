"""Run: a pipeline's stages one after the other, on tables of your own: ingest to report.

millrace run --settings shop.yaml

A stage goes on where it was stopped and has nothing to do where nothing is new: the same command takes up what was
killed. On clusters, where stages want machines of different kinds, each is a job of its own (docs/cluster.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.session import TO_SCORE
from jobs import build_examples, evaluate, ingest, report, score, train, tune
from jobs.command import main_of
from jobs.console import CONSOLE, say, show_table
from jobs.sessions import open_session
from jobs.settings import Settings
from jobs.stages import Stages
from jobs.trained import latest_bundle

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Bring tables in, learn from them, judge what was learnt, score, and make the page of it.

    Returns:
        The evaluation's summary.
    """
    session, stages = spark or open_session(settings, beside=TO_SCORE), Stages(settings.run_dir)
    trained, evaluation = to_scores(settings, session, stages)
    to_page(trained, session, stages, evaluation)
    return evaluation


def to_scores(settings: Settings, spark: SparkSession, stages: Stages) -> tuple[Settings, dict[str, Any]]:
    """Ingest, build, tune where trials are asked for, train, evaluate and score.

    Returns:
        The settings that were trained with, and the evaluation's summary.
    """
    stages.run("ingest", lambda: ingest.run(settings, spark))
    stages.run("build_examples", lambda: build_examples.run(settings, spark))
    if settings.tuning.trials:
        study = stages.run("tune", lambda: tune.run(settings, spark))
        settings = _tuned(settings, found=study["best"] is not None)
    stages.run("train", lambda: train.run(settings, spark))
    evaluation = stages.run("evaluate", lambda: evaluate.run(settings, spark))
    stages.run("score", lambda: score.run(settings, spark))
    return settings, evaluation


def to_page(settings: Settings, spark: SparkSession, stages: Stages, evaluation: dict[str, Any]) -> None:
    """The report, and what a person wants to know at the end: how good, for whom, where it lies, how long it took."""
    page = stages.run("report", lambda: report.run(settings, spark))
    CONSOLE.rule("[bold]the end", align="left")
    evaluate.show(evaluation)
    if drawn := evaluation.get("drawn"):
        show_table(drawn["title"], drawn["columns"], drawn["rows"])
    show_table(
        "How long each stage took",
        ("stage", "seconds"),
        [(name, round(seconds, 1)) for name, seconds in stages.seconds.items()],
    )
    say(f"tables  {settings.tables.root}")
    say(f"bundle  {latest_bundle(settings.run_dir)}")
    say(f"report  {page['path']}   (open it in a browser; it needs no server)")


def _tuned(settings: Settings, *, found: bool) -> Settings:
    """The settings, told to train with what the study has found, if it has."""
    training = settings.training.model_copy(update={"tuned": found})
    return settings.model_copy(update={"training": training})


if __name__ == "__main__":
    main_of(run)
