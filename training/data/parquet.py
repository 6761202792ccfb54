"""Data files of a pinned table version: one row group at a time as the table's columns.

What Delta's log says and a Parquet reader misses is applied here: physical column names and field ids, partition
values, columns added or widened after a file was written. Deleted rows are marked, not left out: a reader that takes
rows in another order anyway pays nothing for leaving them out itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from pyroaring import BitMap64

from training.data.deletion_vectors import read_vector
from training.data.delta_log import DataFile
from training.data.log_vectors import Vector
from training.data.recent import Recent
from training.data.storage import LOCAL, cut_short, from_store, reason, split_root
from training.errors import SchemaError, SnapshotError

# A parsed footer takes 3 to 9 times the bytes that it has in the file (pyarrow 14 and 26; small ones most).
_FOOTER_BYTES, _FOOTER_GROWS = 256_000_000, 9
_VECTOR_BYTES = 64_000_000
_GONE = (
    "is gone; VACUUM deletes the files of old versions. Pin a later version, or keep files for longer "
    "(delta.deletedFileRetentionDuration)"
)
_NULL_LIST = "Expected all lists to be of size"  # Arrow's words
# Spark writes a checksum for each page. Arrow looks at them from 15 on, where it is told to.
_CHECKED = {
    name: True for name in ("page_checksum_verification",) if name in inspect.signature(pq.ParquetFile).parameters
}
_PHYSICAL_NAME, _FIELD_ID = b"delta.columnMapping.physicalName", b"delta.columnMapping.id"


@dataclass(frozen=True, eq=False)
class Source:
    """Where a table version's files lie and how its columns are found in them.

    Attributes:
        uri: the table, for errors.
        version: the version, for errors.
        schema: logical columns, with the log's metadata.
        filesystems: of the table's folder, under the name "", and of the other places that its log names.
        by_id: columns are found by field id (column mapping mode `id`) instead of by physical name.
    """

    uri: str
    version: int
    schema: pa.Schema
    filesystems: Mapping[str, pyarrow.fs.FileSystem]
    by_id: bool
    _footers: Recent[pq.FileMetaData] = field(default_factory=lambda: Recent(_FOOTER_BYTES), repr=False)
    _vectors: Recent[BitMap64] = field(default_factory=lambda: Recent(_VECTOR_BYTES), repr=False)

    def place(self, file: DataFile) -> str:
        """A file by name, for errors."""
        return f"file '{file.path}' of version {self.version} of table '{self.uri}'"

    def identity(self, file: DataFile, columns: Sequence[str]) -> list[str]:
        """What decides the values that `read` gives: the file as it was written, and of each column what it is there.

        Not the columns' names in the table, which may be given to other columns while the file stays, nor its deletion
        vector, for deleted rows are read as well.
        """
        root, path = split_root(file.path)
        place = path if root == LOCAL else f"{root or self.uri}/{path}"
        return [place, str(file.size), str(file.modified), *(self._stored_as(name, file) for name in columns)]

    def metadata(self, file: DataFile) -> pq.FileMetaData:
        """A file's footer, parsed; parsing that of 1,000 row groups of 60 columns takes 80 ms, so the last are kept.

        Raises:
            SnapshotError: the file is gone, is not Parquet, or holds another number of rows than the log says.
        """
        return self._footers.get(file.path, lambda: self._parsed(file))

    def deleted(self, file: DataFile) -> BitMap64:
        """The physical rows of a file that its deletion vector deletes.

        Raises:
            SnapshotError: the vector is gone or damaged.
        """
        vector = file.vector
        assert vector is not None
        return self._vectors.get(vector, lambda: (self._bitmap(file, vector), vector.size))

    def read(self, file: DataFile, number: int, columns: Sequence[str]) -> dict[str, pa.Array]:
        """All physical rows of a row group, deleted ones too, by logical name and of the table's types.

        Strings and bytes come as `large_string` and `large_binary`.

        Raises:
            SnapshotError: the file is gone, cannot be read or has no such row group any more; names it, the row group,
                the version and a remedy.
            SchemaError: a list of a fixed size is null, which older Arrow cannot read; names the column.
        """
        try:
            far = isinstance(self.filesystems[split_root(file.path)[0]], pyarrow.fs.PyFileSystem)
            footer = self._counted(file, number)
            options = {"metadata": footer, "coerce_int96_timestamp_unit": "us", "pre_buffer": far, **_CHECKED}
            with self._open(file) as stored_in, pq.ParquetFile(stored_in, **options) as parquet:
                schema, rows = parquet.schema_arrow, footer.row_group(number).num_rows
                physical = {name: None if name in file.partition else self._physical(name, schema) for name in columns}
                stored = dict[str, pa.ChunkedArray]()
                for name, call in _calls(physical, schema, together=far):
                    try:
                        table = parquet.read_row_group(number, columns=call, use_threads=False)
                    except pa.ArrowInvalid as error:
                        if _NULL_LIST not in str(error):
                            raise
                        raise _null_list(name, f"row group {number} of {self.place(file)}") from error
                    stored.update(zip(table.column_names, table.columns, strict=True))
            return {name: self._column(name, stored.get(physical[name] or ""), file, rows) for name in columns}
        except FileNotFoundError as error:
            raise self._gone(file) from error
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(f"row group {number} of {self.place(file)} cannot be read", error) from _cause(error)

    def _counted(self, file: DataFile, number: int) -> pq.FileMetaData:
        """The footer of a file that had this row group when the version was opened."""
        footer = self.metadata(file)
        if number >= footer.num_row_groups:
            raise SnapshotError(
                f"row group {number} of {self.place(file)} must be there as when the version was opened; the file has "
                f"{footer.num_row_groups} row groups: the file was changed behind Delta's back. Restore the file, or "
                "pin another version"
            )
        return footer

    def _parsed(self, file: DataFile) -> tuple[pq.FileMetaData, int]:
        try:
            with self._open(file) as stored, pq.ParquetFile(stored) as parquet:
                metadata = parquet.metadata
        except FileNotFoundError as error:
            raise self._gone(file) from error
        except (pa.ArrowException, OSError) as error:
            rule = "cannot be read" if _refused(error) else "is not a whole Parquet file"
            raise _unreadable(f"{self.place(file)} {rule}", error) from _cause(error)
        if file.records is not None and metadata.num_rows != file.records:
            raise SnapshotError(
                f"{self.place(file)} holds {metadata.num_rows} rows, the log says {file.records}: it was changed "
                "behind Delta's back. Restore the file, or pin another version"
            )
        return metadata, metadata.serialized_size * _FOOTER_GROWS

    def _bitmap(self, file: DataFile, vector: Vector) -> BitMap64:
        what = f"the deletion vector of {self.place(file)}"
        try:
            return read_vector(self.filesystems, vector, self.place(file))
        except FileNotFoundError as error:
            raise SnapshotError(f"{what}, '{vector.path}', {_GONE}") from error
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(f"{what} cannot be read", error) from _cause(error)

    def _open(self, file: DataFile) -> pa.NativeFile:
        root, path = split_root(file.path)
        return self.filesystems[root].open_input_file(path)

    def _stored_as(self, name: str, file: DataFile) -> str:
        """A column's type, with its name or number inside files, or with the value that the log gives it."""
        kind = self.schema.field(name).type
        return f"{kind} = {file.partition[name]!r}" if name in file.partition else f"{kind} {self._mark(name)}"

    def _mark(self, name: str) -> str:
        """What finds a column inside files: its field id in mode `id`, else its physical name."""
        metadata = self.schema.field(name).metadata or {}
        mark: str = metadata[_FIELD_ID].decode() if self.by_id else metadata.get(_PHYSICAL_NAME, name.encode()).decode()
        return mark

    def _physical(self, name: str, stored: pa.Schema) -> str | None:
        """A column's name inside a file; None where the file has no such column."""
        mark = self._mark(name)
        if self.by_id:
            ids = {(field.metadata or {}).get(b"PARQUET:field_id"): field.name for field in stored}
            return ids.get(mark.encode())
        return mark if mark in stored.names else None

    def _column(self, name: str, stored: pa.ChunkedArray | None, file: DataFile, rows: int) -> pa.Array:
        wanted = _held_type(self.schema.field(name).type)
        if name in file.partition:
            return pa.repeat(pa.scalar(file.partition[name], wanted), rows)
        if stored is None:
            return pa.nulls(rows, wanted)
        # Arrow gives what has more than two gigabytes in pieces, so they are joined when they have the wide type.
        chunks = [_as_type(chunk, wanted) for chunk in stored.chunks]
        return chunks[0] if len(chunks) == 1 else pa.chunked_array(chunks, wanted).combine_chunks()

    def _gone(self, file: DataFile) -> SnapshotError:
        return SnapshotError(f"{self.place(file)} {_GONE}")


