"""One copy of a matrix per host: the first worker that needs it writes a file, every worker maps that file.

Spark runs one Python worker per task slot, each with its own memory; an item matrix of some GB would be there once per
slot. A mapped file is in the host's page cache once, however many workers read it, and outlives them.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DataError

Floats = npt.NDArray[np.float32]

KEPT = 8  # files of one user on one host; older ones go, a worker that has one mapped keeps it

_mapped: dict[str, Floats] = {}


def shared_matrix(key: str, build: Callable[[], Floats]) -> Floats:
    """The matrix of this key, memory-mapped; `build` runs once per host.

    Args:
        key: names the content: whatever could change the matrix must change the key.
        build: returns the float32 matrix; called under a lock, by the first worker only.

    Raises:
        DataError: the folder for shared files belongs to somebody else.
    """
    if key not in _mapped:
        _mapped.clear()  # a worker serves one bundle after another; an old one's pages may go
        _mapped[key] = _map_or_build(key, build)
    return _mapped[key]


def _map_or_build(key: str, build: Callable[[], Floats]) -> Floats:
    folder = _folder()
    path = folder / (re.sub(r"[^A-Za-z0-9_.-]", "_", key) + ".npy")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _whole(path):
            _write(path, build())
            _prune(folder)
        path.touch()
        return np.asarray(np.load(path, mmap_mode="r"))


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"millrace-matrices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.stat().st_uid
    if owner != os.getuid():
        raise DataError(f"'{folder}' must belong to user {os.getuid()}, not {owner}; set TMPDIR to a folder of yours")
    return folder


def _whole(path: Path) -> bool:
    """Whether the file is there and as long as its header says (a full disk leaves a short or an empty one)."""
    if not path.exists():
        return False
    try:
        np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        return False
    return True


def _write(path: Path, matrix: Floats) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as target:
        np.save(target, np.ascontiguousarray(matrix, np.float32))
        target.flush()
        os.fsync(target.fileno())  # a machine that goes down must not leave a file of its length with nothing in it
    temporary.replace(path)


def _prune(folder: Path) -> None:
    newest_first = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in newest_first[KEPT:]:
        file.unlink()
