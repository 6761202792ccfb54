"""Starting the ranks of a training or of a trial, beside Spark's tasks or on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.launch import launch
from jobs.settings import Settings
from jobs.tasks import TASKS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def start(
    settings: Settings, spec: dict[str, Any], spark: SparkSession | None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run the task's `learn` on the ranks that the settings name, with variables `env` over this process's."""
    session = open_for_ranks(settings, spark)
    training = settings.training
    return launch(
        TASKS[settings.task].learn,
        spec,
        ranks=training.ranks,
        launcher=training.launcher,
        timeout_s=training.timeout_s,
        stall_s=training.stall_s,
        restarts=training.restarts,
        env=env,
        spark=session,
    )


def open_for_ranks(settings: Settings, spark: SparkSession | None) -> SparkSession | None:
    """The session in whose tasks the ranks run: the one given, the active one, or a new one; None: they need none.

    Raises:
        EnvironmentProblem: there is none to be had; LaunchError: the launcher cannot run on it.
    """
    if settings.training.launcher == "local" or settings.training.ranks == 1:
        return None
    from cluster.spark_ranks import refuse_rdds  # PySpark, which other ranks do without
    from jobs.sessions import open_session

    session = open_session(settings, spark)
    refuse_rdds(settings.training.launcher)
    return session
