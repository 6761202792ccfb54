"""The checks of `millrace doctor`. Each looks at one thing and returns what it found, with a remedy where needed."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import ClusterError
from cluster.launch import launch
from cluster.sizes import table_bytes
from jobs import builds
from jobs.settings import Settings
from jobs.tables import MADE_BY, Tables
from jobs.tasks import TASKS
from jobs.tune import search_space, study_storage
from training.errors import MillraceError, TableError
from training.fit_settings import FitSettings
from training.schema import Schema
from training.snapshot import open_snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from training.world import World

GB = 1e9
JAVA = (17, 21)
# Package: (lowest version, first version that does not work, why).
WORKS = {
    "pyarrow": ((12,), (15,), "petastorm 0.12.1 fails on 15 and later"),
    "numpy": ((1, 26), (2,), "pyarrow 14 is built against numpy 1"),
    "pandas": ((2, 2), (3,), "pandas 3 needs numpy 2"),
    "petastorm": ((0, 12, 1), (0, 12, 2), "0.13 loses rows"),
    "horovod": ((0, 28, 1), (0, 29), "the version that is built and tested here"),
    "torch": ((2, 8), (2, 13), "2.13 cannot be installed with petastorm"),
    "optuna": ((4, 2), (6,), "the versions that are tested here"),
    "deltalake": ((1, 1), (2,), "the versions that are tested here"),
    "setuptools": ((1,), (82,), "petastorm imports pkg_resources, which newer ones dropped"),
}
DELTA_OF_SPARK: dict[tuple[int, ...], tuple[int, ...]] = {(4, 0): (4, 0), (3, 5): (3, 3)}
TABLES = (
    "events",
    "items",
    "users",
    "vocabulary_users",
    "vocabulary_items",
    "examples",
    "queries",
    "catalogue",
    "builds",
)
RANK_BASE_BYTES = 0.7e9  # Python, torch, and the reader's window
WORKING_SHARE = 1.5  # gradients and copies, over weights and optimizer state
LAUNCH_S = 120.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, how it stands, and what to do."""

    level: Literal["ok", "warn", "fail"]
    check: str
    what: str
    remedy: str = ""


Check = Callable[[Settings], list[Finding]]


def python_version(settings: Settings) -> list[Finding]:  # noqa: ARG001
    found = sys.version_info[:2]
    text = ".".join(map(str, found))
    if (3, 11) <= found <= (3, 12):
        return [Finding("ok", "python", text)]
    return [Finding("fail", "python", f"{text}; 3.11 and 3.12 work", "make install PYTHON=python3.11")]


def java_version(settings: Settings) -> list[Finding]:  # noqa: ARG001
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    remedy = "apt-get install -y openjdk-17-jre-headless, and set JAVA_HOME to it"
    if shutil.which(java) is None:
        return [Finding("fail", "java", f"there is no '{java}'; Spark needs Java 17", remedy)]
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', said)
    major = int(match.group(1)) if match else 0
    if major not in JAVA:
        return [Finding("fail", "java", f"'{java}' is version {major or said.strip()!r}; 17 and 21 work", remedy)]
    return [Finding("ok", "java", str(major))]


def package_versions(settings: Settings) -> list[Finding]:  # noqa: ARG001
    """Versions that work together; README names them."""
    findings = [finding for name in WORKS if (finding := _package(name))]
    spark, delta = _installed("pyspark"), _installed("delta-spark")
    wanted = DELTA_OF_SPARK.get(spark[:2])
    if wanted is None or delta[:2] != wanted:
        pairs = ", ".join(f"{_dotted(s)} with Delta {_dotted(d)}" for s, d in DELTA_OF_SPARK.items())
        what = f"pyspark {_dotted(spark)} with delta-spark {_dotted(delta)}; Spark {pairs} work"
        findings.append(Finding("fail", "packages", what, "pip install 'pyspark==4.0.*' 'delta-spark==4.0.*'"))
    return findings or [Finding("ok", "packages", f"{len(WORKS) + 2} versions that work together")]


