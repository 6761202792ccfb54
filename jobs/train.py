"""Train: the pinned versions of the build in force -> Petastorm -> Horovod ranks -> checkpoint -> bundle.

    python -m jobs.train --settings shop.yaml training.ranks=2 training.epochs=6

The ranks read the table's files themselves; local ones need no Spark. A run that was killed goes on from its checkpoint
when the same command is given again, at any number of ranks; one that has ended goes on when more epochs are asked for.
A run of the same pinned version and settings that has ended is not run twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.launch import launch
from jobs import builds
from jobs.artefacts import LATEST, read_json, write_json
from jobs.command import main_of
from jobs.console import say, warn
from jobs.settings import Settings
from jobs.settings_sections import TrainingSettings
from jobs.tasks import TASKS
from jobs.tuned import with_best
from jobs.versions import installed
from training.configs import model_identity
from training.data.delta_log import open_log
from training.errors import BundleError, SettingsError, UnreadableError
from training.schema import Schema
from training.settings import FitSettings
from training.state.bundle import load_bundle, provenance_of
from training.state.files import sha256
from training.state.lock import only_writer
from training.state.publish import clear_remnants
from training.watch.observers import refuse_password
from training.watch.record import RECORD

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAUNCHER_KEYS = set(TrainingSettings.model_fields) - set(FitSettings.model_fields)
LOCK = "train.lock"  # in the run folder: one training at a time publishes there
# Settings that say when a training is at its end; with others it is the same training, which goes on.
ENDS = ("epochs", "early_stopping_patience")


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Train on all examples before the test cut and write a bundle.

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
            training.tuned and nothing to take; a bundle to start from that has seen the answers, or means other ids.
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
    done = _finished(run_dir, identity, spec)
    if done is not None:
        say(f"train: up to date; bundle {done['bundle']} was made from this version and these settings")
        return done | {"up_to_date": True}
    checkpoints = _checkpoints(run_dir, identity)
    _start_afresh_for_fewer_epochs(run_dir, identity, settings.training.epochs)
    spec |= {
        "checkpoint_dir": str(checkpoints),
        "bundle_dir": str(run_dir / "bundles"),
        "observe": observation(settings, identity),
        "first_made": _first_made(run_dir, identity),
        "provenance": provenance(settings, spec) | ({} if tuned is None else {"tuned": tuned}),
    }
    clear_remnants(run_dir / "bundles")  # no other training writes there while the lock is held
    say(f"train: {settings.training.ranks} rank(s), {settings.training.epochs} epoch(s), {_named(spec)}")
    summary = start(settings, spec, spark, env={} if timeline is None else {"HOROVOD_TIMELINE": str(timeline)})
    if timeline is not None:
        say(f"train: timeline {timeline} on rank 0's host (open it in chrome://tracing or ui.perfetto.dev)")
    _publish(run_dir, identity, spec, summary)
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
    """What the ranks of a training are told: all examples before the test cut."""
    spec = learn_spec(settings, splits=("train", "validation"), validate=False)
    check_start(spec, "test")
    return spec


def learn_spec(settings: Settings, *, splits: tuple[str, ...], validate: bool) -> dict[str, Any]:
    """What the ranks are told (JSON): pinned tables, schema, model, training. Nothing in it depends on the machine.

    Args:
        settings: the pipeline's.
        splits: of the examples, those to train on.
        validate: whether to rank the held-out queries after each epoch.

    Raises:
        NoTableError: no build is published; SettingsError: the batch cannot be dealt out to the ranks, the bundle to
            start from is of another model, or what is to be attached is no file; BundleError: it is none.
    """
    settings.training.rows_per_batch(settings.training.ranks)
    facts = builds.published_at(settings.tables.root)
    examples = open_log(f"{settings.tables.root}/examples", facts["versions"]["examples"])
    # The table's id too: versions of another table that lies there later begin at 0 again.
    pinned = {"uri": examples.uri, "version": examples.version, "id": examples.table_id}
    cut = "test" if "validation" in splits else "validation"
    taken = [piece for split in splits for piece in facts["pieces"][split]]
    siblings = {
        name: {
            "uri": f"{settings.tables.root}/{name}",
            "version": facts["versions"][name],
            "splits": [cut],
            "partitions": {"split": [cut]},
        }
        for name in sorted(builds.side_tables(facts))
    }
    return {
        "task": settings.task,
        "tables": {"examples": pinned | {"splits": list(splits), "partitions": {"piece": taken}}, **siblings},
        "build": facts,
        "vocabularies": _vocabularies(settings.tables.root, facts),
        "schema": Schema.from_json(facts["schema"]).to_json(),
        "model": settings.model,
        "training": settings.training.model_dump(exclude=LAUNCHER_KEYS),
        "reader": {
            "workers": settings.training.reader_workers,
            "shuffle_rows": settings.training.shuffle_rows,
            "shuffle_mb": settings.training.shuffle_mb,
        },
        "start_from": _start_from(settings),
        "attachments": _attachments(settings),
        "cache": {"gigabytes": settings.training.cache_gb, "folder": settings.training.cache_dir},
        "validate": validate,
        "ranks": settings.training.ranks,
        "device": settings.training.device,
        "report": {"kind": "lines"},
        "observe": {},
        "checkpoint_dir": None,
        "bundle_dir": None,
        "first_made": None,
        "provenance": {},
    }


def spec_identity(spec: Mapping[str, Any]) -> str:
    """Twelve hex digits of all that decides the weights after a step: what is the same goes on from a checkpoint.

    Neither the number of ranks, nor how far or how safely a training goes (`FitSettings.identity`), nor the reader's
    threads, nor settings that an older version did not know (training/identity.py).
    """
    decisive = {key: spec[key] for key in ("task", "tables", "schema")}
    decisive["until"] = spec["build"]["cuts"]["test"]
    decisive["model"] = model_identity(spec["model"])
    decisive["training"] = FitSettings(**spec["training"]).identity()
    decisive["shuffle_rows"] = spec["reader"]["shuffle_rows"]
    # What came later is named only where it is used.
    decisive |= {"shuffle_mb": megabytes} if (megabytes := spec["reader"].get("shuffle_mb")) else {}
    decisive |= {"start_from": start["name"]} if (start := spec.get("start_from")) else {}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _start_from(settings: Settings) -> dict[str, str] | None:
    """Name and place of the bundle whose weights are the first ones."""
    place, wanted = settings.training.start_from, settings.model["name"]
    if place is None:
        return None
    bundle = load_bundle(Path(place).absolute())
    if bundle.model_name != wanted:
        raise SettingsError(
            f"training.start_from must be a bundle of model.name '{wanted}'; '{place}' is of '{bundle.model_name}': "
            "name another bundle, or that model"
        )
    return {"name": bundle.name, "path": str(bundle.path)}


def _vocabularies(root: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Delta's own id of each vocabulary: one of another id means others by its numbers."""
    names = sorted(name for name in facts["versions"] if name.startswith("vocabulary_"))
    return {name.removeprefix("vocabulary_"): open_log(f"{root}/{name}").table_id for name in names}


