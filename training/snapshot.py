"""One version of a Delta table, as files, row groups, deleted rows and partition values. No JVM, no copy.

Delta-rs (deltalake) reads the log: which files are live at a version, which rows deletion vectors delete (by physical
row number), the partition values, the columns' physical names. `training.parquet` reads the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from numpy.typing import NDArray

from training.errors import SchemaError, SnapshotError, TableError
from training.parquet import DataFile, RowGroups, Source, bits
from training.storage import reason, split_root

# Reader features that this module and training.parquet honour, or that leave data files as they are.
READER_FEATURES = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
    }
)
# Nothing is lost yet while a table is opened, so a store that does not answer is given up sooner than while training.
_OPENING = {"retry_timeout": "30s"}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A pinned version of a Delta table, opened by `open_snapshot`.

    Attributes:
        uri: the table's path or URL.
        version: the Delta version.
        fingerprint: sixteen hex digits of the live files, their partition values and their deleted rows.
        schema: logical columns with their types, in the table's order.
        files: live files, sorted by path.
        groups: their row groups.
        source: how they are read.
        properties: the table's properties at this version.
    """

    uri: str
    version: int
    fingerprint: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    groups: RowGroups
    source: Source
    properties: Mapping[str, str]

    @property
    def rows(self) -> int:
        """Live rows."""
        return int(self.groups.live.sum())

    def describe(self, group: int) -> str:
        """A row group's place, for errors."""
        return f"row group {self.groups.number[group]} of {self.source.place(self.files[self.groups.file[group]])}"

    def live_rows(self, group: int) -> NDArray[np.int64]:
        """Row numbers, within a row group, that are not deleted."""
        file, rows = self.files[self.groups.file[group]], int(self.groups.rows[group])
        if file.deleted is None:
            return np.arange(rows)
        first = int(self.groups.first[group])
        return np.flatnonzero(bits(file.deleted, first, first + rows) == 0)

    def read_group(self, group: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """All physical rows of a row group, deleted ones too, by logical name.

        Raises:
            SnapshotError: the file is gone or cannot be read; names it, the row group, the version and a remedy.
        """
        return self.source.read(self.files[self.groups.file[group]], int(self.groups.number[group]), columns)


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
        storage_options: credentials and the like for the object store, by delta-rs's names; environment variables of
            these names hold for what is not given.

    Raises:
        TableError: there is no Delta table, or its folder or object store cannot be reached.
        SchemaError: a named column, or partition column, does not exist.
        SnapshotError: the version is not there, a file of it is gone or not what the log says, or the table uses a
            reader feature that Millrace does not know.
    """
    uri = _plain(uri)
    options = dict(storage_options or {})
    table = _open_table(uri, version, options)
    _check_features(table, uri)
    whole = pa.schema(table.schema().to_arrow())
    files = _kept(_live_files(table, uri), table.metadata().partition_columns, partitions or {}, uri)
    properties = dict(table.metadata().configuration)
    by_id = properties.get("delta.columnMapping.mode") == "id"
    source = Source(uri, table.version(), whole, _filesystems(uri, files, options), by_id)
    return Snapshot(
        uri=uri,
        version=table.version(),
        fingerprint=_fingerprint(files),
        schema=_columns(whole, columns, uri),
        files=files,
        groups=source.row_groups(files),
        source=source,
        properties=properties,
    )


def read_table(snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """A small table whole: live rows only, partition values filled in, nulls kept, in the order of files and rows.

    Raises:
        SchemaError: a column does not exist.
        SnapshotError: a file cannot be read.
    """
    schema = pa.schema([field.remove_metadata() for field in _columns(snapshot.schema, columns, snapshot.uri)])
    parts = []
    for group in range(len(snapshot.groups)):
        table = pa.table(snapshot.read_group(group, schema.names), schema=schema)
        live = snapshot.live_rows(group)
        parts.append(table if len(live) == table.num_rows else table.take(pa.array(live)))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _open_table(uri: str, version: int | None, options: dict[str, str]) -> DeltaTable:
    try:
        return DeltaTable(uri, version=version, storage_options={**_OPENING, **options})
    except TableNotFoundError as error:
        raise TableError(
            f"there is no Delta table at '{uri}' ({reason(error)}). Write it first, or correct the path"
        ) from error
    except DeltaError as error:
        wanted = "the newest version" if version is None else f"version {version}"
        raise SnapshotError(
            f"{wanted} of table '{uri}' cannot be opened: {reason(error)}. A version that is still to come, that "
            "log clean-up removed, or that needs an unknown reader feature cannot be pinned; see DESCRIBE HISTORY"
        ) from error
    except OSError as error:
        remedy = (
            "See that bucket, region and endpoint are right and that this process has credentials: AWS_ACCESS_KEY_ID, "
            "AWS_ENDPOINT_URL and the like in its environment, or storage_options (docs/loader.md)"
            if "://" in uri
            else "See that this process may read it"
        )
        raise TableError(f"table '{uri}' cannot be reached: {reason(error)}. {remedy}") from None


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
            f"table '{uri}' has no column {', '.join(repr(name) for name in missing)}; "
            f"it has: {', '.join(schema.names)}. Build the table again with these columns, or correct the names"
        )
    return pa.schema([schema.field(name) for name in columns])


def _live_files(table: DeltaTable, uri: str) -> tuple[DataFile, ...]:
    actions = pa.table(table.get_add_actions())
    partitioned = bool(table.metadata().partition_columns)
    partitions = actions.column("partition").to_pylist() if partitioned else [{}] * actions.num_rows
    paths = actions.column("path").to_pylist()
    deleted = _deletion_vectors(table, paths, uri)
    rows = zip(paths, actions["size_bytes"].to_pylist(), actions["num_records"].to_pylist(), partitions, strict=True)
    files = [DataFile(unquote(path), size, records, values, deleted.get(path)) for path, size, records, values in rows]
    return tuple(sorted(files, key=lambda file: file.path))


def _deletion_vectors(table: DeltaTable, paths: Sequence[str], uri: str) -> dict[str, NDArray[np.uint8]]:
    """Deleted rows as packed bits, by the path that the log writes."""
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return {}
    logged = {unquote(path): path for path in paths}
    found: dict[str, NDArray[np.uint8]] = {}
    try:
        for batch in table.deletion_vectors():
            vectors = pa.record_batch(batch)
            for path, mask in zip(vectors["filepath"].to_pylist(), vectors["selection_vector"], strict=True):
                found[_log_path(path, logged)] = np.packbits(~mask.values.to_numpy(zero_copy_only=False))
    except DeltaError as error:
        raise SnapshotError(
            f"the deletion vectors of table '{uri}' cannot be read: {reason(error)}. Purge them (REORG ... APPLY "
            "(PURGE)), then drop the feature (ALTER TABLE ... DROP FEATURE deletionVectors), or the one that is named"
        ) from error
    return found


def _log_path(url: str, logged: Mapping[str, str]) -> str:
    """The log's own name of a file whose URL delta-rs gives: the part of it that names a live file."""
    path = unquote(url)
    at = -1
    while path[at + 1 :] not in logged:
        at = path.find("/", at + 1)
        if at < 0:
            raise SnapshotError(f"a deletion vector belongs to '{url}', which is no live file; run FSCK REPAIR TABLE")
    return logged[path[at + 1 :]]


def _kept(
    files: tuple[DataFile, ...], by: Sequence[str], partitions: Mapping[str, Sequence[str | None]], uri: str
) -> tuple[DataFile, ...]:
    for name in partitions:
        if name not in by:
            raise SchemaError(
                f"'{name}' is not a partition column of table '{uri}'; those are: {', '.join(by) or 'none'}. "
                "Name one of them, or partition the table by it"
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


def _filesystems(uri: str, files: Sequence[DataFile], options: dict[str, str]) -> dict[str, pyarrow.fs.FileSystem]:
    """Where data files lie: the local disk by path, all else through delta-rs, with the same credentials as the log.

    Delta-rs asks a store for a file's size, and holds Python's lock meanwhile, unless it is told: so it is told.
    """
    sizes: dict[str, dict[str, int]] = {"": {}}
    for file in files:
        root, path = split_root(file.path)
        sizes.setdefault(root, {})[path] = file.size
    return {root: _filesystem(root or uri, known, options) for root, known in sizes.items()}


def _filesystem(place: str, sizes: dict[str, int], options: dict[str, str]) -> pyarrow.fs.FileSystem:
    if "://" in place:
        return pyarrow.fs.PyFileSystem(DeltaStorageHandler(place, options, sizes))
    return pyarrow.fs.SubTreeFileSystem(place, pyarrow.fs.LocalFileSystem())


def _plain(uri: str) -> str:
    """A local path without its scheme; other URLs as they are."""
    if uri.startswith("dbfs:/"):
        return "/dbfs/" + uri.removeprefix("dbfs:/").lstrip("/")
    if uri.startswith("file:"):
        uri = unquote(urlparse(uri).path)
    return uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
