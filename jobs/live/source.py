"""Rows as they come: files that are moved into a folder, or rows that are added to a Delta table.

Structured Streaming says which files or versions are new and remembers it; the rows are read and typed as `ingest`
reads and types those of the history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql.types import StringType, StructField, StructType

from jobs import file_endings, ingest_rules, source_rows, sources
from jobs.erasure import erased
from jobs.settings_sources import TableSource
from jobs.source import LITERAL, Raw, Source
from jobs.table_writes import MICROSECONDS
from jobs.tables import Tables
from jobs.task import said_persons
from training.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pyspark.sql import DataFrame

    from jobs.live.progress import Progress
    from jobs.settings import Settings
    from spark_udfs.erased import Erased

EVER = "36500d"  # Spark passes over what is a week older than the newest, where it is not told
LISTED = "path string, modificationTime timestamp, length bigint, content binary"  # Spark's of files as they are
# What a batch is planned under: a second's rows are few, and planning anew after each stage takes longer than they do.
AS_FEW_ROWS = {"spark.sql.adaptive.enabled": "false"}
READING = ingest_rules.CORRECT_TIMES | sources.AS_TEXTS | MICROSECONDS | AS_FEW_ROWS


def asked_of(settings: Settings, table: str) -> TableSource:
    """How rows are written: as those of the history, at the stream's own place.

    Raises:
        SettingsError: no place is named, or the history's; or rows have no time of their own, or are periods.
    """
    held, stream = settings.sources.get(table, TableSource()), settings.stream
    if stream.path is None:
        raise SettingsError("stream.path must name the folder or the Delta table that rows come into; it is not set")
    asked = held.model_copy(update={"path": stream.path, "table": None, "format": stream.format or held.format})
    if asked.wide is not None or asked.order_by_hash_of:
        raise SettingsError(
            f"sources.{table} must have rows with times of their own where they are followed; it has "
            f"{'wide' if asked.wide else 'order_by_hash_of'}: leave that out, or score in batches"
        )
    if asked.format != "delta" and held.path == stream.path:
        raise SettingsError(
            f"stream.path must be another folder than that of the history, sources.{table}.path, whose files would all "
            f"come again; both are '{stream.path}': move what comes from now on into a folder of its own"
        )
    return asked


def opened(tables: Tables, asked: TableSource, table: str, files: int, progress: Progress) -> DataFrame | None:
    """A stream of what is new: the files, or the rows of a Delta table; None: it has none since the history was read.

    Of a Delta table that the history is not of, all rows that it has now come first.
    """
    spark = tables.spark
    assert asked.path is not None
    if asked.format != "delta":
        of_files = {
            "maxFilesPerTrigger": str(files),
            "maxFileAge": EVER,
            "pathGlobFilter": file_endings.glob_of(asked.format),
        }
        return spark.readStream.format("binaryFile").schema(LISTED).options(**of_files).load(asked.path)
    folder, name = sources.delta_place(asked.path)
    theirs = Tables(spark, folder)
    if "after_version" not in progress.held:
        version, *of_table = (tables.made_from(table, "ingest") or {}).get("files", [None])
        progress.say(after_version=version if of_table == [theirs.id(name)] else None)
    after: int | None = progress.held["after_version"]
    # A file that was removed whole brings nothing: rows that the shop keeps no longer.
    reader = spark.readStream.format("delta").options(maxFilesPerTrigger=files, ignoreDeletes=True)
    if after is None:
        return reader.load(asked.path)
    return reader.option("startingVersion", after + 1).load(asked.path) if theirs.version(name) > after else None


def typed(
    settings: Settings,
    asked: TableSource,
    table: str,
    columns: Mapping[str, str],
    came: DataFrame,
    persons: Erased | None,
    later: Collection[str],
) -> DataFrame:
    """What came in a batch, typed: the task's columns, `row` (as it came) and `reason` (null: the row fits).

    Args:
        settings: the pipeline's.
        asked: how rows are written.
        table: the task's.
        columns: types, by column.
        came: a batch of `opened`.
        persons: who was erased.
        later: columns that rows may lack.

    Raises:
        SchemaError: another column is missing.
    """
    wanted = source_rows.wanted_of(asked, columns)
    raw = _raw(asked, f"sources.{table}", wanted, came, later)
    rows = source_rows.typed(raw.rows, asked, columns, wanted, raw.malformed)
    return erased.marked(rows, persons, said_persons(settings, table))


def _raw(asked: TableSource, place: str, wanted: Mapping[str, str], came: DataFrame, later: Collection[str]) -> Raw:
    if asked.format == "delta":
        table = Source(asked.path or "", place, asked, [], 0, {}, table=came)
        return sources.read(came.sparkSession, table, wanted, later=later)
    # As many as `stream.files` at most; those without a byte are not among them.
    paths = tuple(sorted(row["path"] for row in came.select("path").collect()))
    if not paths:
        texts = StructType([StructField(name, StringType()) for name in dict.fromkeys(wanted.values())])
        nothing = came.sparkSession.createDataFrame([], texts)
        return Raw(nothing, None, nothing.dtypes)
    files = Source(asked.path or "", place, asked, [], 0, LITERAL, files=paths)
    return sources.read(came.sparkSession, files, wanted, later=later)
