"""Cutting a Delta table's log, which names persons too: what lies before a checkpoint goes, and what nothing needs."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.store_files import File, files_in, remove
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.tables import Tables

# One file, one of a number of parts, or (Delta's v2) a file that names its parts: `sidecars` in a folder of their own.
CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint\.(?:\d{10}\.(\d{10})\.parquet|(?:[0-9a-f-]+\.)?(?:parquet|json))$")
COMMIT, OF_VERSION = re.compile(r"^(\d{20})\.json$"), re.compile(r"^\.?(\d{20})\.")
LOG, SIDECARS = "_delta_log", "_sidecars"
HOUR_MS = 3_600_000


def cut(tables: Tables, name: str, horizon_hours: float) -> int:
    """Remove what lies before a checkpoint, and what killed writers left; returns how many files.

    The checkpoint is the newest; with a horizon, the one on which the oldest commit stands that is younger: its version
    and all later ones can still be read.

    Raises:
        TableError: there is no checkpoint of what the table is now: nothing was removed.
    """
    folder = f"{tables.path(name)}/{LOG}"
    files = files_in(tables.spark, folder)
    whole = checkpoints(files)
    if not whole or max(whole) < tables.version(name) - 1:
        raise TableError(
            f"the log of table '{name}' at {folder} must have a checkpoint of version {tables.version(name) - 1} "
            f"or later before older entries go; its newest is of {max(whole, default=None)}. Run the erasure again"
        )
    oldest = oldest_kept(horizon_hours)
    base = first_needed(files, oldest)
    old = [file for file in files if is_past(file.name, base) and (file.name[0] != "." or file.modified <= oldest)]
    kept = [file for file in files if file not in old]
    old += _strays(tables.spark, files_in(tables.spark, f"{folder}/{SIDECARS}"), kept)
    for file in sorted(old):
        remove(tables.spark, file.path)
    return len(old)


def oldest_kept(horizon_hours: float) -> float:
    """Milliseconds since 1970: what is older may go; without a horizon all, whatever a store's clock says."""
    return time.time() * 1000 - horizon_hours * HOUR_MS if horizon_hours else float("inf")


def checkpoints(files: Iterable[File]) -> list[int]:
    """The versions of which a log has a checkpoint, with all its parts."""
    parts = Counter((int(match[1]), int(match[2] or 1)) for file in files if (match := CHECKPOINT.match(file.name)))
    return sorted({version for (version, wanted), held in parts.items() if held >= wanted})


def first_needed(files: Sequence[File], oldest: float) -> int:
    """The version from which on a log is needed: for all commits younger than `oldest`, and for the newest."""
    whole = checkpoints(files)
    young = [int(match[1]) for file in files if file.modified > oldest and (match := COMMIT.match(file.name))]
    first = min([*young, max(whole)])
    return max((version for version in whole if version <= first), default=0)


def is_past(name: str, version: int) -> bool:
    """Whether a file of a log is of no use from a version on; a writer that was killed leaves hidden ones."""
    match = OF_VERSION.match(name)
    return match is not None and (int(match[1]) < version or name.startswith("."))


def _strays(spark: SparkSession, sidecars: Sequence[File], kept: Sequence[File]) -> list[File]:
    """The sidecars that no checkpoint names which is kept."""
    if not sidecars:
        return []
    named: set[str] = set()
    for file in kept:
        if CHECKPOINT.match(file.name):
            named |= _named(spark, file)
    return [file for file in sidecars if file.name.removeprefix(".").removesuffix(".crc") not in named]


def _named(spark: SparkSession, checkpoint: File) -> set[str]:
    """The names of a checkpoint's sidecars."""
    if checkpoint.name.endswith(".json"):
        rows = spark.read.text(checkpoint.path).where(F.col("value").contains('"sidecar"')).collect()
        paths = [json.loads(row["value"])["sidecar"]["path"] for row in rows]
    else:
        held = spark.read.parquet(checkpoint.path)
        rows = held.where("sidecar IS NOT NULL").select("sidecar.path").collect() if "sidecar" in held.columns else []
        paths = [row["path"] for row in rows]
    return {path.rpartition("/")[2] for path in paths}
