"""A bundle's predictions of the rows of a Delta table, read where they are scored: no row passes through the JVM on its
way to the model.

Spark schedules pieces of the pinned version's files; each task reads its row groups with the training's own reader
(deletion vectors, column mapping, partition values and all) and gives a key and the answers to Spark, which writes them
as any other rows, in one commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    from training.data.delta_log import open_log

    options = dict(storage_options or {})
    log = open_log(table, version, options)
    held = {field.name: field.type for field in log.schema}
    columns = inputs_of(bundle_schema(bundle_path))
    wanted = [one for one in columns if one.kind is not Kind.POSITION or one.name in held]
    _check(held, wanted, key, log.uri, bundle_path)
    pinned, table_id, asked = log.version, log.table_id, [*dict.fromkeys((key, *(one.name for one in wanted)))]
    count = len(pieces_of([file.size for file in log.live_files()]))

    def answer(batches: Batches) -> Iterator[pa.RecordBatch]:
        source, files = _files(table, pinned, table_id, tuple(sorted(options.items())))
        pieces, (_, model) = pieces_of([file.size for file in files]), opened(bundle_path)
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for piece in pieces[number]:
                    groups = _groups(source, files[piece.file], piece, asked, held[key], key)
                    parts = (part for group in groups for part in parts_of(group, wanted))
                    yield from (answers_to(part, model, wanted, key, names) for part in parts)

    answers = ", ".join([f"{key} {KEYS[held[key]]}", *(f"{name} array<float>" for name in names)])
    return spark.range(0, count, 1, max(count, 1)).mapInArrow(answer, answers)


def pieces_of(sizes: Sequence[int], most: int = BYTES) -> list[list[Piece]]:
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
