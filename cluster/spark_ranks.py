"""Ranks as Spark tasks: in one barrier stage of our own, or through `horovod.spark.run`.

In the barrier stage each task starts its rank as a process and looks after it. The first task's host keeps Horovod's
rendezvous, which is a small key-value store; the tasks also say there that their rank has failed, so that all others
are stopped. A rank's result or failure comes back as a row. Ranks' lines go to the executors' stderr.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import SparkSession

from cluster.errors import LaunchError
from cluster.processes import (
    GRACE_S,
    START_S,
    TAIL_LINES,
    Failure,
    Rank,
    RankLostError,
    failure_of,
    silent_failure,
    stop,
    to_stderr,
)
from cluster.processes import verdict as verdict_of
from cluster.rank import run_rank, write_json

if TYPE_CHECKING:
    from cluster.launch import Job

_POLL_S = 0.2
_END_S = 30.0  # how long the rendezvous waits for the other ranks after its own has ended


def _session() -> SparkSession:
    session = SparkSession.getActiveSession()
    if session is None:
        raise LaunchError(
            "launching ranks on Spark needs an active session; there is none; build one with "
            "cluster.session.build_session first, or set training.launcher=local"
        )
    return session


def _answer(ended: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank 0's result, from each rank's {"ok": ...} or {"failure": ...}.

    Raises:
        LaunchError: a rank failed.
    """
    failures = [Failure(**end["failure"]) for end in ended if "failure" in end]
    if failures:
        raise verdict_of(failures)
    result: dict[str, Any] = ended[0]["ok"]
    return result


# --- The barrier stage


def run_barrier(job: Job) -> dict[str, Any]:
    """Run the ranks in one barrier stage of the active session; `timeout_s` limits the stage.

    Raises:
        LaunchError: there is no session, a rank failed, or the stage did not end in time.
    """
    session = _session()
    plan = {
        "target": job.target,
        "spec": job.spec,
        "stall_s": job.stall_s,
        "timeout_s": job.timeout_s,
        "env": dict(job.env),
    }
    stage = session.range(0, job.ranks, 1, job.ranks).mapInArrow(
        partial(_rank_task, json.dumps(plan)), "rank long, ended string", barrier=True
    )
    try:
        rows = stage.collect()
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise RankLostError(
            f"the barrier stage of {job.ranks} ranks failed: {first}; see the executors' logs. It needs {job.ranks} "
            "free task slots at once and static allocation (spark.dynamicAllocation.enabled=false)"
        ) from error
    return _answer([json.loads(row["ended"]) for row in sorted(rows, key=lambda row: int(row["rank"]))])