def check_start(spec: Mapping[str, Any], cut: str) -> None:
    """See that the bundle to start from has not learnt from what lies behind a cut, and means ids by the same numbers.

    Args:
        spec: from `learn_spec`.
        cut: "test" or "validation"; what lies behind it judges what is trained now.

    Raises:
        SettingsError: it has, or it does not.
    """
    start = spec.get("start_from")
    if start is None:
        return
    made = provenance_of(start["path"]) or {}
    then, now = made.get("build", {}), spec["build"]
    trained_to = then.get("cuts", {}).get("test")
    if trained_to is not None and datetime.fromisoformat(trained_to) > datetime.fromisoformat(now["cuts"][cut]):
        raise SettingsError(
            f"training.start_from must be a bundle that has learnt from nothing behind the {cut} cut, "
            f"{now['cuts'][cut]}; '{start['name']}' was trained on what was known before {trained_to}: it has seen "
            "the answers. Name an older bundle, or move examples.test_from"
        )
    held = {kind: table for kind, table in made.get("vocabularies", {}).items() if kind in spec["vocabularies"]}
    for kind in sorted({*held, *then.get("numbers", {})}):
        told, tells = (build.get("numbers", {}).get(kind) for build in (then, now))
        if told and tells and told["ids"] == tells["ids"]:
            is_same = told == tells
        else:  # one of them has grown since, and appends alone as long as it is the same table
            is_same = kind not in held or held[kind] == spec["vocabularies"][kind]
        if not is_same:
            raise SettingsError(
                f"training.start_from must be a bundle that means the same {kind} by its numbers; those of "
                f"'{start['name']}' are of a vocabulary that was made elsewhere, or anew since: its weights would go "
                "to others. Name a bundle that was trained on these tables, or none"
            )


