"""Run a function on N ranks: `launch("package.module:function", spec, ranks=2)`.

The function gets the spec (a JSON dict) and its `World`, and returns a JSON dict; the caller gets rank 0's. The first
failing rank's error is what the caller sees, nothing hangs, and no rank outlives its launcher.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.errors import LaunchError, RankLostError
from cluster.job import ALONE, Host, Job, Launcher, Log, rank_command, rank_env
from cluster.leaving import passing_on
from cluster.lines import never_raising, to_stderr
from cluster.processes import Rank, stop
from cluster.supervision import Limit, supervise

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from cluster.horovod_ranks import Lines

RANKS_PER_CORE = 16  # of one machine, at most: each is a process that loads torch, and holds a model and a reader
PAUSE_S = 10.0  # before the second restart; twice as long and as much again before each further one


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


def _horovod_spark_run(
    function: Callable[[], Any], ranks: int, env: dict[str, str], start_timeout_s: int, lines: Lines
) -> list[Any]:
    """`horovod.spark.run`, which starts ranks in the tasks of a Spark job; results in rank order."""
    import horovod.spark

    results: list[Any] = horovod.spark.run(
        function, num_proc=ranks, env=env, start_timeout=start_timeout_s, stdout=lines, stderr=lines, verbose=0
    )
    return results
