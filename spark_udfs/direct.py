"""A bundle's predictions of the rows of a Delta table, read where they are scored: no row passes through the JVM on its
way to the model.

Spark schedules pieces of the pinned version's files; each task reads its row groups with the training's own reader
(deletion vectors, column mapping, partition values and all). The answers go to Spark as rows (`predicted_from`), or
into files that the task writes itself (spark_udfs/answer_files.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from spark_udfs.scoring import answers_to, bundle_schema, inputs_of, opened, parts_of
from training.errors import SchemaError, TableError
from training.schema import Column, Kind

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_udfs.lists import Batches
    from training.data.delta_log import DataFile
    from training.data.parquet import Source

BYTES = 128 << 20  # of files that a task reads, about
KEYS = {pa.int64(): "bigint", pa.string(): "string"}


class Piece(NamedTuple):
    """Some of a file's row groups: those g of G for which g * parts // G is `part`."""

    file: int
    part: int
    parts: int


@dataclass(frozen=True)
class Asked:
    """The rows of one version of a Delta table, and the bundle that answers them; it goes to the workers.

    Attributes:
        table: the table's path or URL.
        version: the Delta version.
        table_id: the table's own id.
        options: credentials for an object store.
        bundle_path: the bundle's folder.
        columns: of the table, which the bundle takes in.
        key: the column that tells rows apart.
        key_type: its type in the table.
        names: of the answers.
        most: bytes of files that a task reads, about.
        tasks: how many there are.
    """

    table: str
    version: int
    table_id: str
    options: tuple[tuple[str, str], ...]
    bundle_path: str
    columns: tuple[Column, ...]
    key: str
    key_type: pa.DataType
    names: tuple[str, ...]
    most: int
    tasks: int

    @property
    def schema(self) -> str:
        """The answers' columns, in Spark's words."""
        return ", ".join([f"`{self.key}` {KEYS[self.key_type]}", *(f"`{name}` array<float>" for name in self.names)])

    def answers(self, task: int) -> Iterator[pa.RecordBatch]:
        """A task's rows answered: `key` and the answers, some thousand at a time."""
        source, files = _files(self.table, self.version, self.table_id, self.options)
        _, model = opened(self.bundle_path)
        columns = [*dict.fromkeys((self.key, *(one.name for one in self.columns)))]
        for piece in pieces_of([file.size for file in files], self.most)[task]:
            for group in _groups(source, files[piece.file], piece, columns, self.key_type, self.key):
                for part in parts_of(group, self.columns):
                    yield answers_to(part, model, self.columns, self.key, self.names)


