"""Replay: train again from a bundle's own record, and compare.

    python -m jobs.replay --settings shop.yaml

Takes the bundle that the run folder names, pins the table versions that it names, trains with the settings, seed and
number of ranks that it carries, and compares the final loss and the weights, bit for bit. The bundle stays as it is.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobs.artefacts import REPLAY, write_json
from jobs.command import main_of
from jobs.console import say, show_table, warn
from jobs.learn_spec import learn_spec, provenance
from jobs.pinned import place_of
from jobs.ranks import start
from jobs.settings import Settings
from jobs.trained import trained_bundle
from training.data.snapshot import open_snapshot
from training.errors import BundleError, SnapshotError, TableError, TrainingError
from training.state.bundle import Bundle, load_bundle
from training.state.lock import only_writer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WEIGHTS = "weights.safetensors"
LOCK = "replay.lock"  # in the run folder, beside what a replay writes and removes


def run(settings: Settings, spark: SparkSession | None = None, bundle: Path | None = None) -> dict[str, Any]:
    """Train a bundle again and compare.

    Args:
        settings: names the run folder, and the launcher, session, device and time limits of today; all else is the
            bundle's.
        spark: where the ranks run in Spark's tasks: a session, or None to take the active one or start one.
        bundle: the bundle's folder; default: the one that the run folder names.

    Returns:
        bundle, loss and weights (each with then and now), versions (packages that changed, then and now).

    Raises:
        BundleError: there is no bundle, it is torn or compressed, or this version of Millrace does not take its
            settings.
        TableError: a table is gone or another one; SnapshotError: VACUUM removed the version.
        TrainingError: the result differs.
        CheckpointError: another replay is under way in the run folder.
    """
    held = load_bundle(bundle or trained_bundle(settings.run_dir))
    if held.stored:
        raise BundleError(
            f"a bundle to replay must be as it was trained; '{held.name}' is compressed: name the one that it was made "
            f"from, '{held.provenance['compressed']['from']}'"
        )
    then = settings_of(held, settings)
    check_tables(held)
    folder = Path(settings.run_dir) / "replay"
    with only_writer(Path(settings.run_dir), warn, name=LOCK, what="run folder", who="replay"):
        shutil.rmtree(folder, ignore_errors=True)  # of a replay that was killed, or whose result differed
        result = _train_again(held, then, folder / uuid.uuid4().hex[:8], spark)  # nothing to go on with lies there
        shutil.rmtree(folder, ignore_errors=True)
    write_json(settings.run_dir, REPLAY, result)
    _show(result)
    return result


def _train_again(held: Bundle, then: Settings, folder: Path, spark: SparkSession | None) -> dict[str, Any]:
    spec = _spec(held, then, folder)
    say(f"replay: training {held.name} again, {spec['ranks']} rank(s), {_pinned(held)}")
    summary = start(then, spec, spark, env=threads_of(held))
    return compare(held, load_bundle(summary["bundle_path"]), provenance(then, spec)["versions"])


def settings_of(bundle: Bundle, settings: Settings) -> Settings:
    """The settings that the bundle carries, with the launcher and the session of today.

    Raises:
        BundleError: they are not this version's settings.
    """
    try:
        then = Settings.model_validate(bundle.provenance["settings"])
    except (KeyError, ValidationError) as error:
        raise BundleError(
            f"bundle '{bundle.path}' carries settings that this version of Millrace does not take ({error}); replay it "
            f"with the version that wrote it: {bundle.provenance.get('versions', {}).get('millrace', 'not recorded')}"
        ) from error
    today = {
        name: getattr(settings.training, name) for name in ("launcher", "timeout_s", "stall_s", "restarts", "device")
    }
    today["attachments"] = {}  # they decide no weight, and what was attached need not lie there any more
    return then.model_copy(update={"training": then.training.model_copy(update=today), "spark": settings.spark})


def threads_of(bundle: Bundle) -> dict[str, str]:
    """The variable that gives each rank the threads of then: as many sum in another order. Older bundles do not say."""
    threads = bundle.provenance.get("threads")
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}


def check_tables(bundle: Bundle) -> None:
    """See that every pinned version can still be read, and is the one that was trained on.

    Raises:
        SnapshotError: a version or a file of it is gone.
        TableError: the examples at that version are not those of the bundle.
    """
    for name, table in bundle.provenance["tables"].items():
        columns = bundle.schema.names if name == "examples" else None
        try:
            snapshot = open_snapshot(**place_of(table), columns=columns)
        except SnapshotError as error:
            raise SnapshotError(
                f"bundle '{bundle.name}' was trained on version {table['version']} of table '{name}', {table['uri']}, "
                f"which cannot be read any more: {error}. Bring the files back from a copy, or train again; to keep "
                "versions longer, raise delta.deletedFileRetentionDuration before VACUUM"
            ) from error
        wanted = bundle.provenance["examples_fingerprint"]
        if name == "examples" and snapshot.fingerprint != wanted:
            raise TableError(
                f"bundle '{bundle.name}' was trained on examples with fingerprint {wanted}; version {table['version']} "
                f"of '{table['uri']}' has {snapshot.fingerprint}: another table lies there now; bring the old one back"
            )


def compare(then: Bundle, now: Bundle, versions: Mapping[str, str]) -> dict[str, Any]:
    """Set two bundles beside each other.

    Args:
        then: the bundle replayed.
        now: what the replay made.
        versions: of the packages that matter, today.

    Raises:
        TrainingError: loss or weights differ.
    """
    before = then.provenance.get("versions", {})
    changed = {
        name: {"then": before.get(name), "now": new} for name, new in versions.items() if before.get(name) != new
    }
    loss = {"then": then.metrics["loss"], "now": now.metrics["loss"]}
    weights = {"then": weights_hash(then), "now": weights_hash(now)}
    if repr(loss["then"]) != repr(loss["now"]) or weights["then"] != weights["now"]:
        causes = ", ".join(f"{name} was {pair['then']}, is {pair['now']}" for name, pair in changed.items())
        raise TrainingError(
            f"a replay must give the same bits; '{then.name}' had loss {loss['then']!r}, now {loss['now']!r}; weights "
            f"{weights['then']}, now {weights['now']}. Look first at "
            f"{causes or 'the processor, OMP_NUM_THREADS and changes of code: no package of the record changed'}"
        )
    return {"bundle": then.name, "loss": loss, "weights": weights, "versions": changed}


def weights_hash(bundle: Bundle) -> str:
    """Sixteen hex digits of the weights' file."""
    with (bundle.path / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _spec(bundle: Bundle, then: Settings, folder: Path) -> dict[str, Any]:
    """What the ranks were told then, except for where the result goes."""
    splits = tuple(bundle.provenance["tables"]["examples"]["splits"])
    recorded = {key: value for key, value in bundle.provenance.items() if key != "examples_fingerprint"}
    return {
        **learn_spec(then, splits=splits, validate=any("_at_" in name for name in bundle.metrics)),
        "tables": recorded["tables"],
        "build": recorded["build"],
        "schema": bundle.schema.to_json(),
        "attaches": [],  # as for those of the settings
        "checkpoint_dir": str(folder / "checkpoints"),
        "bundle_dir": str(folder),
        "provenance": recorded,
    }


def _pinned(bundle: Bundle) -> str:
    return ", ".join(f"{name} version {table['version']}" for name, table in bundle.provenance["tables"].items())


def _show(result: Mapping[str, Any]) -> None:
    rows = [(what, str(result[what]["then"]), str(result[what]["now"])) for what in ("loss", "weights")]
    show_table(f"Replay of {result['bundle']}: the same, bit for bit", ("", "then", "now"), rows)


if __name__ == "__main__":
    main_of(run)
