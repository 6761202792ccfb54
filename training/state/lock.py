"""One training at a time writes into a checkpoint folder, and one into a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training.errors import CheckpointError, LockHeldError

NAME = "writer.lock"
WAIT_S = 10.0  # a rank that was killed may need a moment to go, and its lock goes with it
_POLL_S = 0.1


@contextmanager
def only_writer(
    directory: Path,
    say: Callable[[str], None],
    *,
    name: str = NAME,
    what: str = "checkpoint folder",
    who: str = "training",
) -> Iterator[None]:
    """Hold the folder's lock (flock on a file in it) inside; the system lets go of it with the process.

    A lock file that a dead process left holds nothing. Where the file system has no locks, `say` gets a line, and two
    trainings that write into one folder go unnoticed.

    Args:
        directory: made where it does not exist.
        say: gets a line for people.
        name: of the file that is locked.
        what: the folder is, for the error.
        who: takes turns there, for the error.

    Raises:
        LockHeldError: another process holds the lock, and did not let go within 10 s.
        CheckpointError: the folder is none to write to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = _take(directory / name, say, what, who)
    except OSError as error:
        raise CheckpointError(
            f"{what} '{directory}' must be a folder to write to, with {name} a file in it: {error}; remove "
            "what is in the way, or choose another folder"
        ) from error
    try:
        yield
    finally:
        os.close(handle)


def _take(path: Path, say: Callable[[str], None], what: str, who: str) -> int:
    deadline = time.monotonic() + WAIT_S
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode(errors="replace")
            os.close(handle)
            if time.monotonic() > deadline:
                raise LockHeldError(
                    f"one {who} at a time may write into {what} '{path.parent}'; its lock is held by "
                    f"{holder or 'an unknown process'}; wait for it, stop it, or choose another folder"
                ) from None
            time.sleep(_POLL_S)
            continue
        except OSError as error:
            say(f"the file system of '{path.parent}' has no locks ({error}): see that no other {who} writes there")
            return handle
        if _is(path, handle):
            with suppress(OSError):  # the lock holds on a full disk too; only the others' message misses who has it
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            return handle
        os.close(handle)  # whoever held it before has removed the folder


def _is(path: Path, handle: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
