"""A launch, checked, and what each of its ranks needs wherever it runs: its command and its variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.sizes import threads_per_rank
from cluster.supervision import Limit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALONE = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}  # the variables of a rank that has none to meet
Log = Callable[[str], None]
Launcher = Literal["local", "spark", "barrier"]


@dataclass(frozen=True)
class Job:
    """A launch, checked: what every launcher needs to know."""

    target: str
    spec: str
    ranks: int
    limit: Limit
    stall_s: float
    env: Mapping[str, str]
    log: Log
    spark: SparkSession | None = None


@dataclass(frozen=True)
class Host:
    """Where some of the ranks run.

    Attributes:
        address: its IP address, which the other hosts can reach.
        ranks: how many run there.
        interface: the network interface that has the address.
        enter: what stands in front of a rank's command to run it there; nothing for the launcher's own host.
    """

    address: str
    ranks: int
    interface: str
    enter: tuple[str, ...] = ()


def rank_command(target: str) -> list[str]:
    """What starts a rank, but for the number of the file that it tells in."""
    return [sys.executable, "-m", "cluster.rank", target]


def rank_env(ranks_on_host: int, stall_s: float) -> dict[str, str]:
    """What every rank on this host needs: its share of the cores, and what all ranks need.

    Where OMP_NUM_THREADS is set, it counts: by a person, or by Spark, which sets it to `spark.task.cpus` for its tasks.
    """
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", str(threads_per_rank(cores, ranks_on_host)))
    return {"OMP_NUM_THREADS": threads, **rank_env_anywhere(stall_s)}


def rank_env_anywhere(stall_s: float) -> dict[str, str]:
    """What all ranks need wherever they run: this process's import path, Gloo, our time limits, no fusing.

    Horovod fuses whatever tensors happen to be ready together, which changes the order of sums from run to run;
    `training.step.sync` joins them into one itself, so that a seed gives the same bits.
    """
    return {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *(entry for entry in sys.path if entry)]),
        "PYTHONUNBUFFERED": "1",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
        "HOROVOD_STALL_CHECK_DISABLE": "1",
        "HOROVOD_FUSION_THRESHOLD": "0",
        "MILLRACE_STALL_S": str(stall_s),
    }