def _attachments(settings: Settings) -> dict[str, str]:
    """The files that go with the bundle, by the names that they get there."""
    named = {name: Path(path).absolute() for name, path in settings.training.attachments.items()}
    missing = [f"{name} '{path}'" for name, path in named.items() if not path.is_file()]
    if missing:
        raise SettingsError(
            f"training.attachments must be files; these are none: {', '.join(missing)}; correct them, or leave them out"
        )
    return {name: str(path) for name, path in named.items()}


def _ends(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one bundle of a training from another."""
    attached = {name: sha256(Path(path)) for name, path in spec.get("attachments", {}).items()}
    return {name: spec["training"][name] for name in ENDS} | ({"attachments": attached} if attached else {})


def _checkpoints(run_dir: Path, identity: str) -> Path:
    return run_dir / "checkpoints" / identity


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


def provenance(settings: Settings, spec: dict[str, Any]) -> dict[str, Any]:
    """Where a bundle comes from: tables at versions, settings and code, enough to run it again.

    Without the places of Spark, of the study and of MLflow: they decide nothing, and their URLs may hold a password or
    a token.
    """
    places: dict[str, bool | set[str]] = {"spark": True, "tuning": {"storage"}, "training": {"mlflow_uri"}}
    return {
        "tables": spec["tables"],
        "build": spec["build"],
        "settings": settings.model_dump(mode="json", exclude=places),
        "vocabularies": spec.get("vocabularies", {}),
        "identity": spec_identity(spec),
        **({"start_from": start["name"]} if (start := spec.get("start_from")) else {}),
        "versions": {name: installed(name) for name in ("millrace", "torch", "horovod", "petastorm", "deltalake")},
    }


def latest_bundle(run_dir: str) -> Path:
    """The folder of the bundle that the last training in this run folder published.

    Raises:
        BundleError: there is none.
    """
    latest = read_json(run_dir, LATEST)
    if latest is None:
        raise BundleError(f"there is no bundle in '{run_dir}' ({LATEST} is missing); run `millrace train` first")
    return Path(run_dir) / "bundles" / str(latest["bundle"])


def _finished(run_dir: Path, identity: str, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished training of the same identity and end, if its bundle is still whole.

    One that is damaged is written again: from the checkpoint, or by training anew where that is gone.

    Raises:
        UnreadableError: its disk does not give it just now; it may be whole.
    """
    latest = read_json(run_dir, LATEST)
    if latest is None or latest["identity"] != identity or latest.get("ends") != _ends(spec):
        return None
    try:
        load_bundle(latest_bundle(str(run_dir)))
    except UnreadableError:
        raise
    except BundleError as error:
        warn(f"train: makes the bundle again: {error}")
        return None
    summary: dict[str, Any] = latest["summary"]
    return summary


def _first_made(run_dir: Path, identity: str) -> dict[str, Any] | None:
    """Steps and provenance of this training's bundle: one that is made again without a step more keeps them."""
    latest = read_json(run_dir, LATEST)
    if latest is None or latest["identity"] != identity:
        return None
    made = provenance_of(latest_bundle(str(run_dir)))
    return None if made is None else {"steps": latest["summary"].get("steps"), "provenance": made}


def _start_afresh_for_fewer_epochs(run_dir: Path, identity: str, epochs: int) -> None:
    """A finished training that went further than is asked for now cannot be gone on with."""
    latest = read_json(run_dir, LATEST)
    if latest is not None and latest["identity"] == identity and latest.get("epochs", 0) > epochs:
        say(f"train: starts afresh: the checkpoints are of {latest['epochs']} epochs, {epochs} are asked for")
        shutil.rmtree(_checkpoints(run_dir, identity), ignore_errors=True)


def _publish(run_dir: Path, identity: str, spec: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """Point to the new bundle and keep the run record.

    The checkpoints stay, so that more epochs go on from them; those of the bundle that was pointed to before go.
    """
    checkpoints = _checkpoints(run_dir, identity)
    record = checkpoints / RECORD
    if record.is_file():
        shutil.copyfile(record, run_dir / RECORD)
    before = read_json(run_dir, LATEST)
    ended = {"bundle": summary["bundle"], "identity": identity, "ends": _ends(spec), "epochs": summary["epochs"]}
    write_json(run_dir, LATEST, ended | {"summary": summary})
    if before is not None and before["identity"] != identity:
        shutil.rmtree(_checkpoints(run_dir, before["identity"]), ignore_errors=True)


def _named(spec: Mapping[str, Any]) -> str:
    pinned = spec["tables"]["examples"]
    return f"{pinned['uri']} version {pinned['version']}, {' + '.join(pinned['splits'])}"


if __name__ == "__main__":
    main_of(run)
