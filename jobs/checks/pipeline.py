"""The checks of `millrace doctor` that look at the pipeline: data, tables, settings, memory, disk and slots."""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyspark

from cluster.errors import LaunchError
from cluster.sizes import table_bytes
from cluster.spark_ranks import refuse_rdds
from jobs import builds
from jobs.checks.findings import Finding
from jobs.sessions import parallelism
from jobs.settings import Settings
from jobs.table_reads import maker
from jobs.tables import Tables
from jobs.tasks import TASKS
from jobs.tune import search_space, study_storage
from training.data.snapshot import open_snapshot
from training.errors import MillraceError, TableError
from training.schema import Schema
from training.settings import FitSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


GB = 1e9
RANK_BASE_BYTES = 0.7e9  # Python, torch, and the reader's window
WORKING_SHARE = 1.5  # gradients and copies, over weights and optimizer state


def data_source(settings: Settings) -> list[Finding]:
    """Whether there is something at each path that ingest is to read; a catalogue's names are asked by ingest."""
    asked = settings.ingest.all_sources() | {f"sources.{name}": each for name, each in settings.sources.items()}
    if not asked:
        return [Finding("ok", "data", "ingest.path is not set: the simulated shop")]
    missing = [
        Finding("fail", "data", f"{place}.path '{each.path}' matches no file", f"correct {place}.path, or unset it")
        for place, each in asked.items()
        if each.path and "://" not in each.path and not glob.glob(each.path)  # noqa: PTH207  a glob of any root
    ]
    return missing or [Finding("ok", "data", ", ".join(str(each.name) for each in asked.values()))]


def tables(settings: Settings, spark: SparkSession) -> list[Finding]:
    """Which tables there are, and whether what training reads can be read at the version in force."""
    held, wanted = Tables(spark, settings.tables.root), _wanted(settings)
    there = [name for name in wanted if held.exists(name)]
    findings = []
    if missing := [name for name in wanted if name not in there]:
        jobs = ", ".join(f"millrace {job}" for job in dict.fromkeys(maker(name) for name in missing))
        findings.append(
            Finding("warn", "tables", f"not at {settings.tables.root} yet: {', '.join(missing)}", f"run {jobs}")
        )
    if there:
        findings.append(Finding("ok", "tables", ", ".join(f"{name} v{held.version(name)}" for name in there)))
    return findings + (_examples(settings) if "examples" in there else [])


def _wanted(settings: Settings) -> tuple[str, ...]:
    """The tables without which the task is not trained, in the order in which they are made."""
    task = TASKS[settings.task]
    needed = [name for name, may_miss in task.tables(settings).items() if not may_miss and name not in task.scored]
    numbered = [f"vocabulary_{kind}" for kind in task.kinds(settings)]
    return (*needed, *numbered, "examples", "builds")


def _examples(settings: Settings) -> list[Finding]:
    """The pinned version has all its files, and the columns that the task wants."""
    remedy = "millrace build-examples"
    try:
        build = builds.published_at(settings.tables.root)
        wanted = TASKS[settings.task].schema(Schema.from_json(build["schema"]).vocabularies(), settings)
        version = build["versions"]["examples"]
        snapshot = open_snapshot(f"{settings.tables.root}/examples", version, columns=wanted.names)
    except MillraceError as error:
        return [Finding("fail", "examples", str(error), remedy)]
    if snapshot.rows == 0:
        return [Finding("fail", "examples", f"version {snapshot.version} has no row", remedy)]
    what = f"version {snapshot.version}: {snapshot.rows:,} rows in {len(snapshot.files)} files, all readable"
    return [Finding("ok", "examples", what)]


def examples_schema(settings: Settings) -> Schema:
    """The schema of the examples in force.

    Raises:
        TableError: no build is published.
    """
    return Schema.from_json(builds.published_at(settings.tables.root)["schema"])


