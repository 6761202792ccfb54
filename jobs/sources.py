"""Raw rows where they lie: files of CSV, of JSON lines or of Parquet, or a pinned Delta table.

Text stays text and types are never guessed; Parquet and Delta times keep their type. What is read is what was listed: a
folder with its subfolders, and a path that exists as it stands is that path, whatever brackets it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, DateType, StructField, TimestampNTZType, TimestampType

from jobs import catalogue_tables, picture_sources, source_files
from jobs.catalogue_tables import Named
from jobs.sessions import SPARK_ERRORS
from jobs.settings import Settings
from jobs.settings_sources import SourceSettings
from jobs.simulate import raw_tables
from jobs.source import Raw, Source, column
from jobs.tables import Tables
from training.errors import DataError, SchemaError, SnapshotError, TableError

UNKNOWN_SIZE = 1 << 50  # bytes, for as many tasks as the session is set up for
ORDER_LINES_TABLE = "order_lines"
# Every charset of the JVM, and undecodable bytes as U+FFFD, which is looked for; folders such as month=01 as texts, not
# as what those that are read together look like.
AS_TEXTS = {
    "spark.sql.legacy.javaCharsets": "true",
    "spark.sql.legacy.codingErrorAction": "true",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
}
_WORKER = re.compile("Broken pipe|Connection reset|Python worker exited")  # of a worker that was killed, not of a file
_GONE = re.compile(r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND")
TIMES = (TimestampType, TimestampNTZType, DateType)


def find(
    place: str, asked: SourceSettings, spark: SparkSession, frames: Mapping[str, DataFrame] | None = None
) -> Source:
    """List a source, once; no file is opened. What has no versions is read for its contents' sum.

    Args:
        place: of the settings that name it, e.g. "ingest".
        asked: these settings; they name a path or a table.
        spark: the session.
        frames: rows by name, in place of the catalogue's tables of these names.

    Raises:
        DataError: there is no such file, folder or table, it is empty, or a file's name cannot be read.
        SnapshotError: the last commit of a Delta table is torn.
    """
    if asked.table is not None:
        frame = (frames or {}).get(asked.table)
        named = catalogue_tables.find(spark, asked.table, place) if frame is None else Named(frame)
        return _by_name(place, asked, asked.table, named)
    assert asked.path is not None
    if asked.format != "delta":
        return source_files.find(place, asked, asked.path, spark)
    folder, name = delta_place(asked.path)
    try:
        return _pinned(place, asked, Tables(spark, folder), name, asked.path)
    except (SchemaError, SnapshotError):
        raise
    except TableError as error:
        raise DataError(f"{place}.path '{asked.path}' is no Delta table; correct the path, or its format") from error


def delta_place(path: str) -> tuple[str, str]:
    """The folder in which a Delta table lies, which may be the top of a store, and its name there."""
    folder, slash, name = path.rstrip("/").rpartition("/")
    return (folder if folder and not folder.endswith(":") else folder + slash) or ".", name


def simulated(
    settings: Settings, spark: SparkSession, name: str = ORDER_LINES_TABLE, asked: SourceSettings | None = None
) -> Source:
    """A raw table of the simulated shop.

    Args:
        settings: the pipeline's.
        spark: the session.
        name: the table.
        asked: how its columns are named; default: section `ingest`.

    Raises:
        TableError: there is none.
    """
    tables, place = raw_tables(settings, spark), "ingest" if asked is None else f"simulated {name}"
    return _pinned(place, asked or settings.ingest, tables, name, tables.path(name))


def read(
    spark: SparkSession,
    source: Source,
    columns: Mapping[str, str],
    *,
    typed: bool = False,
    binary: Collection[str] = (),
    later: Collection[str] = (),
) -> Raw:
    """Read what was listed.

    Args:
        spark: the session.
        source: what `find` gave.
        columns: the source's names, by ours.
        typed: whether all columns keep their types, not times alone.
        binary: the source's columns of bytes that stay such.
        later: those of ours that the source may lack; they are null then.

    Raises:
        SchemaError: a column is missing, or the header has one twice.
    """
    asked, place = source.asked, source.place
    if source.table is not None:
        raw = Raw(source.table, None, source.table.dtypes)
    elif asked.format == "csv":
        raw = source_files.csv(spark, source, columns)
    elif asked.format == "json":
        raw = source_files.json_lines(spark, source, columns)
    elif asked.format in picture_sources.FORMATS:
        raw = picture_sources.FORMATS[asked.format](spark, source)
    else:
        rows = spark.read.options(**source.read_options, mergeSchema="true").parquet(*source.paths)
        raw = Raw(rows, None, rows.dtypes)
    held = raw.rows.columns
    lacking = {name: column for name, column in columns.items() if column not in held}
    missing = [f"'{column}' (our {name})" for name, column in lacking.items() if name not in later]
    if missing:
        names = [name for name in held if name != raw.malformed]
        other = len(names) == 1 and next((mark for mark in (";", "\t", "|", ",") if mark in names[0]), None)
        remedy = f"Correct {place}.columns"
        if other:
            remedy = f"Its fields seem to be separated by {other!r}: set {place}.delimiter={json.dumps(other)}"
        elif names and names[0].lstrip().startswith("{"):
            remedy = f"Its lines seem to be JSON: set {place}.format=json"
        elif asked.format == "csv" and not asked.header:
            remedy += f": with {place}.header=false columns are named by their places, 1 to {len(names)}"
        raise SchemaError(f"'{source.name}' has no column {', '.join(missing)}; it has: {', '.join(names)}. {remedy}")
    if typed:
        return raw
    texts = [_text(field, binary) for field in raw.rows.schema.fields]
    nothing = [F.lit(None).cast("string").alias(column) for column in lacking.values()]
    return raw._replace(rows=raw.rows.select(*texts, *nothing))


@contextmanager
def readable(*sources: Source) -> Iterator[None]:
    """Turn Spark's refusals into ours: a damaged file is one thing, a wrong setting another.

    Raises:
        DataError: a file cannot be read, or Spark refuses the source.
        SchemaError: a column has another type in another file.
    """
    try:
        yield
    except AnalysisException as error:
        source = _meant(sources, str(error))
        remedy = f"Check {source.place}.format and {source.place}.columns"
        if "TIMESTAMP(NANOS" in str(error):
            remedy = "Spark reads no nanoseconds: write the times in microseconds (pandas: coerce_timestamps='us')"
        raise DataError(f"'{source.name}' cannot be read: {_first_line(error)}. {remedy}") from error
    except SPARK_ERRORS as error:
        text = str(error)
        source = _meant(sources, text)
        if "CSV header does not conform" in text:
            lines = [line.strip() for line in text.splitlines()]
            told = [next((line for line in lines if line.startswith(part)), "") for part in ("Expected:", "CSV file:")]
            raise DataError(
                f"'{source.name}' has files with different headers: {'; '.join(told)}. Give all files the same header, "
                "or ingest them one by one"
            ) from error
        if "MERGE_SCHEMAS" in text or "MERGE_INCOMPATIBLE_DATA_TYPE" in text:
            raise SchemaError(
                f"'{source.name}' has files in which {_merged(text)}: write all of them with the same types, or ingest "
                "them one by one"
            ) from error
        if _GONE.search(text):
            raise DataError(
                f"files of '{source.name}' went away while they were read: somebody writes it anew. Run ingest again "
                "once that has ended; nothing was written"
            ) from error
        if _WORKER.search(text) or ("FAILED_READ_FILE" not in text and "java.io." not in text):
            raise
        raise DataError(
            f"'{source.name}' cannot be read: {_cause(text)}. Check that it is whole (gzip -t) and that "
            f"{source.place}.format is right"
        ) from error


def _meant(sources: Sequence[Source], text: str) -> Source:
    """The source that Spark's words are of: the one whose name they have."""
    return next((source for source in sources if source.name in text), sources[0])


