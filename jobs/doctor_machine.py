"""The checks of `millrace doctor` that look at the machine: Python, Java, packages, Horovod."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.launch import launch
from jobs.findings import Finding
from jobs.settings import Settings

if TYPE_CHECKING:
    from training.world import World

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
LAUNCH_S = 120.0


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
        result = launch("jobs.doctor_machine:add_up", {"first": 1}, ranks=2, timeout_s=LAUNCH_S)
    except ClusterError as error:
        remedy = "build it against the installed torch: cluster/horovod/build.sh .venv/bin/python"
        return [Finding("fail", "horovod", str(error).strip().splitlines()[0], remedy)]
    if result["sum"] != 3:
        return [Finding("fail", "horovod", f"two ranks added 1 and 2 to {result['sum']}", "cluster/horovod/build.sh")]
    return [Finding("ok", "horovod", "two processes met and added up")]