def _rank_task(plan_text: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One task of the stage: meet the others, run a rank, give back how it ended."""
    from pyspark import BarrierTaskContext

    from cluster.launch import rendezvous

    for _ in batches:  # the row that made this task
        pass
    plan = json.loads(plan_text)
    context = BarrierTaskContext.get()
    me = context.partitionId()
    host = socket.gethostbyname(context.getTaskInfos()[me].address.rpartition(":")[0])
    addresses = context.allGather(host)
    order, hosts = rank_order(addresses)
    rank = order.index(me)
    with ExitStack() as stack:
        slots = stack.enter_context(rendezvous(host, hosts)) if rank == 0 else []
        meeting = json.loads(next(text for text in context.allGather(json.dumps(slots)) if text != "[]"))
        board = _Board(meeting[rank])
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


class _Board:
    """Where tasks leave notes for each other: the rendezvous' key-value store. A store that is gone holds nothing."""

    def __init__(self, slot: Mapping[str, str]) -> None:
        self._url = f"http://{slot['HOROVOD_GLOO_RENDEZVOUS_ADDR']}:{slot['HOROVOD_GLOO_RENDEZVOUS_PORT']}"

    def put(self, note: str) -> None:
        self._ask(urllib.request.Request(f"{self._url}/{note}", data=b"1", method="PUT"))

    def has(self, note: str) -> bool:
        return self._ask(urllib.request.Request(f"{self._url}/{note}"))

    def _ask(self, request: urllib.request.Request) -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_for(self, notes: list[str]) -> None:
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline and not all(map(self.has, notes)):
            time.sleep(_POLL_S)


def _run_one(plan: dict[str, Any], rank: int, slot: dict[str, str], ranks_here: int, board: _Board) -> dict[str, Any]:
    """Start a rank's process, watch it and the others' notes, and stop it where another failed."""
    from cluster.launch import rank_command, rank_env

    size = int(slot["HOROVOD_SIZE"])
    with tempfile.TemporaryDirectory(prefix="millrace-rank-") as name:
        folder = Path(name)
        write_json(folder / "spec.json", json.loads(plan["spec"]))
        shared = {**os.environ, **rank_env(ranks_here, plan["stall_s"]), **_interface(slot["HOROVOD_HOSTNAME"])}
        process = Rank(rank, rank_command(plan["target"], folder), {**shared, **slot, **plan["env"]}, to_stderr)
        try:
            failure = _watch(process, folder, size, board, plan["timeout_s"])
        finally:
            stop([process])
        if failure is None:
            return {"ok": json.loads((folder / f"rank-{rank}.json").read_text())["ok"]}
        board.put("failed/any")
        return {"failure": asdict(failure)}


def _watch(process: Rank, folder: Path, size: int, board: _Board, timeout_s: float | None) -> Failure | None:
    """Wait for the rank's end; returns how it failed, or None where it ended well."""
    started, others_failed_at = time.monotonic(), None
    joined = folder / f"rank-{process.rank}.joined"
    while process.exit_code is None:
        now = time.monotonic()
        if others_failed_at is None and board.has("failed/any"):
            others_failed_at = now
        if others_failed_at is not None and now - others_failed_at > GRACE_S:
            return silent_failure(process, size)
        if now - started > START_S and not joined.exists():
            message = f"rank {process.rank} of {size} must meet the others within {START_S:.0f} s, and did not"
            return Failure(process.rank, f"{message}; see its lines in the executor's stderr", lost=True)
        if timeout_s is not None and now - started > timeout_s:
            message = f"the launch must end within timeout_s={timeout_s:g}; rank {process.rank} of {size} still ran"
            return Failure(process.rank, f"{message}; raise the limit or find out what it waits for", lost=False)
        time.sleep(_POLL_S)
    return failure_of(process, folder, size)


def _interface(address: str) -> dict[str, str]:
    """The network interface that has this address, for Gloo; nothing where none has it (Gloo then looks itself)."""
    import psutil  # type: ignore[import-untyped]

    for name, held in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in held):
            return {"HOROVOD_GLOO_IFACE": name}
    return {}


# --- horovod.spark.run


HorovodSparkRun = Callable[[Callable[[], Any], int, dict[str, str], int, "Lines"], list[Any]]


def run_horovod_spark(job: Job, run: HorovodSparkRun) -> dict[str, Any]:
    """Run the ranks through `horovod.spark.run`, given as `run`, in the active session.

    Raises:
        LaunchError: there is no session, a rank failed, or Horovod could not start the ranks.
    """
    from cluster.launch import rank_env

    _session()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    env = {**rank_env(job.ranks, job.stall_s), **job.env}
    lines = Lines(job.log)
    try:
        ended = run(partial(_horovod_rank, job.target, job.spec), job.ranks, env, int(START_S), lines)
    except Exception as error:
        last = "".join(f"\n    {line}" for line in lines.tail)
        raise RankLostError(
            f"horovod.spark could not run {job.ranks} ranks to their end: {' '.join(str(error).split())}. It needs "
            f"{job.ranks} free task slots and a classic cluster (no Spark Connect); training.launcher=barrier needs no "
            f"RDDs. The ranks' last lines:{last or ' none'}"
        ) from error
    return _answer(
        [
            {"failure": asdict(Failure.of_error(rank, job.ranks, end["error"]))} if "error" in end else end
            for rank, end in enumerate(ended)
        ]
    )


class Lines:
    """A stream that passes on whole lines and keeps the last ones; Horovod has put the rank in front of each."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log, self._rest = log, ""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.tail.append(line)
            self._log(line)

    def flush(self) -> None:
        """Nothing is held back but a line's beginning."""

    def close(self) -> None:
        """The stream belongs to the launch, not to the rank that ends."""


def _horovod_rank(target: str, spec: str) -> dict[str, Any]:
    """A rank in a process of horovod.spark, which itself would wait for ever for one that hangs."""
    board, ended_well = _Board(os.environ), threading.Event()
    threading.Thread(target=_leave_with_the_others, args=(board, ended_well), daemon=True).start()
    ended = run_rank(target, json.loads(spec), lambda: None)
    ended_well.set()
    if "error" in ended:
        board.put("failed/any")
        print(ended["error"]["message"], file=sys.stderr, flush=True)
    return ended


def _leave_with_the_others(board: _Board, ended: threading.Event) -> None:
    """End this process, with its stack on stderr, where another rank failed and this one does not come to an end."""
    while not board.has("failed/any"):
        if ended.wait(1.0):
            return
    if not ended.wait(GRACE_S):
        faulthandler.dump_traceback()
        os._exit(1)
