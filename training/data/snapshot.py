"""One version of a Delta table, as files, row groups, deleted rows and partition values. No JVM, no copy.

`delta_log` knows which files are live at a version, `row_groups` how many rows their row groups hold, and `parquet`
reads them, all in this folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from training.data.deletion_vectors import live_rows
from training.data.delta_log import DataFile, Log, filesystems, open_log, with_vectors
from training.data.parquet import Source
from training.data.row_groups import RowGroups, count_rows, count_together
from training.errors import SchemaError, SnapshotError

if TYPE_CHECKING:
    from training.world import World


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
        if file.vector is None:
            return np.arange(rows)
        return live_rows(self.source.deleted(file), int(self.groups.first[group]), rows)

    def read_group(self, group: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """All physical rows of a row group, deleted ones too, by logical name.

        Raises:
            SnapshotError: the file is gone, cannot be read, or holds other rows than when they were counted; names it,
                the row group, the version and a remedy.
        """
        arrays = self.source.read(self.files[self.groups.file[group]], int(self.groups.number[group]), columns)
        for name, array in arrays.items():
            if len(array) != self.groups.rows[group]:
                raise SnapshotError(
                    f"{self.describe(group)} must hold the {self.groups.rows[group]} rows that were counted when the "
                    f"version was opened; column '{name}' holds {len(array)}: the file was changed behind Delta's "
                    "back. Restore the file, or pin another version"
                )
        return arrays


def open_snapshot(
    uri: str,
    version: int | None = None,
    *,
    columns: Sequence[str] | None = None,
    partitions: Mapping[str, Sequence[str | None]] | None = None,
    storage_options: Mapping[str, str] | None = None,
    world: World | None = None,
) -> Snapshot:
    """Pin a version of a Delta table.

    Args:
        uri: a local path or an object store's URL.
        version: the Delta version; None is the newest.
        columns: keep these, in this order; None keeps all.
        partitions: keep only files whose partition column has one of these values, written as Spark writes them.
        storage_options: credentials and the like for the object store, by delta-rs's names; environment variables of
            these names hold for what is not given.
        world: the ranks that all open this version: each then reads its share of the footers, and tells the others.

    Raises:
        NoTableError: there is no Delta table; TableError: its folder or object store cannot be reached.
        SchemaError: a named column, or partition column, does not exist.
        SnapshotError: the version is not there, a file of it is gone or not what the log says, or the table uses a
            reader feature that Millrace does not know.
    """
    options = storage_options or {}
    log = open_log(uri, version, options)
    schema = _columns(log.schema, columns, log.uri)
    files = with_vectors(log, _kept(log, partitions or {}), options)
    fingerprint = _fingerprint(files)
    by_id = log.properties.get("delta.columnMapping.mode") == "id"
    source = Source(log.uri, log.version, log.schema, filesystems(log.uri, files, options), by_id)
    return Snapshot(
        uri=log.uri,
        version=log.version,
        fingerprint=fingerprint,
        schema=schema,
        files=files,
        groups=count_rows(source, files) if world is None else count_together(source, files, fingerprint, world),
        source=source,
        properties=log.properties,
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
        table = pa.table(snapshot.read_group(group, schema.names)).cast(schema)
        live = snapshot.live_rows(group)
        parts.append(table if len(live) == table.num_rows else table.take(pa.array(live)))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def read_rows(snapshot: Snapshot, column: str, values: Collection[str], columns: Sequence[str]) -> pa.Table:
    """The live rows with one of some values in a column of texts; a row group is held at a time.

    Raises:
        SchemaError: a column does not exist.
        SnapshotError: a file cannot be read.
    """
    schema = pa.schema([field.remove_metadata() for field in _columns(snapshot.schema, columns, snapshot.uri)])
    wanted, parts = pa.array(sorted(values), pa.string()), [schema.empty_table()]
    for group in range(len(snapshot.groups)):
        live = snapshot.live_rows(group)
        held = snapshot.read_group(group, [column])[column].cast(pa.string()).take(pa.array(live))
        rows = live[pc.is_in(held, value_set=wanted).to_numpy(zero_copy_only=False)]
        if len(rows):
            parts.append(pa.table(snapshot.read_group(group, schema.names)).cast(schema).take(pa.array(rows)))
    return pa.concat_tables(parts)


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


def _kept(log: Log, partitions: Mapping[str, Sequence[str | None]]) -> list[DataFile]:
    for name in partitions:
        if name not in log.partitioned_by:
            raise SchemaError(
                f"'{name}' is not a partition column of table '{log.uri}'; those are: "
                f"{', '.join(log.partitioned_by) or 'none'}. Name one of them, or partition the table by it"
            )
    wanted = {name: set(values) for name, values in partitions.items()}
    return [
        file
        for file in log.live_files()
        if all(_written(file.partition[name]) in values for name, values in wanted.items())
    ]


def _written(value: Any) -> str | None:
    """A partition value as Spark writes it in the log."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fingerprint(files: tuple[DataFile, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.partition}\n".encode())
        if file.vector is not None:
            digest.update(f"{file.vector}\n".encode())
    return digest.hexdigest()[:16]
