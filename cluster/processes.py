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
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]

from cluster.errors import LaunchError
from cluster.rank import PARENT, resolve

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
        kind: `module:Class` of an error that the only rank raised on purpose.
    """

    rank: int
    message: str
    lost: bool
    noticed_only: bool = False
    silent: bool = False
    kind: str = ""

    @classmethod
    def of_error(cls, rank: int, size: int, error: Mapping[str, Any]) -> Failure:
        """From what `cluster.rank.run_rank` gives for an error."""
        text = "\n".join(part for part in (error["message"], error["traceback"].rstrip()) if part)
        if size == 1:
            return cls(rank, text, lost=False, kind=error["kind"])
        lost_peer = bool(error["lost_peer"])
        return cls(rank, f"rank {rank} of {size} failed: {text}", lost=lost_peer, noticed_only=lost_peer)

    def as_error(self) -> Exception:
        """What the caller of the launch gets: of one rank its own error, of several always a LaunchError."""
        if self.kind:
            try:
                error: Exception = resolve(self.kind)(self.message)
            except (TypeError, AttributeError, ImportError, LaunchError):  # it is made of more than a message, or local
                return LaunchError(f"{self.kind}: {self.message}")
            return error
        return (RankLostError if self.lost else LaunchError)(self.message)


class Rank:
    """One rank's process, what it tells of itself, and the last lines that it wrote.

    Args:
        rank: its number.
        size: number of ranks. The lines of several carry their rank.
        command: starts `cluster.rank` but for its last argument, the number of the file that it tells in.
        env: all its variables.
        spec: what the function is told; JSON.
        log: gets its lines.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        command: Sequence[str],
        env: Mapping[str, str],
        spec: str,
        log: Callable[[str], None],
    ) -> None:
        self.rank, self.size = rank, size
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log, self._mark = log, f"[{rank}] " if size > 1 else ""
        self._told_in = _nameless("told")
        weakref.finalize(self, os.close, self._told_in)
        spec_in = _nameless("spec", spec)
        try:
            self._process = subprocess.Popen(
                [*command, str(self._told_in)],
                env={**env, PARENT: str(os.getpid())},
                pass_fds=[self._told_in],
                stdin=spec_in,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        finally:
            os.close(spec_in)
        self._reader = threading.Thread(target=self._forward, name=f"rank {rank} log", daemon=True)
        self._reader.start()

    def _forward(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.tail.append(line.rstrip())
                self._log(f"{self._mark}{line.rstrip()}")

    def say(self, line: str) -> None:
        """Show a line about the rank among its own."""
        self._log(f"{self._mark}{line}")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def joined(self) -> bool:
        """Whether it has met the others."""
        return bool(self._told())

    @property
    def ended(self) -> dict[str, Any] | None:
        """What it told at its end, {"ok": result} or {"error": {...}}; None where it has not."""
        return next((told for told in self._told() if "joined" not in told), None)

    @property
    def has_result(self) -> bool:
        """Whether it has told a result; it then ends, unless a thread that it left behind holds it."""
        return "ok" in (self.ended or {})

    def _told(self) -> list[dict[str, Any]]:
        data = os.pread(self._told_in, os.fstat(self._told_in).st_size, 0)  # at a place of our own: it writes on
        return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

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


def supervise(ranks: Sequence[Rank], limit: Limit) -> dict[str, Any]:
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
            failures = [failure for rank in ranks if (failure := failure_of(rank))]
            running = [rank for rank in ranks if rank.exit_code is None]
            if failures and first_failure_at is None:
                first_failure_at = now
            told = [failure for failure in failures if not failure.noticed_only]
            if told or (first_failure_at is not None and (not running or now - first_failure_at > GRACE_S)):
                silent = [] if told else [silent_failure(rank) for rank in running]
                raise verdict(failures + silent)
            if not running:
                return _result(ranks[0])
            if first_end_at is None and any(rank.has_result or rank not in running for rank in ranks):
                first_end_at = now
            if first_end_at is not None and now - first_end_at > END_S:
                return _result_of_those_left(ranks, running)
            _check_time(ranks, running, now - started, limit)
            time.sleep(POLL_S)
    finally:
        stop(ranks)


def _result_of_those_left(ranks: Sequence[Rank], running: Sequence[Rank]) -> dict[str, Any]:
    """Rank 0's result where all that still run have told theirs: a thread that they left behind holds them.

    Raises:
        RankLostError: one has told none.
    """
    late = [rank for rank in running if not rank.has_result]
    if late:
        raise verdict([silent_failure(rank) for rank in late])
    for rank in running:
        rank.say(f"has given its result and does not end within {END_S:g} s; it is ended")
    return _result(ranks[0])


def failure_of(rank: Rank) -> Failure | None:
    """How the rank failed; None while it runs and where it ended well."""
    code = rank.exit_code
    if code is None:
        return None
    ended = rank.ended or {}
    if "error" in ended:
        return Failure.of_error(rank.rank, rank.size, ended["error"])
    if code == 0 and "ok" in ended:
        return None
    if code == -signal.SIGTERM:  # its host is taken away, or a person ended it: not to be started again
        message = f"rank {rank.rank} of {rank.size} was asked to end (SIGTERM), and did"
        return Failure(rank.rank, f"{message}; the same command goes on from the last checkpoint", lost=False)
    rank.finish_log()
    how = _describe_exit(code, "after it had given its result" if ended else "before it could say why")
    last = "".join(f"\n    {line}" for line in rank.tail)
    return Failure(rank.rank, f"rank {rank.rank} of {rank.size} {how}; its last lines:{last or ' none'}", lost=True)


def silent_failure(rank: Rank) -> Failure:
    """A rank that still runs after another gave up waiting for it; asks for its stack, which goes to its log."""
    state = rank.state
    rank.signal(signal.SIGUSR1)
    time.sleep(0.3)
    if (ended := failure_of(rank)) is not None and rank.ended:
        return ended  # it noticed as well, just now
    where = "".join(f"\n    [{rank.rank}] {line}" for line in rank.tail)
    message = (
        f"rank {rank.rank} of {rank.size} did not answer; its process is {state}; where it stands:{where or ' unknown'}"
    )
    return Failure(rank.rank, message, lost=True, silent=True)


def verdict(failures: Sequence[Failure]) -> Exception:
    """The error to show: the rank that failed by itself, else the one that the others waited for."""
    told = [failure for failure in failures if not failure.noticed_only and not failure.silent]
    silent = [failure for failure in failures if failure.silent]
    noticed = [failure for failure in failures if failure.noticed_only]
    if told:
        return told[0].as_error()
    if silent:
        return RankLostError("\n".join(failure.message for failure in [*silent, *noticed[:1]]))
    head = "no rank failed by itself, each lost the others: the network between their hosts broke, or one came too late"
    return RankLostError("\n".join([head, *(failure.message for failure in noticed)]))


def _describe_exit(code: int, when: str) -> str:
    if code >= 0:
        return f"ended with exit code {code} {when}"
    name = signal.Signals(-code).name
    hint = " (often the system out of memory: give it more, or run fewer ranks)" if name == "SIGKILL" else ""
    return f"was killed by {name} {when}{hint}"


def _check_time(ranks: Sequence[Rank], running: Sequence[Rank], passed_s: float, limit: Limit) -> None:
    absent = [str(rank.rank) for rank in ranks if not rank.joined] if passed_s > START_S else []
    if absent:
        raise RankLostError(
            f"all {len(ranks)} ranks must meet within {START_S:.0f} s; rank {', '.join(absent)} did not; "
            "see its lines above, and look whether this machine is overloaded"
        )
    if limit.left_s() <= 0:
        names = ", ".join(str(rank.rank) for rank in running)
        last = "".join(f"\n    [{rank.rank}] {line}" for rank in running for line in rank.tail)
        raise LaunchError(limit.passed(f"rank {names} of {len(ranks)} still ran; its last lines:{last or ' none'}\n"))


def _result(rank: Rank) -> dict[str, Any]:
    assert rank.ended is not None, "failure_of would have said so"
    result: dict[str, Any] = rank.ended["ok"]
    return result


def _nameless(purpose: str, text: str = "") -> int:
    """An open file in memory that no folder knows: it is gone with the last process that holds it."""
    file = os.memfd_create(f"millrace-{purpose}")
    with os.fdopen(os.dup(file), "w") as writer:
        writer.write(text)
    os.lseek(file, 0, os.SEEK_SET)
    return file


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
    sys.stderr.write(f"{line}\n")  # in one piece: the ranks' threads write at once
    sys.stderr.flush()


def never_raising(log: Callable[[str], None]) -> Callable[[str], None]:
    """`log` for threads that must go on: a rank whose lines nobody takes stands still once its pipe is full.

    Where it raises, that is said on stderr, once, and this and all further lines follow there; where stderr is closed
    too, they are dropped.
    """
    broken = threading.Event()

    def careful(line: str) -> None:
        if not broken.is_set():
            try:
                return log(line)
            except Exception as error:  # whatever a notebook, a file or a library may raise
                broken.set()
                with suppress(OSError, ValueError):
                    to_stderr(f"the launch's log raised {type(error).__name__}: {error}; the ranks' lines follow here")
        with suppress(OSError, ValueError):
            to_stderr(line)
        return None

    return careful
