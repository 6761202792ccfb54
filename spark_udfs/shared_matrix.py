"""One copy of a matrix per host: the first worker that needs it writes a file, every worker maps that file.

Spark runs one Python worker per task slot, each with its own memory; an item matrix of some GB would be there once per
slot. A mapped file is in the host's page cache once, however many workers read it, and outlives them.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DataError

Floats = npt.NDArray[np.float32]

KEPT = 8  # files of one user on one host, and those that a process has mapped, whose room a removal would not free

_mapped: dict[str, Floats] = {}


def shared_matrix(key: str, build: Callable[[], Floats]) -> Floats:
    """The matrix of this key, memory-mapped; `build` runs once per host.

    Args:
        key: names the content: whatever could change the matrix must change the key.
        build: returns the float32 matrix; called by the first worker only, while others that want this key wait.

    Raises:
        DataError: the folder for shared files belongs to somebody else.
    """
    matrix = _mapped.get(key)
    if matrix is None:
        _mapped.clear()  # a worker serves one bundle after another; an old one's pages may go
        _mapped[key] = matrix = _map_or_build(key, build)
    return matrix


def _map_or_build(key: str, build: Callable[[], Floats]) -> Floats:
    folder = _folder()
    path = folder / (re.sub(r"[^A-Za-z0-9_.-]", "_", key) + ".npy")
    with _locked(path.with_suffix(".lock")):  # of this key alone: a matrix may take hours, and others are not to wait
        with _locked(folder / "lock"):
            matrix = _map_whole(path)
        if matrix is None:
            part = _write(path, build())
            with _locked(folder / "lock"):
                part.replace(path)
                matrix = _map(path)
                _prune(folder)
        return matrix


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"millrace-matrices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.stat().st_uid
    if owner != os.getuid():
        raise DataError(f"'{folder}' must belong to user {os.getuid()}, not {owner}; set TMPDIR to a folder of yours")
    return folder


def _map_whole(path: Path) -> Floats | None:
    """The file's matrix; None where it is missing or shorter than its header says (a full disk leaves such)."""
    try:
        return _map(path)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _map(path: Path) -> Floats:
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        fcntl.flock(file, fcntl.LOCK_SH)  # the map has the file open, and so locked, for as long as it is there
        matrix = np.asarray(np.memmap(file, dtype, "r", file.tell(), shape))
    path.touch()
    return matrix


def _write(path: Path, matrix: Floats) -> Path:
    part = path.with_suffix(".part")
    with part.open("wb") as target:
        np.save(target, np.ascontiguousarray(matrix, np.float32))
        target.flush()
        os.fsync(target.fileno())  # a machine that goes down must not leave a file of its length with nothing in it
    return part


def _prune(folder: Path) -> None:
    """Removes what was used least lately and nobody has mapped."""
    newest_first = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for path in newest_first[KEPT:]:
        with path.open("rb") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
