"""One version of a Delta table, as files, row groups, deleted rows and partition values. No JVM, no copy.

The log is read with delta-rs (deltalake); the Parquet files themselves with pyarrow, in `read_group`. What the log says
and a Parquet reader misses is applied here: which files are live, which rows deletion vectors delete (by physical row
number), physical column names and field ids, partition values, columns added or widened after a file was written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from numpy.typing import NDArray

from training.errors import SchemaError, SnapshotError, TableError

# Reader features that change what a reader must do and that this module does, or that leave data files as they are.
READER_FEATURES = frozenset(
    ["columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview", "v2Checkpoint"]
    + ["vacuumProtocolCheck"]
)
_FOOTER_THREADS = 16
_PHYSICAL_NAME, _FIELD_ID = b"delta.columnMapping.physicalName", b"delta.columnMapping.id"


class RowGroups(NamedTuple):
    """Every row group of a snapshot; arrays of shape (groups,).

    Attributes:
        file: index into `Snapshot.files`.
        index: the row group's number in its file.
        first: physical row number, in the file, of its first row.
        rows: physical rows.
        live: rows that no deletion vector deletes.
    """

    file: NDArray[np.int32]
    index: NDArray[np.int32]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    live: NDArray[np.int64]


@dataclass(frozen=True)
class DataFile:
    """One live Parquet file.

    Attributes:
        path: relative to the table's root, as on the file system, or absolute.
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
class Snapshot:
    """A pinned version of a Delta table, opened by `open_snapshot`.

    Attributes:
        uri: the table's path or URL.
        version: the Delta version.
        fingerprint: sixteen hex digits of the live files and their deleted rows.
        schema: logical columns with their types, in the table's order.
        files: live files, sorted by path.
        groups: their row groups.
        filesystem: where the files lie.
        by_id: columns are found in the files by field id (column mapping mode `id`) instead of by physical name.
        properties: the table's properties at this version.
    """

    uri: str
    version: int
    fingerprint: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    groups: RowGroups
    filesystem: pyarrow.fs.FileSystem
    root: str
    by_id: bool
    properties: Mapping[str, str]

    @property
    def rows(self) -> int:
        """Live rows."""
        return int(self.groups.live.sum())

    def describe(self, group: int) -> str:
        """A row group's place, for errors."""
        file = self.files[self.groups.file[group]]
        return f"row group {self.groups.index[group]} of file '{file.path}' of version {self.version} of table '{self.uri}'"

    def live_rows(self, group: int) -> NDArray[np.int64]:
        """Row numbers, within a row group, that are not deleted."""
        file, rows = self.files[self.groups.file[group]], int(self.groups.rows[group])
        if file.deleted is None:
            return np.arange(rows)
        first = int(self.groups.first[group])
        return np.flatnonzero(_bits(file.deleted, first, first + rows) == 0)

    def read_group(self, group: int, columns: Sequence[str]) -> pa.Table:
        """All physical rows of a row group, deleted ones too, with logical names and types and partition values.

        Raises:
            SnapshotError: the file is gone or cannot be read; names it, the row group, the version and a remedy.
        """
        file = self.files[self.groups.file[group]]
        try:
            with pq.ParquetFile(self._open(file), coerce_int96_timestamp_unit="us") as parquet:
                physical = {name: _physical(self.schema.field(name), parquet, self.by_id) for name in columns}
                stored = [name for name in physical.values() if name is not None]
                table = parquet.read_row_group(int(self.groups.index[group]), columns=stored, use_threads=False)
            return self._logical(table, physical, file, int(self.groups.rows[group]))
        except FileNotFoundError as error:
            raise _gone(self.uri, self.version, file.path) from error
        except (pa.ArrowException, OSError) as error:
            raise SnapshotError(
                f"{self.describe(group)} cannot be read: {error}. Restore the file, or pin another version"
            ) from error

    def _open(self, file: DataFile) -> pa.NativeFile:
        return _open_file(self.filesystem, self.root, file.path)

    def _logical(self, table: pa.Table, physical: Mapping[str, str | None], file: DataFile, rows: int) -> pa.Table:
        arrays = []
        for name, stored in physical.items():
            wanted = self.schema.field(name).type
            if name in file.partition:
                arrays.append(pa.repeat(pa.scalar(file.partition[name], wanted), rows))
            elif stored is None:
                arrays.append(pa.nulls(rows, wanted))
            else:
                arrays.append(_as_type(table.column(stored).combine_chunks(), wanted))
        return pa.table(arrays, schema=pa.schema([self.schema.field(name).remove_metadata() for name in physical]))


