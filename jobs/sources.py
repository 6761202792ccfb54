"""Raw rows where they lie: files of CSV, of JSON lines or of Parquet, or a pinned Delta table.

Text stays text and types are never guessed; Parquet and Delta times keep their type. What is read is what was listed: a
folder with its subfolders, and a path that exists as it stands is that path, whatever brackets it has.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StringType, StructField, StructType, TimestampNTZType, TimestampType

from jobs import catalogue_tables
from jobs.catalogue_tables import Named
from jobs.sessions import SPARK_ERRORS
from jobs.settings import Settings
from jobs.settings_sources import SourceSettings
from jobs.simulate import raw_tables
from jobs.tables import Tables
from training.errors import DataError, SchemaError, TableError

MALFORMED, OTHERS = "_malformed_line", "_other_fields"
UNKNOWN_SIZE = 1 << 50  # bytes, for as many tasks as the session is set up for
FILE_COLUMNS = ("path", "modificationTime", "length", "content")
ORDER_LINES_TABLE = "order_lines"
LITERAL = {"__globPaths__": "false"}  # Spark's own switch: a path is no pattern
# Every charset of the JVM, and undecodable bytes as U+FFFD, which is looked for.
DECODING = {"spark.sql.legacy.javaCharsets": "true", "spark.sql.legacy.codingErrorAction": "true"}
_GONE = re.compile(r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND")
TIMES = (TimestampType, TimestampNTZType, DateType)


@dataclass(frozen=True)
class Source:
    """Where rows lie.

    Attributes:
        name: its path.
        place: of the settings that name it, for messages.
        asked: these settings.
        state: what tells whether it changed: its files with size and time, or the Delta version that last changed rows.
        size: bytes.
        options: of Spark's reader, so that it reads what was listed.
        partitions: columns that are folders, such as country=UK.
        version: the Delta version to read; housekeeping may have made it since rows changed.
        table: that version, or rows without versions; None: files.
        rows: how many there were when it was found; None: not counted.
    """

    name: str
    place: str
    asked: SourceSettings
    state: list[Any]
    size: int
    options: Mapping[str, str]
    partitions: tuple[str, ...] = ()
    version: int | None = None
    table: DataFrame | None = None
    rows: int | None = None


class Raw(NamedTuple):
    """The source's rows, as text or times; and the column that holds a malformed line, if there may be one."""

    rows: DataFrame
    malformed: str | None


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
    """
    if asked.table is not None:
        frame = (frames or {}).get(asked.table)
        named = catalogue_tables.find(spark, asked.table, place) if frame is None else Named(frame, None, None)
        return _by_name(place, asked, asked.table, named)
    assert asked.path is not None
    if asked.format != "delta":
        return _files(place, asked, asked.path, spark)
    folder, _, name = asked.path.rstrip("/").rpartition("/")
    try:
        return _pinned(place, asked, Tables(spark, folder or "."), name, asked.path)
    except SchemaError:
        raise
    except TableError as error:
        raise DataError(f"{place}.path '{asked.path}' is no Delta table; correct it, or {place}.format") from error


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


def read(spark: SparkSession, source: Source, columns: Mapping[str, str], *, typed: bool = False) -> Raw:
    """Read what was listed.

    Args:
        spark: the session.
        source: what `find` gave.
        columns: the source's names, by ours.
        typed: whether all columns keep their types, not times alone.

    Raises:
        SchemaError: a column is missing, or the header has one twice.
    """
    asked, place = source.asked, source.place
    if source.table is not None:
        raw = Raw(source.table, None)
    elif asked.format == "csv":
        raw = _csv(spark, source)
    elif asked.format == "json":
        raw = _json_lines(spark, source, columns)
    else:
        raw = Raw(spark.read.options(**source.options, mergeSchema="true").parquet(source.name), None)
    held = raw.rows.columns
    missing = [f"'{column}' (our {name})" for name, column in columns.items() if column not in held]
    if missing:
        names = [name for name in held if name != raw.malformed]
        other = len(names) == 1 and next((mark for mark in (";", "\t", "|", ",") if mark in names[0]), None)
        remedy = f"Correct {place}.columns"
        if other:
            remedy = f"Its fields seem to be separated by {other!r}: set {place}.delimiter={json.dumps(other)}"
        elif asked.format == "csv" and not asked.header:
            remedy += f": with {place}.header=false columns are named by their places, 1 to {len(names)}"
        raise SchemaError(f"'{source.name}' has no column {', '.join(missing)}; it has: {', '.join(names)}. {remedy}")
    if typed:
        return raw
    texts = [_text(field) for field in raw.rows.schema.fields]
    return Raw(raw.rows.select(*texts), raw.malformed)


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
        raise DataError(
            f"'{source.name}' cannot be read: {_first_line(error)}. "
            f"Check {source.place}.format and {source.place}.columns"
        ) from error
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
        if "FAILED_READ_FILE" not in text and "java.io." not in text:
            raise
        raise DataError(
            f"'{source.name}' cannot be read: {_cause(text)}. Check that it is whole (gzip -t) and that "
            f"{source.place}.format is right"
        ) from error


def _meant(sources: Sequence[Source], text: str) -> Source:
    """The source that Spark's words are of: the one whose name they have."""
    return next((source for source in sources if source.name in text), sources[0])