def asked_of(
    table: str,
    bundle_path: str,
    *,
    key: str,
    names: Sequence[str],
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Asked:
    """Pin a version of a table, and see that a bundle can answer its rows; see `predicted_from`."""
    from training.data.delta_log import open_log

    options = dict(storage_options or {})
    log = open_log(table, version, options)
    held = {field.name: field.type for field in log.schema}
    wanted = [one for one in inputs_of(bundle_schema(bundle_path)) if one.kind is not Kind.POSITION or one.name in held]
    _check(held, wanted, key, log.uri, bundle_path)
    tasks = len(pieces_of([file.size for file in log.live_files()], BYTES))
    return Asked(
        log.uri, log.version, log.table_id, tuple(sorted(options.items())), bundle_path, tuple(wanted), key, held[key],
        tuple(names), BYTES, tasks,
    )  # fmt: skip


def predicted_from(
    spark: SparkSession,
    table: str,
    bundle_path: str,
    *,
    key: str,
    names: Sequence[str],
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> DataFrame:
    """What `spark_udfs.scoring.predicted` gives of all rows of a Delta table; each worker reads the rows itself.

    A task holds a row group's columns of the bundle's inputs. The driver gets the list of the version's files, and so
    does each worker.

    Args:
        spark: a session whose executors reach the table and the bundle.
        table: the table's path or URL. It has the columns that `predicted` asks of its rows.
        bundle_path: a bundle's folder, readable on every executor.
        key: the column that tells rows apart, bigint or string; it may be an input too.
        names: of the answers of the model's `predict`.
        version: of the table; None: the newest as of this call.
        storage_options: credentials for an object store (docs/loader.md).

    Returns:
        `key` and each answer (array<float>), a row's numbers one after the other; null where the model has none such.

    Raises:
        BundleError: the bundle is torn.
        SchemaError: the table lacks columns of the bundle's schema, or has them of another type.
        TableError: there is no such table or version.
    """
    asked = asked_of(table, bundle_path, key=key, names=names, version=version, storage_options=storage_options)
    return answered(spark, asked)


def answered(spark: SparkSession, asked: Asked) -> DataFrame:
    """The answers as rows; see `predicted_from`."""

    def answer(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_pylist():
                yield from asked.answers(task)

    return spark.range(0, asked.tasks, 1, max(asked.tasks, 1)).mapInArrow(answer, asked.schema)


def pieces_of(sizes: Sequence[int], most: int) -> list[list[Piece]]:
    """Each task's pieces: large files are cut, small ones go together.

    Args:
        sizes: bytes of each file.
        most: bytes of a task, about.
    """
    tasks, filled = list[list[Piece]](), most
    for file, size in enumerate(sizes):
        parts = max(1, -(-size // most))
        for part in range(parts):
            if filled + size // parts > most:
                tasks.append([])
                filled = 0
            tasks[-1].append(Piece(file, part, parts))
            filled += size // parts
    return tasks


@lru_cache(maxsize=2)
def _files(
    table: str, version: int, table_id: str, options: tuple[tuple[str, str], ...]
) -> tuple[Source, tuple[DataFile, ...]]:
    """A version's files and how they are read, opened once by each worker.

    Raises:
        TableError: another table lies there by now.
    """
    from training.data.delta_log import filesystems, open_log, with_vectors
    from training.data.parquet import Source

    given = dict(options)
    log = open_log(table, version, given)
    if log.table_id != table_id:
        raise TableError(
            f"'{log.uri}' was table {table_id} when the job began, and is {log.table_id} now: it was removed and made "
            "anew. Score again"
        )
    files = with_vectors(log, log.live_files(), given)
    by_id = log.properties.get("delta.columnMapping.mode") == "id"
    return Source(log.uri, log.version, log.schema, filesystems(log.uri, files, given), by_id), files


def _groups(
    source: Source, file: DataFile, piece: Piece, columns: Sequence[str], key_type: pa.DataType, key: str
) -> Iterator[pa.RecordBatch]:
    """The live rows of a piece, a row group at a time."""
    from training.data.deletion_vectors import live_rows

    footer = source.metadata(file)
    counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    first = np.cumsum([0, *counts])
    for number, rows in enumerate(counts):
        if number * piece.parts // len(counts) != piece.part:
            continue
        arrays = source.read(file, number, columns)
        arrays[key] = arrays[key].cast(key_type)
        held = pa.record_batch(list(arrays.values()), list(arrays))
        if file.vector is not None:
            held = held.take(pa.array(live_rows(source.deleted(file), int(first[number]), rows)))
        yield held


def _check(held: Mapping[str, pa.DataType], wanted: Sequence[Column], key: str, uri: str, bundle_path: str) -> None:
    """Compare a table's columns with what a bundle reads.

    Raises:
        SchemaError: they are missing or of another type; all of them are listed.
    """
    problems = [] if held.get(key) in KEYS else [f"'{key}' must be bigint or string, it is {held.get(key, 'missing')}"]
    for column in wanted:
        kind = pa.int64() if column.kind in (Kind.ID, Kind.IDS, Kind.POSITION) else pa.float32()
        kind = pa.binary() if column.kind is Kind.IMAGE else kind
        is_list, found = column.is_ragged or column.length is not None, held.get(column.name)
        element = found.value_type if found is not None and pa.types.is_list(found) else None
        if (element if is_list else found) != kind:
            must = f"list<{kind}>" if is_list else str(kind)
            problems.append(f"'{column.name}' must be {must}, it is {'missing' if found is None else found}")
    if problems:
        raise SchemaError(
            f"table '{uri}' for bundle '{bundle_path.rstrip('/').rpartition('/')[2]}': {'; '.join(problems)}; write it "
            "with these types, or score a DataFrame of it with spark_udfs.scoring.predicted"
        )