def open_snapshot(
    uri: str,
    version: int | None = None,
    *,
    columns: Sequence[str] | None = None,
    partitions: Mapping[str, Sequence[str | None]] | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Snapshot:
    """Pin a version of a Delta table.

    Args:
        uri: a local path or an object store's URL.
        version: the Delta version; None is the newest.
        columns: keep these, in this order; None keeps all.
        partitions: keep only files whose partition column has one of these values, written as Spark writes them.
        storage_options: credentials and the like for the object store, by delta-rs's names.

    Raises:
        TableError: there is no Delta table.
        SchemaError: a named column, or partition column, does not exist.
        SnapshotError: the version is not there, a file of it is gone or not what the log says, or the table uses a
            reader feature that Millrace does not know.
    """
    uri = _plain(uri)
    options = dict(storage_options or {})
    table = _open_table(uri, version, options)
    _check_features(table, uri)
    schema = _columns(pa.schema(table.schema().to_arrow()), columns, uri)
    files = _kept(_live_files(table, uri), table.metadata().partition_columns, partitions or {}, uri)
    filesystem, root = _filesystem(uri, options)
    properties = dict(table.metadata().configuration)
    return Snapshot(
        uri=uri,
        version=table.version(),
        fingerprint=_fingerprint(files),
        schema=schema,
        files=files,
        groups=_row_groups(files, filesystem, root, uri, table.version()),
        filesystem=filesystem,
        root=root,
        by_id=properties.get("delta.columnMapping.mode") == "id",
        properties=properties,
    )


def read_table(snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """A small table whole: live rows only, partition values filled in, nulls kept, in the order of files and rows.

    Raises:
        SchemaError: a column does not exist.
        SnapshotError: a file cannot be read.
    """
    schema = _columns(snapshot.schema, columns, snapshot.uri)
    parts = []
    for group in range(len(snapshot.groups.file)):
        table = snapshot.read_group(group, schema.names)
        live = snapshot.live_rows(group)
        parts.append(table if len(live) == table.num_rows else table.take(pa.array(live)))
    bare = pa.schema([field.remove_metadata() for field in schema])
    return pa.concat_tables(parts) if parts else bare.empty_table()


def _open_table(uri: str, version: int | None, options: dict[str, str]) -> DeltaTable:
    try:
        return DeltaTable(uri, version=version, storage_options=options)
    except TableNotFoundError as error:
        raise TableError(
            f"there is no Delta table at '{uri}' ({error}). Write it first, or correct the path"
        ) from error
    except DeltaError as error:
        wanted = "the newest version" if version is None else f"version {version}"
        raise SnapshotError(
            f"{wanted} of table '{uri}' cannot be opened: {error}. A version that is still to come, that log clean-up removed, "
            "or that needs an unknown reader feature cannot be pinned; DESCRIBE HISTORY lists those that can"
        ) from error


def _check_features(table: DeltaTable, uri: str) -> None:
    unknown = sorted(set(table.protocol().reader_features or []) - READER_FEATURES)
    if unknown:
        raise SnapshotError(
            f"table '{uri}' needs reader features that Millrace does not know: {', '.join(unknown)}. "
            "Drop them (ALTER TABLE ... DROP FEATURE), or write what training needs to another table"
        )


def _columns(schema: pa.Schema, columns: Sequence[str] | None, uri: str) -> pa.Schema:
    if columns is None:
        return schema
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise SchemaError(
            f"table '{uri}' has no column {', '.join(repr(name) for name in missing)}; it has: {', '.join(schema.names)}. "
            "Build the table again with these columns, or correct the names"
        )
    return pa.schema([schema.field(name) for name in columns])


def _live_files(table: DeltaTable, uri: str) -> tuple[DataFile, ...]:
    actions = pa.table(table.get_add_actions())
    partitioned = bool(table.metadata().partition_columns)
    partitions = actions.column("partition").to_pylist() if partitioned else [{}] * actions.num_rows
    paths = actions.column("path").to_pylist()
    deleted = _deletion_vectors(table, set(paths), uri)
    rows = zip(paths, actions["size_bytes"].to_pylist(), actions["num_records"].to_pylist(), partitions, strict=True)
    files = [DataFile(unquote(path), size, records, values, deleted.get(path)) for path, size, records, values in rows]
    return tuple(sorted(files, key=lambda file: file.path))


def _deletion_vectors(table: DeltaTable, paths: set[str], uri: str) -> dict[str, NDArray[np.uint8]]:
    """Deleted rows as packed bits, by the path that the log writes."""
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return {}
    found: dict[str, NDArray[np.uint8]] = {}
    try:
        for batch in table.deletion_vectors():
            vectors = pa.record_batch(batch)
            for path, mask in zip(vectors["filepath"].to_pylist(), vectors["selection_vector"], strict=True):
                found[_log_path(path, paths)] = np.packbits(~mask.values.to_numpy(zero_copy_only=False))
    except DeltaError as error:
        raise SnapshotError(
            f"the deletion vectors of table '{uri}' cannot be read: {error}. Purge them (REORG TABLE ... APPLY (PURGE)) and "
            "drop the feature (ALTER TABLE ... DROP FEATURE deletionVectors), or drop the feature that is named"
        ) from error
    return found


def _log_path(path: str, paths: set[str]) -> str:
    """The log's own name of a file whose full URL delta-rs gives."""
    if path in paths:
        return path
    at = path.find("/")
    while at >= 0:
        if path[at + 1 :] in paths:
            return path[at + 1 :]
        at = path.find("/", at + 1)
    raise SnapshotError(
        f"a deletion vector belongs to '{path}', which is no live file; run FSCK REPAIR TABLE, or report this"
    )


def _kept(
    files: tuple[DataFile, ...], by: Sequence[str], partitions: Mapping[str, Sequence[str | None]], uri: str
) -> tuple[DataFile, ...]:
    for name in partitions:
        if name not in by:
            raise SchemaError(
                f"'{name}' is not a partition column of table '{uri}'; it is partitioned by: {', '.join(by) or 'nothing'}"
            )
    wanted = {name: set(values) for name, values in partitions.items()}
    return tuple(f for f in files if all(_written(f.partition[name]) in values for name, values in wanted.items()))


def _written(value: Any) -> str | None:
    """A partition value as Spark writes it in the log."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fingerprint(files: tuple[DataFile, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.partition}\n".encode())
        if file.deleted is not None:
            digest.update(file.deleted.tobytes())
    return digest.hexdigest()[:16]


def _row_groups(files: tuple[DataFile, ...], fs: pyarrow.fs.FileSystem, root: str, uri: str, version: int) -> RowGroups:
    def footer(file: DataFile) -> list[int]:
        try:
            with pq.ParquetFile(_open_file(fs, root, file.path)) as parquet:
                metadata = parquet.metadata
                rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except FileNotFoundError as error:
            raise _gone(uri, version, file.path) from error
        except (pa.ArrowException, OSError) as error:
            raise SnapshotError(
                f"file '{file.path}' of version {version} of table '{uri}' is not a whole Parquet file: {error}. "
                "Restore the file, or pin another version"
            ) from error
        if file.records is not None and sum(rows) != file.records:
            raise SnapshotError(
                f"file '{file.path}' of version {version} of table '{uri}' holds {sum(rows)} rows, the log says {file.records}. "
                "It was changed behind Delta's back: restore the file, or pin another version"
            )
        return rows

    with ThreadPoolExecutor(_FOOTER_THREADS) as threads:
        counts = list(threads.map(footer, files))
    return _arrays(files, counts)


def _arrays(files: tuple[DataFile, ...], counts: list[list[int]]) -> RowGroups:
    rows = np.array([n for per_file in counts for n in per_file], np.int64)
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(per_file) for per_file in counts])
    index = np.array([i for per_file in counts for i in range(len(per_file))], np.int32)
    first = np.array([n for per_file in counts for n in [0, *np.cumsum(per_file)[:-1]][: len(per_file)]], np.int64)
    live = rows.copy()
    for group in np.flatnonzero([files[f].deleted is not None for f in file]):
        start = int(first[group])
        deleted = files[file[group]].deleted
        assert deleted is not None
        live[group] -= int(_bits(deleted, start, start + int(rows[group])).sum())
    return RowGroups(file, index, first, rows, live)


def _bits(packed: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.uint8]:
    """Bits [start, stop) of a packed mask; 0 past its end (a deletion vector may be shorter than its file)."""
    bits = np.unpackbits(packed[start // 8 : -(-stop // 8)])[start % 8 : start % 8 + stop - start]
    return np.pad(bits, (0, stop - start - len(bits)))


def _physical(field: pa.Field, parquet: pq.ParquetFile, by_id: bool) -> str | None:
    """A column's name inside a file; None where the file has no such column."""
    metadata = field.metadata or {}
    stored = parquet.schema_arrow
    if by_id:
        wanted = metadata[_FIELD_ID]
        return next((f.name for f in stored if (f.metadata or {}).get(b"PARQUET:field_id") == wanted), None)
    name: str = metadata[_PHYSICAL_NAME].decode() if _PHYSICAL_NAME in metadata else field.name
    return name if name in stored.names else None


def _as_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """An array as the table's type: widened, instants in UTC, lists of either layout."""
    if pa.types.is_fixed_size_list(array.type):
        offsets = np.arange(len(array) + 1, dtype=np.int32) * array.type.list_size
        array = pa.ListArray.from_arrays(pa.array(offsets), array.flatten())
    return array if array.type == wanted else array.cast(wanted)


def _filesystem(uri: str, options: dict[str, str]) -> tuple[pyarrow.fs.FileSystem, str]:
    """Where data files lie: the local disk by path, anything else through delta-rs, with the same credentials as the log."""
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(), uri
    return pyarrow.fs.PyFileSystem(DeltaStorageHandler(uri, options)), ""


def _open_file(filesystem: pyarrow.fs.FileSystem, root: str, path: str) -> pa.NativeFile:
    if "://" in path or path.startswith("file:/"):  # a shallow clone names its source's files whole
        filesystem, path = pyarrow.fs.FileSystem.from_uri(path)
        return filesystem.open_input_file(path)
    return filesystem.open_input_file(f"{root}/{path}" if root else path)


def _plain(uri: str) -> str:
    """A local path without its scheme; other URLs as they are."""
    if uri.startswith("dbfs:/"):
        return "/dbfs/" + uri.removeprefix("dbfs:/").lstrip("/")
    if uri.startswith("file:"):
        uri = unquote(urlparse(uri).path)
    return uri.rstrip("/") if "://" in uri else os.path.abspath(uri)


def _gone(uri: str, version: int, path: str) -> SnapshotError:
    return SnapshotError(
        f"file '{path}' of version {version} of table '{uri}' is gone; VACUUM deletes the files of old versions. "
        "Pin a later version, or keep files for longer (delta.deletedFileRetentionDuration)"
    )