def refuse_undecodable(spark: SparkSession, source: Source) -> None:
    """Look for the lines whose bytes the encoding does not know; one that holds U+FFFD itself is as it was written.

    Raises:
        DataError: there are such lines; names their files and how many.
    """
    lines, encoding = spark.read.options(**source.options).text(source.name), source.asked.encoding
    decoded = F.decode(F.col("value").cast("binary"), encoding)
    lost = F.encode(decoded, encoding) != F.col("value").cast("binary")
    found = lines.where(lost).groupBy(F.col("_metadata.file_path").alias("file")).count().orderBy("file")
    files = [(row["file"], row["count"]) for row in found.limit(5).collect()]
    if files:
        listed = ", ".join(f"{count:,} lines of {file}" for file, count in files)
        raise DataError(
            f"bytes that are no {encoding} stand in {listed}: ids would be mistaken for each other. Name the "
            f"files' encoding in {source.place}.encoding, e.g. windows-1252; nothing was written"
        )


def column(name: str) -> Column:
    """A column by its name as it stands, whatever dots or backticks it has."""
    escaped = name.replace("`", "``")
    return F.col(f"`{escaped}`")


def _pinned(place: str, asked: SourceSettings, tables: Tables, name: str, path: str) -> Source:
    pin = tables.pin(name)
    table = tables.read(name, pin.version)
    return Source(path, place, asked, [pin.content], tables.size(name), {}, version=pin.version, table=table)


def _by_name(place: str, asked: SourceSettings, name: str, named: Named) -> Source:
    if named.pin is not None:
        pin, size = named.pin, named.size or 0
        return Source(name, place, asked, [pin.content], size, {}, version=pin.version, table=named.rows)
    texts = [_text(each).cast("string").alias(f"c{number}") for number, each in enumerate(named.rows.schema.fields)]
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


def _files(place: str, asked: SourceSettings, path: str, spark: SparkSession) -> Source:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is None and ":" in path:
        raise _colon(path)
    options = LITERAL
    rows = _listed(spark, path, options)
    if not rows:  # no path as it stands: Spark does not look whether one with brackets exists
        options = {}
        rows = _listed(spark, path, options)
    if rows is None:
        raise DataError(f"{place}.path '{path}' does not exist; name a file, a folder or a glob")
    if not rows:  # files without a byte are not listed
        raise DataError(f"{place}.path '{path}' is empty; name files that hold rows")
    wrong = next((row["path"] for row in rows if ":" in row["path"].rpartition("/")[2]), None)
    if wrong is not None:
        raise _colon(wrong)
    epoch = datetime(1970, 1, 1)
    state = sorted([row["path"], row["length"], str(epoch + timedelta(microseconds=row["modified"]))] for row in rows)
    # Spark finds columns in folders such as country=UK only where it does not look for files itself.
    partitions = _partitions(spark, path, options)
    recursive = {} if partitions else {"recursiveFileLookup": "true"}
    return Source(path, place, asked, state, sum(row["length"] for row in rows), {**options, **recursive}, partitions)


