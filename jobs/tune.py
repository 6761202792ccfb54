"""Tune: an Optuna study over the training, each trial a job of several ranks on one pinned version.

    python -m jobs.tune --settings shop.yaml tuning.trials=20

Trials learn from the training split and are judged on the validation split; what is held out for evaluation is never
looked at. A study that was stopped goes on, its unfinished trial from its checkpoint; a finished one is not run again.
Writes tuning.json (all trials) and best.json (what `train` takes where training.tuned is set) into the run folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.launch import launch
from jobs.artefacts import BEST, TUNING, write_json
from jobs.command import main_of
from jobs.console import say, show_table
from jobs.headlines import gained
from jobs.learn_spec import check_start, learn_spec
from jobs.ranks import open_for_ranks
from jobs.settings import Settings
from jobs.tasks import TASKS
from training.configs import CONFIGS, model_identity
from training.errors import CheckpointError, SettingsError
from training.masking import masked
from training.settings import FREE, FitSettings
from training.state.lock import only_writer
from tuning.objective import LEARN, Pruning
from tuning.space import Space, read_space
from tuning.storage import is_local_file
from tuning.study import StudyPlan, TrialEnd, TrialJob, run_study
from tuning.summary import best_overrides, summarise

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Fields of FitSettings that change how a training goes, not what it computes.
INDECISIVE = {"checkpoint_every_steps", "checkpoint_every_s", "keep_checkpoints", "report_every_s"}


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Run the study to its planned number of trials.

    Args:
        settings: the pipeline's.
        spark: where the ranks run in Spark's tasks: a session, or None to take the active one or start one.

    Returns:
        best (model, training, value, trial, epochs), start (value of the configured settings), counts by state, path.

    Raises:
        SettingsError: the metric or the search space is wrong, the ranks could not reach the study's storage, or the
            bundle to start from has seen what trials are judged on.
        TuningError: the study is another one's, its storage cannot be opened, or its first trials all failed.
        TableError: no examples, or a version that is gone.
    """
    if settings.tuning.trials == 0:
        say("tune: tuning.trials is 0; nothing to do")
        return {"best": None, "start": None, "counts": {}, "path": None}
    spec = learn_spec(settings, splits=("train",), validate=True)
    check_start(spec, "validation")
    spec["training"] |= {"metric": settings.tuning.metric, "metric_mode": "max", "epochs": settings.tuning.epochs}
    plan = study_plan(settings, spec)
    varied = ", ".join(parameter.name for parameter in plan.space.parameters)
    say(f"tune: study '{plan.name}' in {masked(plan.storage)}, {plan.trials} trials; varied: {varied}")

    session = open_for_ranks(settings, spark)

    def ended(end: TrialEnd) -> None:
        _remove(_checkpoints(settings, plan.name, end.number))
        _show_trial(end)

    run_study(plan, lambda job: _run_trial(settings, spec, job, session), ended, say)
    return _finish(settings, summarise(plan))


def study_plan(settings: Settings, spec: Mapping[str, Any]) -> StudyPlan:
    """The study that the settings describe.

    Raises:
        SettingsError: the task's validation gives no such metric; see `search_space` and `study_storage`.
    """
    _check_metric(settings)
    tuning, space = settings.tuning, search_space(settings)
    return StudyPlan(
        name=tuning.study or f"{settings.task}-{settings.model['name']}",
        storage=study_storage(settings),
        space=space,
        fixed=_fixed(spec, space),
        metric=tuning.metric,
        trials=tuning.trials,
        pruning=Pruning(tuning.pruner, tuning.epochs, tuning.pruner_warmup),
        seed=tuning.seed,
    )


def _check_metric(settings: Settings) -> None:
    metric, known = settings.tuning.metric, TASKS[settings.task].metrics
    if metric not in known:
        raise SettingsError(
            f"tuning.metric must be one that the validation of task '{settings.task}' gives, got '{metric}'; known: "
            f"{', '.join(known)}. The training's own loss says nothing of customers that were held out"
        )


def search_space(settings: Settings) -> Space:
    """What the study varies: fields of the model and of the training that carry a range, and tuning.space over them.

    Raises:
        SettingsError: a range is wrong, or there is nothing to vary.
    """
    config = {key: value for key, value in settings.model.items() if key != "name"}
    training = {key: getattr(settings.training, key) for key in FitSettings.model_fields}
    sections = {"model": CONFIGS[settings.model["name"]](**config), "training": FitSettings(**training)}
    return read_space(sections, settings.tuning.space)


