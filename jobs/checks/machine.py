"""The checks of `millrace doctor` that look at the machine: Java, loopback, Horovod, bfloat16."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.launch import launch
from cluster.session import connect_server
from jobs.checks.findings import Finding
from jobs.settings import Settings

if TYPE_CHECKING:
    from training.world import World

JAVA = (17, 21)
LAUNCH_S = 120.0


def java_version(settings: Settings) -> list[Finding]:
    if connect_server(settings.spark.master):
        return [Finding("ok", "java", "not needed: the session is a Spark Connect server's")]
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
        result = launch("jobs.checks.machine:add_up", {"first": 1}, ranks=2, timeout_s=LAUNCH_S)
    except ClusterError as error:
        remedy = f"build it against the installed torch: cluster/horovod/build.sh {sys.executable}"
        return [Finding("fail", "horovod", str(error).strip().splitlines()[0], remedy)]
    if result["sum"] != 3:
        return [Finding("fail", "horovod", f"two ranks added 1 and 2 to {result['sum']}", "cluster/horovod/build.sh")]
    return [Finding("ok", "horovod", "two processes met and added up")]


def bf16(settings: Settings) -> list[Finding]:
    """Whether ranks on this machine's processor have instructions for what they are asked to multiply in."""
    training = settings.training
    if training.precision != "bf16" or training.launcher != "local":
        return []
    from training.step.device import slow_bf16_here

    if not slow_bf16_here(training.device):
        return [Finding("ok", "bf16", "ranks have hardware for it")]
    what = "training.precision is bf16, and this CPU has neither AVX512_BF16 nor AMX: up to five times slower than fp32"
    return [Finding("warn", "bf16", what, "training.precision=fp32")]
