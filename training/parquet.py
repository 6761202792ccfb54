"""Data files of a pinned table version: their row groups, and one row group at a time as the table's columns.

What Delta's log says and a Parquet reader misses is applied here: physical column names and field ids, partition
values, columns added or widened after a file was written. Deleted rows are marked, not left out: a reader that takes
rows in another order anyway pays nothing for leaving them out itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.errors import SnapshotError
from training.storage import cut_short, from_store, reason, split_root

_FOOTER_THREADS = 16
_PHYSICAL_NAME, _FIELD_ID = b"delta.columnMapping.physicalName", b"delta.columnMapping.id"


@dataclass(frozen=True)
class DataFile:
    """One live Parquet file.

    Attributes:
        path: relative to the table's root, as on the file system, or a URL.
        size: bytes.
        records: physical rows by the log, where it says.
        partition: partition values by logical column name, typed.
        deleted: packed bits, one a physical row, set where it is deleted; None without a deletion vector.
    """

    path: str
    size: int
    records: int | None
    partition: Mapping[str, Any]
    deleted: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Every row group of a snapshot; arrays of shape (groups,).

    Attributes:
        file: index into `Snapshot.files`.
        number: the row group's number in its file.
        first: physical row number, in the file, of its first row.
        rows: physical rows.
        live: rows that no deletion vector deletes.
    """

    file: NDArray[np.int32]
    number: NDArray[np.int32]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    live: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a table version's files lie and how its columns are found in them.

    Attributes:
        uri: the table, for errors.
        version: the version, for errors.
        schema: logical columns, with the log's metadata.
        filesystems: of the table's folder, under the name "", and of the other buckets that its log names.
        by_id: columns are found by field id (column mapping mode `id`) instead of by physical name.
    """

    uri: str
    version: int
    schema: pa.Schema
    filesystems: Mapping[str, pyarrow.fs.FileSystem]
    by_id: bool

    def place(self, file: DataFile) -> str:
        """A file by name, for errors."""
        return f"file '{file.path}' of version {self.version} of table '{self.uri}'"

    def row_groups(self, files: Sequence[DataFile]) -> RowGroups:
        """Read the files' footers, many at a time.

        Raises:
            SnapshotError: a file is gone, is not Parquet, or holds another number of rows than the log says.
        """
        with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
            return _arrays(files, list(threads.map(self._footer, files)))

    def read(self, file: DataFile, number: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """All physical rows of a row group, deleted ones too, by logical name and of the table's types.

        Raises:
            SnapshotError: the file is gone or cannot be read; names it, the row group, the version and a remedy.
        """
        try:
            far = isinstance(self.filesystems[split_root(file.path)[0]], pyarrow.fs.PyFileSystem)
            with pq.ParquetFile(self._open(file), coerce_int96_timestamp_unit="us", pre_buffer=far) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.row_group(number).num_rows
                physical = {name: self._physical(name, schema) for name in columns}
                # Column by column: Arrow keeps a reader's pages until all columns of the call are read. A store takes
                # its time for each answer, so it is asked for all columns at once.
                found = [name for name in physical.values() if name is not None]
                calls = [found] if far else [[name] for name in found]
                read = [parquet.read_row_group(number, columns=call, use_threads=False) for call in calls]
                stored = {name: table.column(name) for table in read for name in table.column_names}
            return {name: self._column(name, stored.get(physical[name]), file, rows) for name in columns}
        except FileNotFoundError as error:
            raise self._gone(file) from error
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(f"row group {number} of {self.place(file)} cannot be read", error) from _cause(error)

    def _footer(self, file: DataFile) -> list[int]:
        """Rows of each row group."""
        try:
            with pq.ParquetFile(self._open(file)) as parquet:
                metadata = parquet.metadata
                rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except FileNotFoundError as error:
            raise self._gone(file) from error
        except (pa.ArrowException, OSError) as error:
            rule = "cannot be read" if _refused(error) else "is not a whole Parquet file"
            raise _unreadable(f"{self.place(file)} {rule}", error) from _cause(error)
        if file.records is not None and sum(rows) != file.records:
            raise SnapshotError(
                f"{self.place(file)} holds {sum(rows)} rows, the log says {file.records}: it was changed behind "
                "Delta's back. Restore the file, or pin another version"
            )
        return rows

    def _open(self, file: DataFile) -> pa.NativeFile:
        if file.path.startswith("file:/"):  # a shallow clone names its source's files whole
            filesystem, path = pyarrow.fs.FileSystem.from_uri(file.path)
        else:
            root, path = split_root(file.path)
            filesystem = self.filesystems[root]
        return filesystem.open_input_file(path)

    def _physical(self, name: str, stored: pa.Schema) -> str | None:
        """A column's name inside a file; None where the file has no such column."""
        metadata = self.schema.field(name).metadata or {}
        if self.by_id:
            wanted = metadata[_FIELD_ID]
            return next((f.name for f in stored if (f.metadata or {}).get(b"PARQUET:field_id") == wanted), None)
        physical: str = metadata[_PHYSICAL_NAME].decode() if _PHYSICAL_NAME in metadata else name
        return physical if physical in stored.names else None

    def _column(self, name: str, stored: pa.ChunkedArray | None, file: DataFile, rows: int) -> pa.Array:
        wanted = self.schema.field(name).type
        if name in file.partition:
            return pa.repeat(pa.scalar(file.partition[name], wanted), rows)
        if stored is None:
            return pa.nulls(rows, wanted)
        return _as_type(stored.chunk(0) if stored.num_chunks == 1 else stored.combine_chunks(), wanted)

    def _gone(self, file: DataFile) -> SnapshotError:
        return SnapshotError(
            f"{self.place(file)} is gone; VACUUM deletes the files of old versions. "
            "Pin a later version, or keep files for longer (delta.deletedFileRetentionDuration)"
        )


