"""Train: one pinned version of the examples table -> Petastorm -> Horovod ranks -> checkpoint -> bundle.

    python -m jobs.train --settings shop.yaml training.ranks=2 training.epochs=6

The ranks read the table's files themselves; this job starts no JVM. A run that was killed goes on from its checkpoint
when the same command is given again; a run of the same pinned version and settings that has ended is not run twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.launch import launch
from jobs.console import say
from jobs.main import main_of
from jobs.settings import Settings
from jobs.tasks import TASKS
from training.bundle import load_bundle
from training.schema import Schema
from training.snapshot import open_snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAUNCHER_KEYS = {"ranks", "launcher", "timeout_s", "restarts", "reader_workers", "shuffle_rows"}
LATEST = "latest.json"


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Train on all examples before the test cut and write a bundle.

    Returns:
        steps, epochs, rows, final_loss, history (a dict an epoch), bundle, bundle_path, seconds waited for data.

    Raises:
        TableError: no examples, or a version that is gone.
        TrainingError: the loss is not finite too often.
        LaunchError: a rank failed.
    """
    run_dir = Path(settings.run_dir)
    spec = learn_spec(settings, splits=("train", "validation"), validate=True)
    identity = spec_identity(spec)
    done = _finished(run_dir, identity)
    if done is not None:
        say(f"train: up to date; bundle {done['bundle']} was made from this version and these settings")
        return done
    spec |= {
        "checkpoint_dir": str(run_dir / "checkpoints" / identity),
        "bundle_dir": str(run_dir / "bundles"),
        "provenance": provenance(settings, spec),
    }
    summary = start(settings, spec)
    _publish(run_dir, identity, summary)
    shutil.rmtree(spec["checkpoint_dir"], ignore_errors=True)  # the bundle holds what they were kept for
    return summary


def learn_spec(settings: Settings, *, splits: tuple[str, ...], validate: bool) -> dict[str, Any]:
    """What the ranks are told (JSON): pinned tables, schema, model, training. Nothing in it depends on the machine.

    Args:
        settings: the pipeline's.
        splits: partitions of the examples to train on.
        validate: whether to rank the held-out queries after each epoch.
    """
    examples = open_snapshot(f"{settings.tables.root}/examples", None)
    facts = json.loads(examples.properties["millrace.build"])
    cut = "test" if "validation" in splits else "validation"
    siblings = {
        name: {"uri": f"{settings.tables.root}/{name}", "version": facts["versions"][name], "splits": [cut]}
        for name in ("catalogue", "queries")
    }
    return {
        "task": settings.task,
        "tables": {"examples": {"uri": examples.uri, "version": examples.version, "splits": list(splits)}, **siblings},
        "build": facts,
        "schema": Schema.from_json(facts["schema"]).to_json(),
        "model": settings.model,
        "training": settings.training.model_dump(exclude=LAUNCHER_KEYS),
        "reader": {"workers": settings.training.reader_workers, "shuffle_rows": settings.training.shuffle_rows},
        "validate": validate,
        "ranks": settings.training.ranks,
        "report": {"kind": "lines"},
        "checkpoint_dir": None,
        "bundle_dir": None,
        "provenance": {},
    }


def spec_identity(spec: dict[str, Any]) -> str:
    """Twelve hex digits of all that decides what is trained."""
    decisive = {key: spec[key] for key in ("task", "tables", "schema", "model", "training", "reader", "ranks")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def start(settings: Settings, spec: dict[str, Any]) -> dict[str, Any]:
    """Run the task's `learn` on the ranks that the settings name."""
    training = settings.training
    return launch(
        TASKS[settings.task].learn,
        spec,
        ranks=training.ranks,
        launcher=training.launcher,
        timeout_s=training.timeout_s,
        restarts=training.restarts,
    )


def provenance(settings: Settings, spec: dict[str, Any]) -> dict[str, Any]:
    """Where a bundle comes from: tables at versions, settings and code, enough to run it again."""
    return {
        "tables": spec["tables"],
        "build": spec["build"],
        "settings": settings.model_dump(mode="json"),
        "identity": spec_identity(spec),
        "versions": {name: _version(name) for name in ("millrace", "torch", "horovod", "petastorm", "deltalake")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"


def latest_bundle(run_dir: str) -> Path:
    """The folder of the bundle that the last training in this run folder published.

    Raises:
        BundleError: there is none.
    """
    from training.errors import BundleError

    pointer = Path(run_dir) / LATEST
    if not pointer.is_file():
        raise BundleError(f"there is no bundle in '{run_dir}' ({pointer} is missing); run `millrace train` first")
    return Path(run_dir) / "bundles" / str(json.loads(pointer.read_text())["bundle"])


def _finished(run_dir: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a finished training of the same identity, if its bundle is still whole."""
    pointer = run_dir / LATEST
    if not pointer.is_file():
        return None
    latest: dict[str, Any] = json.loads(pointer.read_text())
    if latest.get("identity") != identity:
        return None
    load_bundle(latest_bundle(str(run_dir)))
    summary: dict[str, Any] = latest["summary"]
    return summary


def _publish(run_dir: Path, identity: str, summary: dict[str, Any]) -> None:
    scratch = run_dir / f"{LATEST}.partial"
    scratch.write_text(json.dumps({"bundle": summary["bundle"], "identity": identity, "summary": summary}, indent=1))
    scratch.replace(run_dir / LATEST)


if __name__ == "__main__":
    main_of(run)
