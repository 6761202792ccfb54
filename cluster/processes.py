"""Rank processes on this host: start them, show their lines, find the one that failed first, leave none behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from cluster.errors import LaunchError
from cluster.rank import PARENT

START_S = 180.0  # until every rank has met the others: Python, torch and Horovod load from a cold disk
GRACE_S = 3.0  # for the rank that caused a failure to say so, after another rank noticed
END_S = 30.0  # for the other ranks to end, after the first has: all have met in the world's last barrier by then
TAIL_LINES = 15
POLL_S = 0.1  # a hundredth of a core where it is 0.02, on a host whose cores all compute


@dataclass(frozen=True)
class Limit:
    """How long a launch may take, restarts included; None is no limit."""

    timeout_s: float | None = None
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        return math.inf if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()

    def passed(self, what: str) -> str:
        """The message for a launch that did not end in time."""
        return f"the launch must end within timeout_s={self.timeout_s:g}; {what}; raise it, or see what it waits for"


class RankLostError(LaunchError):
    """A rank was killed or fell silent: the same job may well succeed when it is started again."""


@dataclass(frozen=True)
class Failure:
    """How a rank ended that should not have.

    Attributes:
        rank: its number.
        message: for people, with the rank in it.
        lost: it was killed, fell silent, or lost another: starting again may help.
        noticed_only: it did nothing wrong but notice that another rank was gone.
        silent: it was still running when another rank gave up waiting.
    """

    rank: int
    message: str
    lost: bool
    noticed_only: bool = False
    silent: bool = False

    @classmethod
    def of_error(cls, rank: int, size: int, error: Mapping[str, Any]) -> Failure:
        """From what `cluster.rank.run_rank` gives for an error."""
        text = "\n".join(part for part in (error["message"], error["traceback"].rstrip()) if part)
        lost_peer = bool(error["lost_peer"])
        return cls(rank, f"rank {rank} of {size} failed: {text}", lost=lost_peer, noticed_only=lost_peer)


class Rank:
    """One rank's process and the last lines that it wrote."""

    def __init__(self, rank: int, command: Sequence[str], env: Mapping[str, str], log: Callable[[str], None]) -> None:
        self.rank = rank
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = log
        self._process = subprocess.Popen(
            command,
            env={**env, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._forward, name=f"rank {rank} log", daemon=True)
        self._reader.start()

    def _forward(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.tail.append(line.rstrip())
                self._log(f"[{self.rank}] {line.rstrip()}")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def state(self) -> str:
        """The process' state in the system's words: running, sleeping, stopped, disk-sleep, ..."""
        try:
            return str(psutil.Process(self._process.pid).status())
        except psutil.NoSuchProcess:
            return "gone"

    def signal(self, number: int) -> None:
        """Send a signal to the rank and to what it started."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # gone already

    def finish_log(self) -> None:
        """Wait until the rank's last lines are shown; a child of its that holds the pipe open is not waited for."""
        self._reader.join(timeout=2.0)


def supervise(ranks: Sequence[Rank], folder: Path, limit: Limit) -> dict[str, Any]:
    """Wait for all ranks and return rank 0's result; whatever happens, none is left running.

    Raises:
        RankLostError: a rank was killed or fell silent.
        LaunchError: a rank failed, or the ranks did not join or finish in time.
    """
    started = time.monotonic()
    first_failure_at: float | None = None
    first_end_at: float | None = None
    try:
        while True:
            now = time.monotonic()
            failures = [failure for rank in ranks if (failure := failure_of(rank, folder, len(ranks)))]
            running = [rank for rank in ranks if rank.exit_code is None]
            if failures and first_failure_at is None:
                first_failure_at = now
            told = [failure for failure in failures if not failure.noticed_only]
            if told or (first_failure_at is not None and (not running or now - first_failure_at > GRACE_S)):
                silent = [] if told else [silent_failure(rank, folder, len(ranks)) for rank in running]
                raise verdict(failures + silent)
            if not running:
                return _result(folder)
            if len(running) < len(ranks) and first_end_at is None:
                first_end_at = now
            if first_end_at is not None and now - first_end_at > END_S:
                raise verdict([silent_failure(rank, folder, len(ranks)) for rank in running])
            _check_time(ranks, running, folder, now - started, limit)
            time.sleep(POLL_S)
    finally:
        stop(ranks)


def failure_of(rank: Rank, folder: Path, size: int) -> Failure | None:
    """How the rank failed; None while it runs and where it ended well."""
    code = rank.exit_code
    path = folder / f"rank-{rank.rank}.json"
    if code is None or (code == 0 and path.exists()):
        return None
    if path.exists():
        return Failure.of_error(rank.rank, size, json.loads(path.read_text())["error"])
    rank.finish_log()
    how = _describe_exit(code)
    last = "".join(f"\n    {line}" for line in rank.tail)
    return Failure(rank.rank, f"rank {rank.rank} of {size} {how}; its last lines:{last or ' none'}", lost=True)


def silent_failure(rank: Rank, folder: Path, size: int) -> Failure:
    """A rank that still runs after another gave up waiting for it; asks for its stack, which goes to its log."""
    state = rank.state
    rank.signal(signal.SIGUSR1)
    time.sleep(0.3)
    if (ended := failure_of(rank, folder, size)) is not None and (folder / f"rank-{rank.rank}.json").exists():
        return ended  # it noticed as well, just now
    where = "".join(f"\n    [{rank.rank}] {line}" for line in rank.tail)
    message = (
        f"rank {rank.rank} of {size} did not answer; its process is {state}; where it stands:{where or ' unknown'}"
    )
    return Failure(rank.rank, message, lost=True, silent=True)


def verdict(failures: Sequence[Failure]) -> LaunchError:
    """The error to show: the rank that failed by itself, else the one that the others waited for."""
    told = [failure for failure in failures if not failure.noticed_only and not failure.silent]
    silent = [failure for failure in failures if failure.silent]
    noticed = [failure for failure in failures if failure.noticed_only]
    if told:
        return (RankLostError if told[0].lost else LaunchError)(told[0].message)
    if silent:
        return RankLostError("\n".join(failure.message for failure in [*silent, *noticed[:1]]))
    head = "no rank failed by itself, each lost the others: the network between their hosts broke, or one came too late"
    return RankLostError("\n".join([head, *(failure.message for failure in noticed)]))


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before it could say why"
    name = signal.Signals(-code).name
    hint = " (often the system out of memory: give it more, or run fewer ranks)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _check_time(ranks: Sequence[Rank], running: Sequence[Rank], folder: Path, passed_s: float, limit: Limit) -> None:
    absent = [str(rank.rank) for rank in ranks if not (folder / f"rank-{rank.rank}.joined").exists()]
    if absent and passed_s > START_S:
        raise RankLostError(
            f"all {len(ranks)} ranks must meet within {START_S:.0f} s; rank {', '.join(absent)} did not; "
            "see its lines above, and look whether this machine is overloaded"
        )
    if limit.left_s() <= 0:
        names = ", ".join(str(rank.rank) for rank in running)
        last = "".join(f"\n    [{rank.rank}] {line}" for rank in running for line in rank.tail)
        raise LaunchError(limit.passed(f"rank {names} of {len(ranks)} still ran; its last lines:{last or ' none'}\n"))


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "rank-0.json").read_text())["ok"]
    return result


def stop(ranks: Sequence[Rank], patience_s: float = 2.0) -> None:
    """End what still runs: ask, wait, kill."""
    for rank in ranks:
        rank.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while any(rank.exit_code is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.02)
    for rank in ranks:
        rank.signal(signal.SIGKILL)
        rank.finish_log()


def to_stderr(line: str) -> None:
    """The default way to show the ranks' lines."""
    print(line, file=sys.stderr, flush=True)
