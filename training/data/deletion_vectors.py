"""Deletion vectors: the rows of a data file that are deleted, by physical row number.

A vector is a 64-bit roaring bitmap in the portable format (Delta's protocol, "Deletion Vector Format"); pyroaring reads
it. It stays compressed while it is held: a million deleted rows are at most two megabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import pyarrow.fs
from numpy.typing import NDArray
from pyroaring import BitMap64

from training.data.log_vectors import Vector
from training.data.storage import split_root
from training.errors import SnapshotError

_MAGIC = (1681511377).to_bytes(4, "little")
_LENGTH = _CHECKSUM = 4


def read_vector(filesystems: Mapping[str, pyarrow.fs.FileSystem], vector: Vector, where: str) -> BitMap64:
    """The rows that a vector deletes.

    Args:
        filesystems: by the root that `split_root` gives.
        vector: where it lies.
        where: the data file, for errors.

    Raises:
        SnapshotError: the vector is not what was written.
        OSError: its file is gone or cannot be read.
    """
    data = vector.inline if vector.inline is not None else _stored(filesystems, vector, where)
    if data[: len(_MAGIC)] != _MAGIC:
        raise _damaged(vector, where, f"begins with {data[: len(_MAGIC)].hex() or 'nothing'}, not with {_MAGIC.hex()}")
    try:
        rows = BitMap64.deserialize(data[len(_MAGIC) :])
    except (ValueError, IndexError):
        raise _damaged(vector, where, "is no roaring bitmap") from None
    if len(rows) != vector.cardinality:
        raise _damaged(vector, where, f"deletes {len(rows)} rows, the log says {vector.cardinality}")
    return rows


def live_rows(deleted: BitMap64, first: int, rows: int) -> NDArray[np.int64]:
    """Which of the `rows` rows from row `first` of a file on are not deleted, counted from `first`."""
    live = BitMap64(range(first, first + rows)) - deleted
    return np.asarray(live.to_array()).astype(np.int64) - first


def _stored(filesystems: Mapping[str, pyarrow.fs.FileSystem], vector: Vector, where: str) -> bytes:
    """A vector's bytes: in its file stand a length before it and a checksum behind it, both big-endian."""
    assert vector.path is not None
    root, path = split_root(vector.path)
    with filesystems[root].open_input_file(path) as file:
        file.seek(vector.offset)
        found: bytes = file.read(_LENGTH + vector.size + _CHECKSUM)
    length, data, checksum = found[:_LENGTH], found[_LENGTH : _LENGTH + vector.size], found[_LENGTH + vector.size :]
    if int.from_bytes(length, "big") != vector.size:
        raise _damaged(vector, where, f"has {int.from_bytes(length, 'big')} bytes, the log says {vector.size}")
    if zlib.crc32(data) != int.from_bytes(checksum, "big") or len(checksum) != _CHECKSUM:
        raise _damaged(vector, where, "does not have the checksum that was written with it")
    return data


def _damaged(vector: Vector, where: str, what: str) -> SnapshotError:
    place = "in the log" if vector.path is None else f"at byte {vector.offset} of '{vector.path}'"
    return SnapshotError(
        f"the deletion vector of {where}, {place}, {what}: it is damaged. Restore it, or pin another version"
    )