def _unreadable(what: str, error: Exception) -> SnapshotError:
    remedy = (
        "See that the store answers and that this process has credentials that still hold (docs/loader.md)"
        if _refused(error)
        else "Restore the file, or pin another version"
    )
    return SnapshotError(f"{what}: {reason(error)}. {remedy}")


def _refused(error: Exception) -> bool:
    """Whether it is the store's doing, not the object's."""
    return from_store(error) and not cut_short(error)


def _cause(error: Exception) -> Exception | None:
    """The error to chain: none of a store's, whose text may hold what is secret."""
    return None if from_store(error) else error


def bits(packed: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint8]:
    """Bits [start, stop) of a packed mask; 0 past its end (a deletion vector may be shorter than its file)."""
    found = np.unpackbits(packed[start // 8 : -(-stop // 8)])[start % 8 : start % 8 + stop - start]
    return found if len(found) == stop - start else np.pad(found, (0, stop - start - len(found)))


def _arrays(files: Sequence[DataFile], counts: list[list[int]]) -> RowGroups:
    rows = np.array([n for per_file in counts for n in per_file], np.int64)
    per_file = np.array([len(found) for found in counts], np.int64)
    file = np.repeat(np.arange(len(files), dtype=np.int32), per_file)
    # Rows before a group, less the rows before its file.
    before = np.cumsum(rows) - rows
    starts = np.concatenate([[0], np.cumsum(per_file)])[file]
    number = np.arange(len(rows)) - starts
    first = before - before[starts] if len(rows) else before
    live = rows.copy()
    for group, owner in enumerate(file):
        deleted = files[owner].deleted
        if deleted is not None:
            live[group] -= int(bits(deleted, int(first[group]), int(first[group] + rows[group])).sum())
    return RowGroups(file, number.astype(np.int32), first, rows, live)


def _as_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """An array as the table's type: widened, instants in UTC, lists of either layout."""
    if pa.types.is_fixed_size_list(array.type):
        offsets = np.arange(len(array) + 1, dtype=np.int32) * array.type.list_size
        array = pa.ListArray.from_arrays(pa.array(offsets), array.flatten())
    return array if array.type == wanted else array.cast(wanted)
