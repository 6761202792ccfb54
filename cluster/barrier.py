"""Ranks in the tasks of one barrier stage.

Each task starts its rank as a process and looks after it. The first task's host keeps Horovod's rendezvous; the tasks
also say there that their rank has failed, so that all others are stopped. A rank's lines go to the driver while it runs
(cluster.relay); its result or failure comes back as a row.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.utils import is_remote

from cluster.errors import LaunchError, RankLostError, spark_reason
from cluster.failures import Failure, failure_of, silent_failure
from cluster.job import Job, rank_command, rank_env
from cluster.processes import Rank, stop
from cluster.relay import Address, Listener, Sender
from cluster.spark_ranks import ENDED, FAILED, POLL_S, Board, answer, session
from cluster.supervision import END_S, GRACE_S, START_S, Limit

_LOST = ("ExecutorLostFailure", "TaskResultLost", "Python worker exited unexpectedly")  # Spark's words
_LATE_S = 15.0  # for the tasks to say themselves which rank still ran, before the driver cancels the stage


def run_barrier(job: Job) -> dict[str, Any]:
    """Run the ranks in one barrier stage of the job's session, or of the active one.

    Raises:
        LaunchError: there is no session, a rank failed, or the stage did not end in time.
    """
    spark = job.spark or session()
    try:
        with closing(Listener(driver_address(spark), job.log)) as listener:
            plan = {
                "target": job.target,
                "spec": job.spec,
                "stall_s": job.stall_s,
                "timeout_s": job.limit.timeout_s,
                "used_s": time.monotonic() - job.limit.started,
                "env": dict(job.env),
                "lines": asdict(listener.address),
            }
            stage = spark.range(0, job.ranks, 1, job.ranks).mapInArrow(
                partial(_rank_task, json.dumps(plan)), "rank long, ended string", barrier=True
            )
            rows = _collect(spark, stage, job.limit.left_s() + _LATE_S, job.log)
    except TimeoutError as error:
        what = f"the barrier stage of {job.ranks} ranks waited for task slots, or did not stop"
        raise LaunchError(job.limit.passed(what)) from error
    except Exception as error:
        raise _stage_failure(job.ranks, error) from error
    return answer([json.loads(row["ended"]) for row in sorted(rows, key=lambda row: int(row["rank"]))])


def _stage_failure(ranks: int, error: Exception) -> LaunchError:
    """A lost executor or Python worker may not be lost again; a missing package, too few slots and the like stay so."""
    failed = f"the barrier stage of {ranks} ranks failed"
    for line in str(error).splitlines():
        if any(words in line for words in _LOST):
            return RankLostError(f"{failed}: {line.strip()}; see the executors' logs")
    return LaunchError(
        f"{failed}: {spark_reason(error)}; see the executors' logs. It needs our packages in the executors' Python, "
        f"{ranks} free task slots at once and static allocation (spark.dynamicAllocation.enabled=false)"
    )


def driver_address(spark: SparkSession) -> str:
    """This process's host as executors know it: what Spark itself tells them, or the way to a Spark Connect server."""
    if not is_remote():
        return str(spark.conf.get("spark.driver.host"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        connect: Any = spark
        probe.connect((connect.client.host, 1))
        return str(probe.getsockname()[0])


def _collect(spark: SparkSession, stage: DataFrame, seconds: float, log: Callable[[str], None]) -> list[Any]:
    """The rows of a stage; past the time it is cancelled.

    Spark cannot cancel a barrier stage that still waits for slots (it looks again every 15 s, for 10 minutes), so this
    thread does not wait with it, and another cancels it again and again until it is gone.

    Raises:
        TimeoutError: it did not end in time.
    """
    tag = f"millrace-{os.getpid()}-{time.monotonic_ns()}"
    owner: Any = spark if is_remote() else spark.sparkContext
    add = owner.addTag if is_remote() else owner.addJobTag  # PySpark 3.5 has the first for Spark Connect alone
    cancel = owner.interruptTag if is_remote() else owner.cancelJobsWithTag
    outcome: list[Any] = []
    ended = threading.Event()

    def collect() -> None:
        try:
            add(tag)  # it is this thread's
            outcome.append(stage.collect())
        except Exception as error:
            outcome.append(error)
        finally:
            ended.set()

    def cancel_until_it_ends() -> None:
        while not ended.is_set():
            try:
                cancel(tag)
            except Exception as error:  # mostly the session was stopped meanwhile, and the stage ends with it
                if not ended.wait(5.0):
                    log(f"the barrier stage '{tag}' could not be cancelled and may still hold task slots: {error}")
            ended.wait(5.0)

    threading.Thread(target=collect, name="barrier stage", daemon=True).start()
    if not ended.wait(min(seconds, threading.TIMEOUT_MAX)):
        threading.Thread(target=cancel_until_it_ends, name="cancel barrier stage", daemon=True).start()
        raise TimeoutError(f"the stage did not end within {seconds:.0f} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    rows: list[Any] = outcome[0]
    return rows


def _rank_task(plan_text: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One task of the stage: meet the others, run a rank, give back how it ended."""
    from pyspark import BarrierTaskContext

    from cluster.rendezvous import rendezvous

    for _ in batches:  # the row that made this task
        pass
    plan = json.loads(plan_text)
    context = BarrierTaskContext.get()
    me = context.partitionId()
    host = socket.gethostbyname(context.getTaskInfos()[me].address.rpartition(":")[0])
    order, hosts = rank_order(context.allGather(host))
    rank = order.index(me)
    with ExitStack() as stack:
        slots = stack.enter_context(rendezvous(host, hosts)) if rank == 0 else []
        meeting = json.loads(next(text for text in context.allGather(json.dumps(slots)) if text != "[]"))
        board = Board(meeting[rank])
        ended = _run_one(plan, rank, meeting[rank], dict(hosts)[host], board)
        board.put(f"ended/{rank}")
        if rank == 0:
            board.wait_for([f"ended/{other}" for other in range(len(order))])
    yield pa.RecordBatch.from_pydict({"rank": [rank], "ended": [json.dumps(ended)]})


def rank_order(addresses: Sequence[str]) -> tuple[list[int], list[tuple[str, int]]]:
    """Number the tasks so that a host's ranks follow each other, as Horovod wants it.

    Args:
        addresses: of each task's host, by partition.

    Returns:
        The partition of each rank, and the hosts in order with their number of ranks.
    """
    hosts = list(dict.fromkeys(addresses))
    order = sorted(range(len(addresses)), key=lambda partition: (hosts.index(addresses[partition]), partition))
    return order, [(host, list(addresses).count(host)) for host in hosts]


def _run_one(plan: dict[str, Any], rank: int, slot: dict[str, str], ranks_here: int, board: Board) -> dict[str, Any]:
    """Start a rank's process, watch it and the others' notes, and stop it where another failed."""
    with closing(Sender(Address(**plan["lines"]))) as send:
        shared = {**os.environ, **rank_env(ranks_here, plan["stall_s"]), **_interface(slot["HOROVOD_HOSTNAME"])}
        env = {**shared, **slot, **plan["env"]}
        process = Rank(rank, int(slot["HOROVOD_SIZE"]), rank_command(plan["target"]), env, plan["spec"], send)
        try:
            limit = Limit(plan["timeout_s"], time.monotonic() - plan["used_s"])
            failure = _watch(process, board, limit)
        finally:
            stop([process])
        if failure is None:
            board.put(ENDED)
            return process.ended or {}
        board.put(FAILED)
        return {"failure": asdict(failure)}


class _Since:
    """For how long something has been seen."""

    def __init__(self, seen: Callable[[], bool]) -> None:
        self._seen = seen
        self._first: float | None = None

    def __call__(self, now: float) -> float:
        if self._first is None and self._seen():
            self._first = now
        return now - self._first if self._first is not None else 0.0


def _watch(process: Rank, board: Board, limit: Limit) -> Failure | None:
    """Wait for the rank's end; returns how it failed, or None where it ended well."""
    started, told = time.monotonic(), _Since(lambda: process.has_result)
    failed, ended = _Since(partial(board.has, FAILED)), _Since(partial(board.has, ENDED))
    while process.exit_code is None:
        now = time.monotonic()
        if told(now) > END_S:  # a thread that it left behind holds it; `stop` ends it
            process.say(f"has given its result and does not end within {END_S:g} s; it is ended")
            return None
        if failed(now) > GRACE_S or (ended(now) > END_S and not process.has_result):
            return silent_failure(process)
        if now - started > START_S and not process.joined:
            message = f"rank {process.rank} of {process.size} must meet the others within {START_S:.0f} s, and did not"
            return Failure(process.rank, f"{message}; see its lines", lost=True)
        if limit.left_s() <= 0:
            message = limit.passed(f"rank {process.rank} of {process.size} still ran")
            return Failure(process.rank, message, lost=False)
        time.sleep(POLL_S)
    return failure_of(process)


def _interface(address: str) -> dict[str, str]:
    """The network interface that has this address, for Gloo; nothing where none has it (Gloo then looks itself)."""
    for name, held in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in held):
            return {"HOROVOD_GLOO_IFACE": name}
    return {}
