"""Train: the pinned versions of the build in force -> Petastorm -> Horovod ranks -> checkpoint -> bundle.

    python -m jobs.train --settings shop.yaml training.ranks=2 training.epochs=6

The ranks read the table's files themselves; local ones need no Spark. A run that was killed goes on from its checkpoint
when the same command is given again, at any number of ranks; one that has ended goes on when more epochs are asked for.
A run of the same pinned version and settings that has ended is not run twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.build_inputs import refuse_other_options
from jobs.command import main_of
from jobs.console import say, warn
from jobs.learn_spec import check_start, learn_spec, provenance, spec_identity
from jobs.ranks import start
from jobs.settings import Settings
from jobs.tasks import TASKS
from jobs.trained import checkpoints_of, finished, first_made, publish, start_afresh_for_fewer_epochs
from jobs.tuned import with_best
from training.errors import SettingsError
from training.state.lock import only_writer
from training.state.publish import clear_remnants
from training.watch.observers import refuse_password

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FEW_STEPS = 100
LOCK = "train.lock"  # in the run folder: one training at a time publishes there


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Train on all examples before the test cut, or before the validation cut where model.calibration needs what lies
    between, and write a bundle.

    Args:
        settings: the pipeline's.
        spark: where the ranks run in Spark's tasks: a session, or None to take the active one or start one.

    Returns:
        steps, epochs, rows, final_loss, history (a dict an epoch), bundle, bundle_path; `up_to_date` where it was
        there.

    Raises:
        NoTableError: no build is published; SnapshotError: a version that it names is gone.
        TrainingError: the loss is not finite too often.
        LaunchError: a rank failed.
        SettingsError: training.metric is not the loss; a timeline of one rank; a password in training.mlflow_uri;
            training.tuned and nothing to take; a bundle to start from that has seen the answers, or means other ids;
            too few validation rows to calibrate by.
        CheckpointError: another training is under way in the run folder.
        UnreadableError: the bundle of this training cannot be read just now.
    """
    settings, tuned = with_best(settings)
    _refuse_to_choose_on_the_test(settings)
    refuse_password(settings.training.mlflow_uri)
    timeline = _timeline(settings)
    _learn_spec(settings)  # what cannot begin leaves no folder and no lock behind
    with only_writer(Path(settings.run_dir), warn, name=LOCK, what="run folder"):
        return _train(settings, tuned, timeline, spark)


def _train(
    settings: Settings, tuned: dict[str, Any] | None, timeline: Path | None, spark: SparkSession | None
) -> dict[str, Any]:
    """The training itself; no other one is under way in this run folder."""
    run_dir = Path(settings.run_dir)
    spec = _learn_spec(settings)
    identity = spec_identity(spec)
    done = finished(run_dir, identity, spec)
    if done is not None:
        say(f"train: up to date; bundle {done['bundle']} was made from this version and these settings")
        return done | {"up_to_date": True}
    checkpoints = checkpoints_of(run_dir, identity)
    start_afresh_for_fewer_epochs(run_dir, identity, settings.training.epochs)
    spec |= {
        "checkpoint_dir": str(checkpoints),
        "bundle_dir": str(run_dir / "bundles"),
        "observe": observation(settings, identity),
        "first_made": first_made(run_dir, identity),
        "provenance": provenance(settings, spec) | ({} if tuned is None else {"tuned": tuned}),
    }
    clear_remnants(run_dir / "bundles")  # no other training writes there while the lock is held
    say(f"train: {settings.training.ranks} rank(s), {settings.training.epochs} epoch(s), {_named(spec)}")
    summary = start(settings, spec, spark, env={} if timeline is None else {"HOROVOD_TIMELINE": str(timeline)})
    if timeline is not None:
        say(f"train: timeline {timeline} on rank 0's host (open it in chrome://tracing or ui.perfetto.dev)")
    publish(run_dir, identity, spec, summary)
    if summary["steps"] < FEW_STEPS:
        say(
            f"train: {summary['steps']:,} steps are few, and the model may have learnt little: raise training.epochs, "
            "or lower training.batch_size"
        )
    say(f"train: loss {summary['final_loss']:.6f} after {summary['steps']:,} steps; bundle {summary['bundle_path']}")
    return summary


def _refuse_to_choose_on_the_test(settings: Settings) -> None:
    if settings.training.metric != "loss":
        raise SettingsError(
            f"training.metric must be 'loss' in the train job, got '{settings.training.metric}': it learns from "
            "all that lies before the test cut, and what lies after it is for `millrace evaluate` alone. Find the "
            "number of epochs with `millrace tune`, which has its own cut"
        )


def _timeline(settings: Settings) -> Path | None:
    """Where Horovod writes its timeline, if it is to."""
    if not settings.training.timeline:
        return None
    if settings.training.ranks == 1:
        raise SettingsError(
            "training.timeline shows what ranks exchange, so it needs training.ranks=2 or more; got 1; "
            "set training.timeline=false"
        )
    return Path(settings.run_dir).absolute() / "timeline.json"


def observation(settings: Settings, identity: str) -> dict[str, Any]:
    """Who watches (JSON): no part of a training's identity."""
    training, run_dir = settings.training, Path(settings.run_dir)
    name = f"{settings.task}-{settings.model['name']}"
    server = {"uri": training.mlflow_uri, "experiment": training.mlflow_experiment or name, "name": identity}
    return {
        "tensorboard": str(run_dir / "tensorboard" / identity) if training.tensorboard else None,
        "mlflow": server if training.mlflow else None,
    }


def _learn_spec(settings: Settings) -> dict[str, Any]:
    """What the ranks of a training are told: all examples before the test cut.

    But where answers are calibrated those before the validation cut: they are calibrated by what lies behind it.
    """
    is_calibrated = settings.model.get("calibration", "none") != "none"
    splits = ("train",) if is_calibrated else ("train", "validation")
    spec = learn_spec(settings, splits=splits, validate=False)
    own = settings.options.model_dump(mode="json")
    refuse_other_options(TASKS[settings.task], own, spec["build"], "the build in force")
    check_start(spec, "validation" if is_calibrated else "test")
    return spec


def _named(spec: Mapping[str, Any]) -> str:
    pinned = spec["tables"]["examples"]
    return f"{pinned['uri']} version {pinned['version']}, {' + '.join(pinned['splits'])}"


if __name__ == "__main__":
    main_of(run)