def fit_settings(settings: Settings) -> list[Finding]:
    """What is wrong with the settings only in this combination."""
    findings = []
    training = FitSettings(**{name: getattr(settings.training, name) for name in FitSettings.model_fields})
    for check, look in (
        ("batch", lambda: training.rows_per_batch(settings.training.ranks)),
        ("search space", lambda: search_space(settings)),
        ("study storage", lambda: study_storage(settings)),
    ):
        try:
            look()
            findings.append(Finding("ok", check, "fits"))
        except MillraceError as error:
            findings.append(Finding("fail", check, str(error), "change the setting named"))
    return findings


def model_bytes(settings: Settings) -> int | None:
    """Bytes of the embedding tables with their optimizer's state on one rank; None before there are examples."""
    try:
        sizes = examples_schema(settings).vocabularies()
    except TableError:
        return None
    dim, kind = int(settings.model.get("dim", 64)), settings.training.embedding_optimizer
    return sum(table_bytes(rows, dim, optimizer=kind) for rows in sizes.values())


def memory(settings: Settings) -> list[Finding]:
    """What the ranks take against what the machine has free."""
    held = model_bytes(settings)
    if held is None or settings.training.launcher != "local":
        return []
    ranks = settings.training.ranks
    needed = ranks * (RANK_BASE_BYTES + WORKING_SHARE * held)
    free = _free_memory()
    what = f"{ranks} ranks take about {needed / GB:.1f} GB ({held / GB:.2f} GB of tables each); {free / GB:.1f} GB free"
    remedy = "fewer training.ranks, a smaller model.dim, or embedding_optimizer=rowwise_adagrad"
    level: Literal["ok", "warn", "fail"] = "fail" if needed > free else "warn" if needed > 0.7 * free else "ok"
    return [Finding(level, "memory", what, "" if level == "ok" else remedy)]


def _free_memory() -> float:
    """Bytes that this process may still take: the machine's, or the container's if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return float(free)


def disk(settings: Settings) -> list[Finding]:
    """Room for the checkpoints that are kept, the one being written, and the bundle."""
    place = Path(settings.run_dir).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return [Finding("fail", "disk", f"run_dir '{settings.run_dir}' cannot be written", "set run_dir elsewhere")]
    needed = (model_bytes(settings) or 0) * (settings.training.keep_checkpoints + 3) + GB
    free = shutil.disk_usage(place).free
    what = f"checkpoints and bundle take at most {needed / GB:.1f} GB; {free / GB:.1f} GB are free at {place}"
    if needed > free:
        return [Finding("fail", "disk", what, "free some, set run_dir elsewhere, or keep fewer checkpoints")]
    return [Finding("ok", "disk", what)]


def versions(spark: SparkSession) -> Finding:
    """The session's Spark against PySpark: a server of Spark Connect, or a cluster, may have another."""
    here, there = pyspark.__version__, str(spark.version)
    if here.split(".")[:2] == there.split(".")[:2]:
        return Finding("ok", "spark", f"{there} with Delta's jars")
    return Finding("warn", "spark", f"PySpark {here} with a session of Spark {there}", f"install PySpark {there}")


def slots(settings: Settings, spark: SparkSession) -> list[Finding]:
    """Whether the ranks find places to run."""
    ranks = settings.training.ranks
    if settings.training.launcher == "local":
        cores = len(os.sched_getaffinity(0))
        if ranks > cores:
            return [
                Finding("warn", "ranks", f"{ranks} ranks share {cores} cores", f"training.ranks={cores} is as fast")
            ]
        return [Finding("ok", "ranks", f"{ranks} ranks on {cores} cores")]
    try:
        refuse_rdds(settings.training.launcher)
    except LaunchError as error:
        return [Finding("fail", "ranks", str(error), "training.launcher=barrier")]
    places = parallelism(spark)
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        remedy = "set spark.dynamicAllocation.enabled=false and spark.executor.instances"
        return [Finding("fail", "ranks", "ranks need their executors to stay; dynamic allocation is on", remedy)]
    if ranks > places:
        remedy = f"more executors, or training.ranks={places}"
        return [Finding("fail", "ranks", f"{ranks} ranks need as many slots at once; Spark has {places}", remedy)]
    return [Finding("ok", "ranks", f"{ranks} ranks in {places} slots")]
