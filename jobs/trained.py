"""What trainings leave in a run folder: the bundle that was published last, and checkpoints to go on from.

Where a compressed one was made of it (jobs/compress.py) and published, that one answers; trainings go by their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.artefacts import LATEST, read_json, write_json
from jobs.console import say, warn
from training.errors import BundleError, UnreadableError
from training.state.bundle import load_bundle, provenance_of
from training.state.files import sha256
from training.watch.record import RECORD

# Settings that say when a training is at its end; with others it is the same training, which goes on.
ENDS = ("epochs", "early_stopping_patience")


def latest_bundle(run_dir: str) -> Path:
    """The folder of the bundle that answers: the one that the last training in this run folder published, or what was
    made of it and published since.

    Raises:
        BundleError: there is none.
    """
    latest = _latest(run_dir)
    return Path(run_dir) / "bundles" / str(latest.get("compressed", latest["bundle"]))


def trained_bundle(run_dir: str) -> Path:
    """The folder of the bundle that the last training in this run folder published.

    Raises:
        BundleError: there is none.
    """
    return Path(run_dir) / "bundles" / str(_latest(run_dir)["bundle"])


def publish_compressed(run_dir: str, name: str | None) -> None:
    """Have a bundle answer that was made of the trained one; None: the trained one itself."""
    latest = {key: value for key, value in _latest(run_dir).items() if key != "compressed"}
    write_json(run_dir, LATEST, latest if name is None else latest | {"compressed": name})


def _latest(run_dir: str) -> dict[str, Any]:
    latest: dict[str, Any] | None = read_json(run_dir, LATEST)
    if latest is None:
        raise BundleError(f"there is no bundle in '{run_dir}' ({LATEST} is missing); run `millrace train` first")
    return latest


def finished(run_dir: Path, identity: str, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished training of the same identity and end, if its bundle is still whole.

    One that is damaged is written again: from the checkpoint, or by training anew where that is gone.

    Raises:
        UnreadableError: its disk does not give it just now; it may be whole.
    """
    latest = read_json(run_dir, LATEST)
    if latest is None or latest["identity"] != identity or latest.get("ends") != _ends(spec):
        return None
    try:
        load_bundle(trained_bundle(str(run_dir)))
    except UnreadableError:
        raise
    except BundleError as error:
        warn(f"train: makes the bundle again: {error}")
        return None
    summary: dict[str, Any] = latest["summary"]
    return summary


def first_made(run_dir: Path, identity: str) -> dict[str, Any] | None:
    """Steps and provenance of this training's bundle: one that is made again without a step more keeps them."""
    latest = read_json(run_dir, LATEST)
    if latest is None or latest["identity"] != identity:
        return None
    made = provenance_of(trained_bundle(str(run_dir)))
    return None if made is None else {"steps": latest["summary"].get("steps"), "provenance": made}


def start_afresh_for_fewer_epochs(run_dir: Path, identity: str, epochs: int) -> None:
    """A finished training that went further than is asked for now cannot be gone on with."""
    latest = read_json(run_dir, LATEST)
    if latest is not None and latest["identity"] == identity and latest.get("epochs", 0) > epochs:
        say(f"train: starts afresh: the checkpoints are of {latest['epochs']} epochs, {epochs} are asked for")
        shutil.rmtree(checkpoints_of(run_dir, identity), ignore_errors=True)


def publish(run_dir: Path, identity: str, spec: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """Point to the new bundle and keep the run record.

    The checkpoints stay, so that more epochs go on from them; those of the bundle that was pointed to before go.
    """
    checkpoints = checkpoints_of(run_dir, identity)
    record = checkpoints / RECORD
    if record.is_file():
        shutil.copyfile(record, run_dir / RECORD)
    before = read_json(run_dir, LATEST)
    ended = {"bundle": summary["bundle"], "identity": identity, "ends": _ends(spec), "epochs": summary["epochs"]}
    write_json(run_dir, LATEST, ended | {"summary": summary})
    if before is not None and before["identity"] != identity:
        shutil.rmtree(checkpoints_of(run_dir, before["identity"]), ignore_errors=True)


def checkpoints_of(run_dir: Path, identity: str) -> Path:
    return run_dir / "checkpoints" / identity


def _ends(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one bundle of a training from another."""
    attached = {name: sha256(Path(path)) for name, path in spec.get("attachments", {}).items()}
    own = {"attaches": spec["attaches"]} if spec.get("attaches") else {}
    return {name: spec["training"][name] for name in ENDS} | ({"attachments": attached} if attached else {}) | own