def _calls(physical: Mapping[str, str | None], schema: pa.Schema, *, together: bool) -> Iterator[tuple[str, list[str]]]:
    """The columns to ask for in one call each, and the logical name of the first of them.

    Column by column, for Arrow keeps a reader's pages until all columns of the call are read. A store takes its time
    for each answer, so it is asked for all columns at once, but for those that may have to be named in an error.
    """
    rest = dict[str, str]()
    for name, found in physical.items():
        if found is None:
            continue
        if not together or pa.types.is_fixed_size_list(schema.field(found).type):
            yield name, [found]
        else:
            rest[name] = found
    if rest:
        yield next(iter(rest)), list(rest.values())


def _null_list(name: str, where: str) -> SchemaError:
    return SchemaError(
        f"column '{name}' is written as a list of a fixed size, and such lists may hold no nulls: one list is null, in "
        f"{where}. Leave these rows out where the table is built, or write the column as a list of any length"
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


def _held_type(kind: pa.DataType) -> pa.DataType:
    """A column's type while it is held: strings and bytes may be more than 32-bit offsets can count."""
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary(kind) else kind


def _as_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """An array as the table's type: widened, instants in UTC, lists of any layout."""
    if pa.types.is_fixed_size_list(array.type) or _is_list_view(array.type):
        # Arrow's own cast from a list view leaves the last offset out (pyarrow 26).
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        nulls = array.is_null() if array.null_count else None
        array = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array.flatten(), mask=nulls)
    return array if array.type == wanted else array.cast(wanted)


def _is_list_view(kind: pa.DataType) -> bool:
    """Older Arrow has no such lists."""
    named = (getattr(pa.types, name, None) for name in ("is_list_view", "is_large_list_view"))
    return any(is_one is not None and is_one(kind) for is_one in named)
