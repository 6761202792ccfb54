"""The JVM of a session that this process starts: where its words go, and that it does not outlive us.

PySpark's JVM ends by itself when it sees that its driver is gone, but it takes its time, and may still write. So a
small process of its own watches both (cluster/jvm_watch.py).
"""

from __future__ import annotations

import fcntl
import locale
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO

from pyspark import SparkContext

_WATCH = Path(__file__).with_name("jvm_watch.py")
_watchers: list[subprocess.Popen[bytes]] = []  # each ends with its JVM


@contextmanager
def bound_jvm() -> Iterator[Path]:
    """Yield the file that takes the stderr of a JVM which starts inside, and bind that JVM's life to this process's.

    The file's folder is this user's alone. It stays where no session starts, and where the JVM dies before us.
    """
    folder = Path(tempfile.mkdtemp(prefix="millrace-jvm-"))
    log, before = folder / "stderr.log", _jvm()
    with _in_turn(), _in_utf8(), _stderr_to(log):
        yield log
    jvm = _jvm()
    if jvm is None or jvm is before or sys.platform != "linux":
        shutil.rmtree(folder)  # there was one already, or it is not ours
        return
    _watch(jvm.pid, folder)


def _jvm() -> Any:
    """PySpark's process of the JVM that it started in this process; None where there is none."""
    return getattr(SparkContext._gateway, "proc", None)


def has_ended() -> bool:
    """Whether the JVM that this process started is gone, or goes within seconds."""
    jvm = _jvm()
    if jvm is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        jvm.wait(timeout=5)
    return jvm.poll() is not None


@contextmanager
def _in_turn() -> Iterator[None]:
    """One JVM of a user's starts at a time.

    The first on a machine fetches Delta's jars, and of two that fetch into one Ivy folder at once one fails. Where no
    lock can be had, it starts at once.
    """
    with ExitStack() as held:
        with suppress(OSError):
            cache = Path(os.environ.get("MILLRACE_CACHE") or Path.home() / ".cache" / "millrace")
            cache.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((cache / "jvm.lock").open("a")), fcntl.LOCK_EX)
        yield


@contextmanager
def _in_utf8() -> Iterator[None]:
    """Let what starts inside inherit a locale of UTF-8, as this process takes the names of files anyway.

    With LC_ALL=C, and with one that the machine does not have, a JVM finds no path that has more than ASCII in it.
    """
    before = os.environ.get("LC_ALL")
    if locale.getencoding().lower() in ("utf-8", "utf8"):
        yield
        return
    os.environ["LC_ALL"] = "C.UTF-8"
    try:
        yield
    finally:
        del os.environ["LC_ALL"]
        if before is not None:
            os.environ["LC_ALL"] = before


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Let what starts inside inherit a file as its stderr: the JVM's chatter would bury a job's own lines.

    What this process itself writes to `sys.stderr` meanwhile goes where it went before.
    """
    with os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace") as kept:
        with log.open("x") as target:
            os.dup2(target.fileno(), 2)
        try:
            with redirect_stderr(kept) if _is_stderr(sys.stderr) else nullcontext():
                yield
        finally:
            os.dup2(kept.fileno(), 2)


def _is_stderr(stream: TextIO) -> bool:
    """Whether a stream ends in this process's descriptor 2: a notebook's and a test's do not."""
    with suppress(OSError, ValueError, AttributeError):
        return stream.fileno() == 2
    return False


def _watch(pid: int, folder: Path) -> None:
    command = [sys.executable, "-S", "-E", str(_WATCH), str(os.getpid()), str(pid), str(folder)]
    nothing = subprocess.DEVNULL
    _watchers.append(
        subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True, cwd="/")
    )
