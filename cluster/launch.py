"""Run a function on N ranks: `launch("package.module:function", spec, ranks=2)`.

The function gets the spec (a JSON dict) and its `World`, and returns a JSON dict; the caller gets rank 0's. The first
failing rank's error is what the caller sees, nothing hangs, and no rank outlives its launcher.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import LaunchError, RankLostError
from cluster.leaving import passing_on
from cluster.lines import never_raising, to_stderr
from cluster.processes import Rank, stop
from cluster.sizes import threads_per_rank
from cluster.supervision import Limit, supervise

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from cluster.horovod_ranks import Lines

ALONE = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}  # the variables of a rank that has none to meet
RANKS_PER_CORE = 16  # of one machine, at most: each is a process that loads torch, and holds a model and a reader
PAUSE_S = 10.0  # before the second restart; twice as long and as much again before each further one
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


def launch(
    target: str,
    spec: dict[str, Any],
    *,
    ranks: int,
    launcher: Launcher = "local",
    timeout_s: float | None = None,
    stall_s: float = 300.0,
    restarts: int = 0,
    env: Mapping[str, str] | None = None,
    log: Log = to_stderr,
    spark: SparkSession | None = None,
) -> dict[str, Any]:
    """Run `target(spec, world)` on every rank and return rank 0's result.

    Args:
        target: `package.module:function`, importable where the ranks run.
        spec: what the function is told; JSON.
        ranks: world size. One rank runs on this machine whatever the launcher, in a process of its own as others do;
            its errors come as they are, and its lines without its number.
        launcher: where the ranks run, joined by Horovod over Gloo: `local` starts a process for each on this machine;
            `spark` lets `horovod.spark.run` start them in tasks of the active session (classic clusters, it uses RDDs);
            `barrier` runs them in the tasks of one barrier stage (static allocation; Spark Connect too).
        timeout_s: limit for the whole call, restarts included; None is no limit.
        stall_s: how long ranks wait in a collective for one that does not come, before all are stopped.
        restarts: how often all ranks are started again after one was killed or fell silent; a function that goes on
            from its checkpoint loses no more than what came after it.
        env: variables for the ranks, over this process's.
        log: gets the ranks' lines, each with its rank in front.
        spark: the session in whose tasks `barrier` runs the ranks; None is the one that is active in this thread.

    Raises:
        LaunchError: the target, the spec or the number of ranks is wrong, or a rank failed, was killed, or did not
            answer in time.
    """
    spec_text = _checked(target, spec, ranks)
    if launcher == "local":
        _refuse_too_many(ranks)
    job = Job(target, spec_text, ranks, Limit(timeout_s), stall_s, env or {}, never_raising(log), spark)
    return with_restarts(job, partial(_run, launcher=launcher), restarts)


def with_restarts(job: Job, run: Callable[[Job], dict[str, Any]], restarts: int) -> dict[str, Any]:
    """Run a job, and again where a rank was lost, at most `restarts` times and not past its time limit.

    The first time at once, then after 10, 30, 70, ... s: a host or a link may need time to come back.

    Raises:
        LaunchError: as `run` raised it the last time.
    """
    for attempt in range(restarts + 1):
        try:
            return run(job)
        except RankLostError as lost:
            if attempt == restarts or job.limit.left_s() <= 0:
                raise
            job.log(f"{lost}\nstarting all {job.ranks} ranks again ({attempt + 1} of at most {restarts} times)")
            time.sleep(max(0.0, min(PAUSE_S * (2**attempt - 1), job.limit.left_s())))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _run(job: Job, launcher: Launcher) -> dict[str, Any]:
    here = [Host("127.0.0.1", job.ranks, "lo")]
    if job.ranks == 1:
        return _run_ranks(job, here, [ALONE])
    if launcher == "local":
        return run_on_hosts(job, here)
    if launcher == "barrier":
        from cluster.barrier import run_barrier

        return run_barrier(job)
    from cluster.horovod_ranks import run_horovod_spark

    return run_horovod_spark(job, _horovod_spark_run)


def _checked(target: str, spec: dict[str, Any], ranks: int) -> str:
    if ranks < 1:
        raise LaunchError(f"the number of ranks must be at least 1; got ranks={ranks}")
    module, _, function = target.partition(":")
    if not module or not function:
        raise LaunchError(f"a launch target reads 'package.module:function'; got '{target}'")
    try:
        return json.dumps(spec)
    except (TypeError, ValueError) as error:
        raise LaunchError(
            f"the spec of launch target '{target}' must be JSON: {error}; pass paths as strings"
        ) from error


def _refuse_too_many(ranks: int) -> None:
    cores = len(os.sched_getaffinity(0))
    if ranks > RANKS_PER_CORE * cores:
        raise LaunchError(
            f"launcher 'local' starts at most {RANKS_PER_CORE} ranks for each of this machine's {cores} cores; got "
            f"ranks={ranks}; start fewer, or let them run in Spark's tasks (launcher barrier or spark)"
        )


def run_on_hosts(job: Job, hosts: Sequence[Host]) -> dict[str, Any]:
    """Run the ranks as children of this process, which is on the first host; they share its file system.

    Raises:
        LaunchError: a rank failed, was lost, or did not end in time.
    """
    from cluster.rendezvous import rendezvous  # Horovod, which one rank does not need

    with rendezvous(hosts[0].address, [(host.address, host.ranks) for host in hosts]) as slots:
        return _run_ranks(job, hosts, slots)


def _run_ranks(job: Job, hosts: Sequence[Host], slots: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    started: list[Rank] = []
    try:
        for rank, host in enumerate(place for place in hosts for _ in range(place.ranks)):
            command = [*host.enter, *rank_command(job.target)]
            settings = {**rank_env(host.ranks, job.stall_s), "HOROVOD_GLOO_IFACE": host.interface, **job.env}
            env = {**os.environ, **settings, **slots[rank]}
            started.append(Rank(rank, job.ranks, command, env, job.spec, job.log))
    except OSError as error:
        stop(started)
        raise LaunchError(f"rank {len(started)} of {job.ranks} must start with {command}: {error}") from error
    with passing_on(started):
        return supervise(started, job.limit)


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


def _horovod_spark_run(
    function: Callable[[], Any], ranks: int, env: dict[str, str], start_timeout_s: int, lines: Lines
) -> list[Any]:
    """`horovod.spark.run`, which starts ranks in the tasks of a Spark job; results in rank order."""
    import horovod.spark

    results: list[Any] = horovod.spark.run(
        function, num_proc=ranks, env=env, start_timeout=start_timeout_s, stdout=lines, stderr=lines, verbose=0
    )
    return results
