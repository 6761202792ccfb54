"""Files of a source: listed without opening one, and read as CSV or JSON lines, texts as they stand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.sessions import SPARK_ERRORS
from jobs.settings_sources import SourceSettings
from jobs.source import LITERAL, Raw, Source, column
from training.errors import DataError, SchemaError

MALFORMED, OTHERS = "_malformed_line", "_other_fields"
FILE_COLUMNS = ("path", "modificationTime", "length", "content")


class _Listed(NamedTuple):
    listed: DataFrame
    files: int
    size: int
    digest: str
    with_colon: str | None


def find(place: str, asked: SourceSettings, path: str, spark: SparkSession) -> Source:
    """List the files at a path; see `jobs.sources.find`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is None and ":" in path:
        raise _colon(path)
    options = LITERAL
    found = _listed(spark, path, options)
    if found is None or not found.files:  # no path as it stands: Spark does not look whether one with brackets exists
        options = {}
        found = _listed(spark, path, options)
    if found is None:
        raise DataError(f"{place}.path '{path}' does not exist; name a file, a folder or a glob")
    if not found.files:  # those without a byte are not listed
        raise DataError(f"{place}.path '{path}' is empty; name files that hold rows")
    if found.with_colon is not None:
        raise _colon(found.with_colon)
    # Spark finds columns in folders such as country=UK only where it does not look for files itself.
    partitions = _partitions(spark, path, options)
    recursive = {} if partitions else {"recursiveFileLookup": "true"}
    state = [found.files, found.size, found.digest]
    of_reader = {**options, **recursive}
    return Source(path, place, asked, state, found.size, of_reader, partitions, listed=found.listed)


def _partitions(spark: SparkSession, path: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """Columns that are folders; none where only some of the files lie in such."""
    listed = spark.read.format("binaryFile").options(**options)
    try:
        return tuple(listed.load(path).columns[len(FILE_COLUMNS) :])
    except SPARK_ERRORS:  # an assertion of Spark's: folders of several kinds
        return ()


def _listed(spark: SparkSession, path: str, options: Mapping[str, str]) -> _Listed | None:
    """The files at a path; None: there is no such path."""
    held = spark.read.format("binaryFile").options(**options, recursiveFileLookup="true")
    modified = F.unix_micros("modificationTime").alias("modified")
    name = F.element_at(F.split("file", "/"), -1)
    try:
        listed = held.load(path).select(F.col("path").alias("file"), F.col("length").alias("size"), modified)
        found = listed.agg(  # no more columns, so no file is opened
            F.count(F.lit(1)).alias("files"),
            F.coalesce(F.sum("size"), F.lit(0)).alias("size"),
            F.sum(F.xxhash64("file", "size", "modified").cast("decimal(20,0)")).cast("string").alias("digest"),
            F.max(F.when(F.contains(name, F.lit(":")), F.col("file"))).alias("with_colon"),
        ).collect()[0]
    except AnalysisException:
        return None
    return _Listed(listed, *found)


def _colon(path: str) -> DataError:
    return DataError(f"Hadoop's file systems cannot read a file whose name has a colon, got '{path}'; rename it")


def csv(spark: SparkSession, source: Source) -> Raw:
    asked = source.asked
    options = {
        **source.read_options,
        "encoding": asked.encoding,
        "multiLine": str(asked.multiline).lower(),
        "sep": asked.delimiter,
        "quote": asked.quote,
        "escape": asked.escape or asked.quote or "\\",
    }
    first = tuple(spark.read.options(**options).csv(source.paths).first() or ())
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
    rows = spark.read.schema(schema).options(**options, **checked).csv(source.paths)
    return Raw(rows, malformed, rows.dtypes)


def json_lines(spark: SparkSession, source: Source, columns: Mapping[str, str]) -> Raw:
    """An object a line: the fields wanted as columns, and all others in one, so that no two rows become one."""
    lines = spark.read.options(**source.read_options).text(source.paths)
    line = F.decode(F.col("value").cast("binary"), source.asked.encoding)
    folders = F.struct(*(column(name) for name in source.partitions)) if source.partitions else F.lit(None)
    parsed = lines.select(line.alias("line"), folders.alias("folders")).where(F.trim("line") != "")
    parsed = parsed.select("line", "folders", F.from_json("line", "map<string,string>").alias("fields"))
    wanted = [name for name in columns.values() if name not in source.partitions]
    rest = F.filter(F.map_entries("fields"), lambda field: ~field["key"].isin(wanted) & field["value"].isNotNull())
    others = F.when(F.size(rest) > 0, F.to_json(F.array_sort(rest)))
    malformed = _unused(MALFORMED, [*wanted, *source.partitions])
    rows = parsed.select(
        *(F.try_element_at("fields", F.lit(name)).alias(name) for name in wanted),
        *(F.col("folders").getField(name).alias(name) for name in source.partitions),
        others.alias(_unused(OTHERS, [*wanted, *source.partitions])),
        F.when(F.col("fields").isNull(), F.col("line")).alias(malformed),
    )
    return Raw(rows, malformed, rows.dtypes)


def refuse_undecodable(spark: SparkSession, source: Source) -> None:
    """Look for the lines whose bytes the encoding does not know; one that holds U+FFFD itself is as it was written.

    Raises:
        DataError: there are such lines; names their files and how many.
    """
    lines, encoding = spark.read.options(**source.read_options).text(source.paths), source.asked.encoding
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


def _unused(name: str, taken: list[str]) -> str:
    while name.lower() in {other.lower() for other in taken}:
        name += "_"
    return name
