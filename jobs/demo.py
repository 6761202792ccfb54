"""The main job, end to end: data -> examples -> tuning -> training -> evaluation -> scoring -> feedback -> report.

make demo                          a simulated shop, with the feedback loop closed once
make demo DATA=online_retail.csv.gz     the UCI Online Retail file
make demo TASK=name [DATA=file]         another task (`millrace tasks`), on the simulated shop or on a file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.session import TO_SCORE
from jobs import feedback_round, simulate
from jobs.run import to_page, to_scores
from jobs.sessions import open_session
from jobs.settings import DEFAULT_TASK, load_settings
from jobs.stages import Stages
from jobs.tasks import TASKS
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
    trained, evaluation = to_scores(settings, spark, stages)
    if data is None and shown.closes_the_loop:
        stages.run("feedback", lambda: feedback_round.run(trained, spark))
    to_page(trained, spark, stages, evaluation)
    return evaluation
