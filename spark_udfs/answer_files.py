"""Answers written where they are made: each task puts what it answers into a Parquet file of its own, and one small row
a file goes to the driver, for a commit that takes all files in at once (jobs/added_files.py).

A file that no commit names is nothing to a reader of the table: its name is drawn anew for each attempt of a task, who
fails takes it away, and what a killed one leaves goes with VACUUM. A task that Spark runs twice writes two files, and
the driver is told of one.
"""

from __future__ import annotations

import inspect
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.data.storage import LOCAL, from_store, reason, split_root
from training.errors import TableError

if TYPE_CHECKING:
    import pyarrow.fs
    from pyspark.sql import SparkSession

    from spark_udfs.direct import Asked
    from spark_udfs.lists import Batches

GROUP_BYTES = 64 << 20  # of answers, in memory, that become a row group
LONGEST = 32  # characters of a text that Delta keeps in a file's statistics; of longer ones it has no use for the whole
CODECS = {"uncompressed": "none", "lz4_raw": "lz4"}  # Spark's names where Arrow has others
_REMOVERS = 16
# A checksum for each page, as Spark writes it, where Arrow can.
_CHECKED = {
    name: True for name in ("write_page_checksum",) if name in inspect.signature(pq.ParquetWriter.__init__).parameters
}
_FILES = "path string, size bigint, modified bigint, rows bigint, stats string"


class Written(NamedTuple):
    """A file of answers.

    Attributes:
        path: relative to the table's folder, as it is on the file system.
        size: bytes.
        modified: milliseconds since 1970.
        rows: how many answers.
        stats: Delta's statistics of it (JSON).
    """

    path: str
    size: int
    modified: int
    rows: int
    stats: str


def write_answers(
    spark: SparkSession,
    asked: Asked,
    root: str,
    folder: str,
    *,
    codec: str,
    storage_options: Mapping[str, str] | None = None,
) -> list[Written]:
    """Have the workers write all answers into files; if one of them fails, none is left, but of those that are stopped.

    A task holds a row group's columns of the bundle's inputs, and GROUP_BYTES of answers. The driver gets a row for
    each task that had rows.

    Args:
        spark: a session whose executors reach both tables and the bundle.
        asked: what is answered.
        root: the folder of the table that shall have them, a path or URL.
        folder: where in it they go.
        codec: how they are compressed, in Spark's words.
        storage_options: credentials for the object store of `root`.

    Raises:
        TableError: what an executor has written is not there for the driver.
    """
    options, run = dict(storage_options or {}), uuid.uuid4().hex

    def write(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                written = _write(asked.answers(task), _place(root, options), folder, run, asked.key, codec)
                if written is not None:
                    yield pa.record_batch([pa.array([value]) for value in written], list(Written._fields))

    tasks = spark.range(0, asked.tasks, 1, max(asked.tasks, 1))
    try:
        files = [Written(*row) for row in tasks.mapInArrow(write, _FILES).collect()]
        _refuse_absent(_place(root, options), root, files)
    except BaseException:
        with suppress(OSError):
            _remove(_place(root, options), _paths_of(_place(root, options), folder, run))
        raise
    return files


def remove_files(root: str, files: Sequence[Written], storage_options: Mapping[str, str] | None = None) -> None:
    """Take away files that no commit has taken in; what cannot be removed stays for VACUUM."""
    _remove(_place(root, dict(storage_options or {})), [file.path for file in files])


def _remove(place: pyarrow.fs.FileSystem, paths: Sequence[str]) -> None:
    def remove(path: str) -> None:
        with suppress(OSError):
            place.delete_file(path)

    with ThreadPoolExecutor(_REMOVERS) as threads:
        list(threads.map(remove, paths))


def _paths_of(place: pyarrow.fs.FileSystem, folder: str, run: str) -> list[str]:
    """The files that one run has left."""
    from pyarrow.fs import FileSelector

    held = place.get_file_info(FileSelector(folder, allow_not_found=True))
    return [found.path for found in held if found.base_name.startswith(f"part-{run}-")]


def _place(root: str, options: dict[str, str]) -> pyarrow.fs.FileSystem:
    from training.data.delta_log import filesystem

    kind, path = split_root(root)
    return filesystem(path if kind == LOCAL else root, {}, options)


def _write(
    answers: Iterable[pa.RecordBatch], place: pyarrow.fs.FileSystem, folder: str, run: str, key: str, codec: str
) -> Written | None:
    """One file of all these; None, and no file, of no rows.

    Raises:
        TableError: it cannot be written.
    """
    groups = _groups(answers)
    first = next(groups, None)
    if first is None:
        return None
    path = "/".join([folder, f"part-{run}-{uuid.uuid4()}.{codec}.parquet"])
    stats = _Stats(key, first.column_names)
    try:
        place.create_dir(folder, recursive=True)
        options = {"compression": CODECS.get(codec, codec), "use_dictionary": False, **_CHECKED}
        with place.open_output_stream(path) as stream:
            with pq.ParquetWriter(stream, first.schema, **options) as writer:
                for group in (first, *groups):
                    stats.add(group)
                    writer.write_table(group, row_group_size=group.num_rows)
            size = stream.tell()
    except BaseException as error:  # a task that is stopped too
        with suppress(OSError):
            place.delete_file(path)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from (None if from_store(error) else error)
        raise
    return Written(path, size, time.time_ns() // 1_000_000, stats.rows, stats.json())


def _unwritable(path: str, error: OSError) -> TableError:
    return TableError(
        f"file '{path}' of the answers' table cannot be written: {reason(error)}. See that executors may write there, "
        "that there is room, and that the store answers and their credentials still hold (docs/loader.md)"
    )


def _groups(answers: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Answers as row groups of about GROUP_BYTES."""
    held, size = list[pa.RecordBatch](), 0
    for batch in answers:
        if not batch.num_rows:
            continue
        held.append(batch)
        size += batch.nbytes
        if size >= GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held)


class _Stats:
    """What Delta keeps of a file, so that who looks for a key need not open it."""

    def __init__(self, key: str, columns: Sequence[str]) -> None:
        self.rows, self._key, self._nulls = 0, key, dict.fromkeys(columns, 0)
        self._ends: list[Any] = []

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        for name in self._nulls:
            self._nulls[name] += rows[name].null_count
        self._ends += [end for end in pc.min_max(rows[self._key]).as_py().values() if end is not None]

    def json(self) -> str:
        told = {"numRecords": self.rows, "nullCount": self._nulls}
        if self._ends and not any(isinstance(end, str) and len(end) > LONGEST for end in self._ends):
            told |= {name: {self._key: of(self._ends)} for name, of in (("minValues", min), ("maxValues", max))}
        return json.dumps(told)


def _refuse_absent(place: pyarrow.fs.FileSystem, root: str, files: Sequence[Written]) -> None:
    """See that the driver finds what the executors have written, where it is no store that they share.

    Raises:
        TableError: it does not.
    """
    from pyarrow.fs import SubTreeFileSystem

    if not isinstance(place, SubTreeFileSystem):
        return
    held = place.get_file_info([file.path for file in files])
    for file, found in zip(files, held, strict=True):
        if found.size != file.size:
            raise TableError(
                f"'{root}/{file.path}', which an executor has written, must be there for the driver with {file.size:,} "
                "bytes, and is not: the table's folder must be one that all hosts mount, or an object store. Nothing "
                "was committed"
            )
