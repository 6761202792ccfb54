"""Rank processes on this host: start them, show their lines, stop them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from cluster.rank import PARENT

TAIL_LINES = 15


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