def _partitions(spark: SparkSession, path: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """Columns that are folders; none where only some of the files lie in such."""
    listed = spark.read.format("binaryFile").options(**options)
    try:
        return tuple(listed.load(path).columns[len(FILE_COLUMNS) :])
    except SPARK_ERRORS:  # an assertion of Spark's: folders of several kinds
        return ()


def _listed(spark: SparkSession, path: str, options: Mapping[str, str]) -> list[Any] | None:
    listed = spark.read.format("binaryFile").options(**options, recursiveFileLookup="true")
    modified = F.unix_micros("modificationTime").alias("modified")
    try:
        return listed.load(path).select("path", "length", modified).collect()  # no more, so no file is opened
    except AnalysisException:
        return None


def _colon(path: str) -> DataError:
    return DataError(f"Hadoop's file systems cannot read a file whose name has a colon, got '{path}'; rename it")


def _csv(spark: SparkSession, source: Source) -> Raw:
    asked = source.asked
    options = {
        **source.options,
        "encoding": asked.encoding,
        "multiLine": str(asked.multiline).lower(),
        "sep": asked.delimiter,
        "quote": asked.quote,
        "escape": asked.escape or asked.quote or "\\",
    }
    first = tuple(spark.read.options(**options).csv(source.name).first() or ())
    names = [name or "" for name in first[: len(first) - len(source.partitions)]]
    if not asked.header:
        names = [str(number) for number in range(1, len(names) + 1)]
    every = Counter(name.lower() for name in [*names, *source.partitions])
    twice = [name for name, count in every.items() if count > 1]
    if twice:
        raise SchemaError(
            f"the header of '{source.name}' has the column {', '.join(repr(name) for name in twice)} more than once "
            "(upper and lower case are one); rename all but one"
        )
    malformed = _unused(MALFORMED, [*names, *source.partitions])
    schema = StructType([StructField(name, StringType()) for name in [*names, *source.partitions, malformed]])
    # Every file's own header must be this one: columns go by position.
    checked = {"header": str(asked.header).lower(), "enforceSchema": "false", "columnNameOfCorruptRecord": malformed}
    return Raw(spark.read.schema(schema).options(**options, **checked).csv(source.name), malformed)


def _json_lines(spark: SparkSession, source: Source, columns: Mapping[str, str]) -> Raw:
    """An object a line: the fields wanted as columns, and all others in one, so that no two rows become one."""
    lines = spark.read.options(**source.options).text(source.name)
    line = F.decode(F.col("value").cast("binary"), source.asked.encoding)
    folders = F.struct(*(column(name) for name in source.partitions)) if source.partitions else F.lit(None)
    parsed = lines.select(line.alias("line"), folders.alias("folders")).where(F.trim("line") != "")
    parsed = parsed.select("line", "folders", F.from_json("line", "map<string,string>").alias("fields"))
    wanted = [name for name in columns.values() if name not in source.partitions]
    rest = F.filter(F.map_entries("fields"), lambda field: ~field["key"].isin(wanted) & field["value"].isNotNull())
    others = F.when(F.size(rest) > 0, F.to_json(F.array_sort(rest)))
    malformed = _unused(MALFORMED, [*wanted, *source.partitions])
    return Raw(
        parsed.select(
            *(F.try_element_at("fields", F.lit(name)).alias(name) for name in wanted),
            *(F.col("folders").getField(name).alias(name) for name in source.partitions),
            others.alias(_unused(OTHERS, [*wanted, *source.partitions])),
            F.when(F.col("fields").isNull(), F.col("line")).alias(malformed),
        ),
        malformed,
    )


def _text(field: StructField) -> Column:
    held = column(field.name)
    return held if isinstance(field.dataType, TIMES) else held.cast("string").alias(field.name)


def _unused(name: str, taken: list[str]) -> str:
    while name.lower() in {other.lower() for other in taken}:
        name += "_"
    return name


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
