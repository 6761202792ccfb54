"""The main job, end to end: data -> examples -> tuning -> training -> evaluation -> scoring -> feedback -> report.

make demo                          a simulated shop, with the feedback loop closed once
make demo DATA=online_retail.csv.gz     the UCI Online Retail file
make demo TASK=name [DATA=file]         another task (`millrace tasks`), on the simulated shop or on a file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.session import TO_SCORE
from jobs import build_examples, evaluate, feedback_round, ingest, report, score, simulate, train, tune
from jobs.console import CONSOLE, say, show_table
from jobs.sessions import open_session
from jobs.settings import DEFAULT_TASK, Settings, load_settings
from jobs.stages import Stages
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from jobs.yaml_settings import cut
from training.errors import SettingsError

PIPELINES = Path(__file__).parent / "pipelines"


def run_demo(data: str | None, out: str, flags: list[str], task: str = DEFAULT_TASK) -> dict[str, Any]:
    """Run the whole pipeline on a file, or on a simulated shop.

    Args:
        data: a file laid out like the one that the task's pipeline names; None simulates a shop.
        out: everything is written below this folder.
        flags: `section.key=value`, over the pipeline's file.
        task: a key of TASKS.

    Returns:
        The evaluation's summary.

    Raises:
        SettingsError: there is no such task, or it has no pipeline of this kind.
    """
    if task not in TASKS:
        raise SettingsError(f"--task must be one of {', '.join(sorted(TASKS))}; got '{cut(task)}'")
    shown = TASKS[task].demo
    name, place = shown.pipeline, list[str]()
    if data:
        name, place = shown.pipeline_of_file, [f"{setting}={data}" for setting in (shown.file, *shown.same_file)]
    home = Path(out) / name
    places = [f"tables.root={home}/tables", f"run_dir={home}/run", *place]
    settings = load_settings(PIPELINES / f"{name}.yaml", [*places, *flags])
    stages = Stages(settings.run_dir)
    spark = open_session(settings, beside=TO_SCORE)
    if data is None:
        stages.run("simulate", lambda: simulate.run(settings, spark))
    stages.run("ingest", lambda: ingest.run(settings, spark))
    stages.run("build_examples", lambda: build_examples.run(settings, spark))
    if settings.tuning.trials:
        study = stages.run("tune", lambda: tune.run(settings, spark))
        settings = _tuned(settings, found=study["best"] is not None)
    stages.run("train", lambda: train.run(settings, spark))
    evaluation = stages.run("evaluate", lambda: evaluate.run(settings, spark))
    stages.run("score", lambda: score.run(settings, spark))
    if data is None and shown.closes_the_loop:
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
