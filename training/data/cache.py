"""Row groups kept decoded for the epochs after the first: an option of the loader, in memory or on a local disk.

What is kept is what the table holds, before any shuffling or checking, so an epoch that comes from a cache is the same
as one that comes from the table. A cache is filled until its limit and then left as it is: an epoch needs every row
group once, so putting one out for another would gain nothing.

An entry's name comes from what lies in the file, not from what the table calls it: columns may change their names, and
a name may come to mean another column, while the file stays.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import xxhash

from training.data.snapshot import Snapshot
from training.errors import SettingsError

_END_OF_STREAM = bytes.fromhex("ffffffff00000000")
_CHECKSUM = 8


class Cache(ABC):
    """Decoded row groups by file, row group and columns. Safe for use by several threads.

    Attributes:
        hits: row groups that were given from the cache.
        misses: row groups that were read from the table.
        held_bytes: bytes that this object has put in.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise SettingsError(f"max_bytes, a cache's limit, must be at least 1; got {max_bytes}; or give no cache")
        self.hits = self.misses = self.held_bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def read(self, snapshot: Snapshot, group: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """As `Snapshot.read_group`.

        Raises:
            SnapshotError: the row group is not in the cache, and its file is gone, cannot be read, or was changed.
        """
        key = _key(snapshot, group, columns)
        found = self._get(key, int(snapshot.groups.rows[group]))
        if found is not None:
            with self._lock:
                self.hits += 1
            return dict(zip(columns, found.columns, strict=True))
        arrays = snapshot.read_group(group, columns)
        rows = pa.record_batch(list(arrays.values()), names=list(arrays))
        with self._lock:
            self.misses += 1
            if self.held_bytes + rows.nbytes > self._max_bytes:
                return arrays
            self.held_bytes += rows.nbytes
        self._put(key, rows)
        return arrays

    @abstractmethod
    def _get(self, key: str, rows: int) -> pa.RecordBatch | None:
        """An entry of so many rows; one of another number is not taken."""

    @abstractmethod
    def _put(self, key: str, rows: pa.RecordBatch) -> None: ...


class MemoryCache(Cache):
    """Keeps row groups in this process.

    Args:
        max_bytes: limit; 13 float32 and 8 int64 columns are 116 bytes a row.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._held: dict[str, pa.RecordBatch] = {}

    def _get(self, key: str, rows: int) -> pa.RecordBatch | None:
        found = self._held.get(key)
        return found if found is not None and found.num_rows == rows else None

    def _put(self, key: str, rows: pa.RecordBatch) -> None:
        self._held[key] = rows


class DiskCache(Cache):
    """Keeps row groups as Arrow streams in a folder that processes, runs and trials on one host may share.

    A file gets its name when it is whole, and ends with a checksum of all before it. One that is damaged all the same
    is dropped, read from the table and written again. The folder may be deleted at any time, and nothing else deletes
    it. Where it cannot be written (a full disk) rows come from the table. Both are said once, as a warning.

    Args:
        folder: made where it does not exist; a local disk.
        max_bytes: what this process may put into it.

    Raises:
        SettingsError: the folder cannot be made.
    """

    def __init__(self, folder: Path | str, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"training.cache_dir must be a folder, or a place where one can be made; '{folder}' is none: "
                f"{error.strerror}; name another, or leave it out"
            ) from error
        self._writable, self._said = True, set[str]()

    def _get(self, key: str, rows: int) -> pa.RecordBatch | None:
        try:
            with pa.OSFile(str(self._path(key))) as file:
                return _checked(file.read_buffer(), rows)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            with suppress(OSError):  # a folder that may not be written: the table has the rows
                self._path(key).unlink(missing_ok=True)
            self._say_once(
                "damaged",
                f"'{self._path(key)}' of the loader's cache is damaged ({error}): written again from the table, as any "
                "other that is damaged will be without a word. If this comes again, look at the disk",
            )
            return None

    def _put(self, key: str, rows: pa.RecordBatch) -> None:
        if not self._writable:
            return
        scratch = self._path(key).with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        try:
            with pa.OSFile(str(scratch), "wb") as file:
                for part in _parts(rows):
                    file.write(part)
            scratch.replace(self._path(key))
        except OSError as error:
            scratch.unlink(missing_ok=True)
            self._writable = False
            self._say_once(
                "full",
                f"the loader's cache '{self.folder}' cannot be written: {error}; rows that are not in it come from the "
                "table each epoch. Make room there, or lower its limit",
            )

    def _say_once(self, what: str, text: str) -> None:
        with self._lock:
            said = what in self._said
            self._said.add(what)
        if not said:
            warnings.warn(text, stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.arrow"


def cache_of(gigabytes: float, folder: str | None) -> Cache | None:
    """The cache that settings describe: none of 0 GB, in memory without a folder, else in the folder."""
    if gigabytes == 0:
        return None
    size = int(gigabytes * 1e9)
    return MemoryCache(size) if folder is None else DiskCache(folder, size)


def _parts(rows: pa.RecordBatch) -> list[pa.Buffer]:
    """An Arrow stream of one record batch, and its checksum (xxHash reads 17 GB/s; zlib's CRC 4)."""
    parts = [rows.schema.serialize(), rows.serialize(), pa.py_buffer(_END_OF_STREAM)]
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return [*parts, pa.py_buffer(digest.digest())]


def _checked(stored: pa.Buffer, rows: int) -> pa.RecordBatch:
    """The record batch of a file; ArrowInvalid where the file is not what was written, or is another row group's."""
    stream = stored[: max(0, stored.size - _CHECKSUM)]
    if xxhash.xxh3_64_digest(stream) != stored[stream.size :].to_pybytes():
        raise pa.ArrowInvalid("its checksum is not that of its bytes")
    found = pa.ipc.open_stream(stream).read_next_batch()
    if found.num_rows != rows:
        raise pa.ArrowInvalid(f"it holds {found.num_rows} rows, the row group {rows}")
    return found


def _key(snapshot: Snapshot, group: int, columns: Sequence[str]) -> str:
    """The same for every version of a table, and every clone, that holds the same file; of no other rows or types."""
    groups = snapshot.groups
    parts = snapshot.source.identity(snapshot.files[groups.file[group]], columns)
    return hashlib.sha256("\0".join([*parts, str(groups.number[group])]).encode()).hexdigest()[:32]