def _package(name: str) -> Finding | None:
    low, end, why = WORKS[name]
    found = _installed(name)
    wanted = f">={_dotted(low)},<{_dotted(end)}"
    if not found:
        return Finding("fail", "packages", f"{name} is not installed", f"pip install '{name}{wanted}', or make install")
    if not low <= found < end:
        return Finding("fail", "packages", f"{name} is {_dotted(found)}: {why}", f"pip install '{name}{wanted}'")
    return None


def _installed(name: str) -> tuple[int, ...]:
    """The version's leading numbers; empty if the package is not installed."""
    try:
        text = version(name)
    except PackageNotFoundError:
        return ()
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, numbers.group().split("."))) if numbers else ()


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers)) or "none"


def loopback(settings: Settings) -> list[Finding]:  # noqa: ARG001
    """Ranks on one machine meet on 127.0.0.1, and so do Spark's driver and Python."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            return [Finding("ok", "loopback", "127.0.0.1 takes connections")]
    except OSError as error:
        return [Finding("fail", "loopback", f"127.0.0.1 takes no connection: {error}", "ip link set lo up")]


def add_up(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Runs on ranks: the sum of the ranks' numbers, each counted from 1."""
    return {"sum": sum(world.all_gather_object(world.rank + spec["first"]))}


def horovod(settings: Settings) -> list[Finding]:
    """Two processes import horovod.torch, meet, and add up."""
    if settings.training.ranks == 1:
        return [Finding("ok", "horovod", "not needed: training.ranks is 1")]
    try:
        result = launch("jobs.doctor_checks:add_up", {"first": 1}, ranks=2, timeout_s=LAUNCH_S)
    except ClusterError as error:
        remedy = "build it against the installed torch: cluster/horovod/build.sh .venv/bin/python"
        return [Finding("fail", "horovod", str(error).strip().splitlines()[0], remedy)]
    if result["sum"] != 3:
        return [Finding("fail", "horovod", f"two ranks added 1 and 2 to {result['sum']}", "cluster/horovod/build.sh")]
    return [Finding("ok", "horovod", "two processes met and added up")]


def data_source(settings: Settings) -> list[Finding]:
    path = settings.ingest.path
    if path is None:
        return [Finding("ok", "data", "ingest.path is not set: the simulated shop")]
    if "://" in path or glob.glob(path):  # noqa: PTH207  the setting is a glob of any root
        return [Finding("ok", "data", path)]
    return [Finding("fail", "data", f"ingest.path '{path}' matches no file", "correct ingest.path, or unset it")]


def tables(settings: Settings, spark: SparkSession) -> list[Finding]:
    """Which tables there are, and whether what training reads can be read at the version in force."""
    held = Tables(spark, settings.tables.root)
    there = [name for name in TABLES if held.exists(name)]
    findings = []
    if missing := [name for name in TABLES if name not in there]:
        jobs = ", ".join(f"millrace {job}" for job in dict.fromkeys(MADE_BY[name] for name in missing))
        what = f"not at {settings.tables.root} yet: {', '.join(missing)}"
        findings.append(Finding("warn", "tables", what, f"run {jobs.replace('_', '-')}"))
    if there:
        findings.append(Finding("ok", "tables", ", ".join(f"{name} v{held.version(name)}" for name in there)))
    return findings + (_examples(settings) if "examples" in there else [])


def _examples(settings: Settings) -> list[Finding]:
    """The pinned version has all its files, and the columns that the task wants."""
    remedy = "millrace build-examples"
    try:
        build = builds.published_at(settings.tables.root)
        wanted = TASKS[settings.task].schema(Schema.from_json(build["schema"]).vocabularies())
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
    context = spark.sparkContext
    places = context.defaultParallelism
    if context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        remedy = "set spark.dynamicAllocation.enabled=false and spark.executor.instances"
        return [Finding("fail", "ranks", "ranks need their executors to stay; dynamic allocation is on", remedy)]
    if ranks > places:
        remedy = f"more executors, or training.ranks={places}"
        return [Finding("fail", "ranks", f"{ranks} ranks need as many slots at once; Spark has {places}", remedy)]
    return [Finding("ok", "ranks", f"{ranks} ranks in {places} slots")]