def study_storage(settings: Settings) -> str:
    """Where the study is kept.

    Raises:
        SettingsError: in a file that only this machine sees, while the ranks run on others.
    """
    storage = settings.tuning.storage or f"sqlite:///{Path(settings.run_dir) / 'study.db'}"
    launcher = settings.training.launcher
    if launcher != "local" and is_local_file(storage):
        raise SettingsError(
            f"tuning.storage is '{storage}', a file on this machine, and training.launcher={launcher} runs the ranks "
            "on others; set tuning.storage to a database's URL or to journal:PATH on a shared file system"
        )
    return storage


def _fixed(spec: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What all trials have in common, by names that a person knows."""
    searched = space.start()
    tables = {
        f"table {name}": f"{table['uri']} version {table['version']}, {'+'.join(table['splits'])}{_of_table(table)}"
        for name, table in spec["tables"].items()
    }
    counts = FREE | FitSettings(**spec["training"]).identity().keys()
    training = {key: value for key, value in spec["training"].items() if key in counts}
    values = {
        f"{section}.{key}": value
        for section, held in (("model", model_identity(spec["model"])), ("training", training))
        for key, value in held.items()
        if f"{section}.{key}" not in searched and key not in INDECISIVE
    }
    # What came later is named only where it is used.
    started = {"training.start_from": start["name"]} if (start := spec.get("start_from")) else {}
    mixed = {"training.shuffle_mb": megabytes} if (megabytes := spec.get("reader", {}).get("shuffle_mb")) else {}
    return {**tables, **values, **started, **mixed, "ranks": spec["ranks"]}


def _of_table(table: Mapping[str, Any]) -> str:
    return f", of table {table['id']}" if "id" in table else ""


def _run_trial(
    settings: Settings, spec: Mapping[str, Any], job: TrialJob, session: SparkSession | None
) -> dict[str, Any]:
    """Start one trial's ranks and wait for their end."""
    config = {**spec["model"], **job.overrides.get("model", {})}
    name = config.pop("name")
    told = {
        **spec,
        "model": {"name": name, **CONFIGS[name](**config).model_dump()},
        "training": FitSettings(**{**spec["training"], **job.overrides.get("training", {})}).model_dump(),
        "report": job.channel.to_json(),
        "checkpoint_dir": str(_checkpoints(settings, job.channel.study, job.number)),
    }
    training = settings.training
    return launch(
        LEARN,
        {"learn": TASKS[settings.task].learn, "spec": told},
        ranks=training.ranks,
        launcher=training.launcher,
        timeout_s=training.timeout_s,
        stall_s=training.stall_s,
        restarts=training.restarts,
        spark=session,
    )


def _checkpoints(settings: Settings, study: str, trial: int) -> Path:
    """Where a trial's checkpoints lie until it has ended; the same for a trial that goes on."""
    return Path(settings.run_dir) / "trials" / f"{study}-{trial}"


def _remove(checkpoints: Path) -> None:
    """Remove an ended trial's checkpoints, unless a rank of another driver's still writes there."""
    if checkpoints.is_dir():
        with suppress(CheckpointError), only_writer(checkpoints, lambda _: None):
            shutil.rmtree(checkpoints, ignore_errors=True)


def _show_trial(end: TrialEnd) -> None:
    value = "" if end.value is None else f" {end.value:.4f}"
    best = ", the best so far" if end.best else ""
    why = "" if end.error is None else f": {end.error.splitlines()[0]}"
    say(f"  trial {end.number} {end.state}{value} in {end.seconds:.1f} s{best}{why}")


def _finish(settings: Settings, summary: dict[str, Any]) -> dict[str, Any]:
    """Write the two files and show what was found."""
    path = write_json(settings.run_dir, TUNING, summary)
    best = best_overrides(summary)
    if best is not None:
        best = {"model_name": settings.model["name"], **best}
        write_json(settings.run_dir, BEST, best)
    _show(summary)
    start = summary["start"]
    return {"best": best, "start": start and start["value"], "counts": summary["counts"], "path": str(path)}


def _show(summary: Mapping[str, Any]) -> None:
    rows = [
        (
            row["number"],
            row["state"] + (" (start)" if row["is_start"] else ""),
            "-" if row["value"] is None else row["value"],
            len(row["epochs"]),
            row["seconds"],
            ", ".join(f"{name.split('.')[-1]}={_short(value)}" for name, value in row["params"].items()),
        )
        for row in summary["trials"]
    ]
    show_table(f"Trials, by {summary['metric']}", ("trial", "state", "value", "epochs", "seconds", "values"), rows)
    best, start = summary["best"], summary["start"]
    if best is not None and start is not None:
        gain = gained(best["value"], start["value"])
        was, now = f"{start['value']:.4f}", f"{best['value']:.4f}"
        say(f"tune: as configured {was}; best, trial {best['number']}, {now} ({gain:+.1%})")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main_of(run)