def _pinned(place: str, asked: SourceSettings, tables: Tables, name: str, path: str) -> Source:
    pin = tables.pin(name)
    table, detail = tables.read(name, pin.version), tables.detail(name)
    return Source(
        path,
        place,
        asked,
        [pin.content, detail["id"]],
        int(detail["sizeInBytes"]),
        {},
        version=pin.version,
        table=table,
        folder=tables.path(name),
    )


def _by_name(place: str, asked: SourceSettings, name: str, named: Named) -> Source:
    if named.pin is not None:
        pin, size = named.pin, named.size or 0
        source = Source(name, place, asked, [pin.content, named.id], size, {}, version=pin.version, table=named.rows)
        return replace(source, folder=named.folder)
    texts = [_text(each, ()).cast("string").alias(f"c{number}") for number, each in enumerate(named.rows.schema.fields)]
    try:
        rows, total = _sum_of(named.rows.select(*texts))
    except SPARK_ERRORS as error:
        raise catalogue_tables.refusal(error, name, place) or error from error
    columns = [list(column) for column in named.rows.dtypes]
    return Source(name, place, asked, [columns, rows, total], UNKNOWN_SIZE, {}, table=named.rows, rows=rows)


def _sum_of(texts: DataFrame) -> tuple[int, str]:
    """How many rows, and a sum that changes with any of them, whatever their order."""
    digest = F.xxhash64(F.to_json(F.struct(*texts.columns))).cast("decimal(20,0)")
    found = texts.select(F.count(F.lit(1)).alias("rows"), F.sum(digest).cast("string").alias("sum")).collect()[0]
    return int(found["rows"]), str(found["sum"])


def _text(field: StructField, binary: Collection[str]) -> Column:
    held = column(field.name)
    stays = isinstance(field.dataType, TIMES) or (field.name in binary and isinstance(field.dataType, BinaryType))
    return held if stays else held.cast("string").alias(field.name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _merged(text: str) -> str:
    """Which columns Spark cannot make one of, by the two schemas in its words."""
    field = re.compile(r"[<,]\s*`?([^:<>,`]+)`?: ([A-Z_]+)")
    schemas = [dict(field.findall(held)) for held in re.findall(r"STRUCT(<.*>)", text)]
    first, other = schemas[:2] if len(schemas) > 1 else ({}, {})
    changed = sorted(name for name in first.keys() & other.keys() if first[name] != other[name])
    named = [f"column '{name}' is {first[name]} and {other[name]}" for name in changed]
    return " and ".join(named) or "a column changes its type"


def _cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    causes = [line for line in lines if line.startswith("Caused by: ")] or lines[:1]
    return causes[-1].removeprefix("Caused by: ")
