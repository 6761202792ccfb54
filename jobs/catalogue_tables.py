"""Tables and views of a catalogue, by their names: found, pinned where they have versions, and errors said.

A Delta table is read at one version. A view, and a table of another format, has none: it is read as it is. A table that
jobs write gets a name in a schema beside its folder (`tables.catalogue`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from jobs import commits
from jobs.console import warn
from jobs.sessions import SPARK_ERRORS
from jobs.table_reads import Pin, pin_of
from training.errors import DataError, TableError

_MISSING = re.compile(r"NOT_FOUND|NO_SUCH|NoSuch|REQUIRES_SINGLE_PART_NAMESPACE|cannot be found|Nested databases")
_NO_DELTA = "a view or no Delta table"
_FORBIDDEN = re.compile(r"PERMISSION|PRIVILEGE|AccessControl|AccessDenied|ermission denied|not authorized|Forbidden")


class Named(NamedTuple):
    """A catalogue's table: its rows, lazily; its version, bytes, place and id, if it has versions."""

    rows: DataFrame
    pin: Pin | None = None
    size: int | None = None
    folder: str | None = None
    id: str | None = None


def find(spark: SparkSession, name: str, place: str) -> Named:
    """Look a table up.

    Args:
        spark: a session whose catalogue has it.
        name: e.g. main.shop.events.
        place: of the settings that name it, for messages.

    Raises:
        DataError: there is no such table, or the session may not read it.
    """
    full = quoted(name)
    try:
        rows = spark.table(full)
        _ = rows.schema  # with Spark Connect `table` alone asks nothing
    except SPARK_ERRORS as error:
        raise refusal(error, name, place) or error from error
    try:
        pin = pin_of(commits.newest_first(lambda limit: spark.sql(f"DESCRIBE HISTORY {full} LIMIT {limit}")))
        size, *where = spark.sql(f"DESCRIBE DETAIL {full}").select("sizeInBytes", "location", "id").collect()[0]
        return Named(spark.sql(f"SELECT * FROM {full} VERSION AS OF {pin.version}"), pin, int(size), *where)
    except AnalysisException as error:
        if _FORBIDDEN.search(str(error)):
            raise refusal(error, name, place) or error from error
        warn(f"'{name}' is a view or no Delta table, without versions to pin: it is read as it is, twice")
        return Named(rows)


def refuse_other(spark: SparkSession, schema: str, name: str, path: str) -> bool:
    """See, before a table is written, that its name in a schema is free, or is its own already; returns which.

    Args:
        spark: a session whose catalogue has the schema.
        schema: `tables.catalogue`, e.g. main.shop.
        name: the table's name in it.
        path: where the table lies.

    Raises:
        TableError: there is no such schema, it may not be used, or something else has the name.
    """
    full = quoted(f"{schema}.{name}")
    try:
        spark.sql(f"DESCRIBE SCHEMA {quoted(schema)}").collect()
        if not spark.catalog.tableExists(full):
            return False
    except SPARK_ERRORS as error:
        raise _no_schema(error, schema) or error from error
    try:
        held = spark.sql(f"DESCRIBE DETAIL {full}").select("format", "location").collect()[0]
    except SPARK_ERRORS as error:
        if _FORBIDDEN.search(str(error)):
            raise _no_schema(error, schema) or error from error
        raise _taken(schema, name, _NO_DELTA, path) from error
    if held["format"] != "delta":
        raise _taken(schema, name, _NO_DELTA, path)
    if _plain(held["location"]) != _plain(path):
        raise _taken(schema, name, f"the one at {held['location']}", path)
    return True


def give_name(spark: SparkSession, schema: str, name: str, path: str) -> None:
    """Name a table that lies at a path in a schema, if it has no name there: as an external table, whose files stay.

    Raises:
        TableError: it may not be made there.
    """
    try:
        spark.sql(f"CREATE TABLE IF NOT EXISTS {quoted(f'{schema}.{name}')} USING DELTA LOCATION {_literal(path)}")
    except SPARK_ERRORS as error:
        raise TableError(
            f"table '{name}' was written to {path}, and cannot be named {schema}.{name}: {_first_line(error)}. Have "
            "CREATE TABLE granted on the schema (and CREATE EXTERNAL TABLE on the location), and run the job again"
        ) from error


def _no_schema(error: Exception, schema: str) -> TableError | None:
    """What Spark's refusal of a schema means; None: something else."""
    text = str(error)
    if _FORBIDDEN.search(text):
        remedy = "have USE granted on it and on its catalogue"
    elif _MISSING.search(text):
        remedy = "create it (CREATE SCHEMA), correct it, or leave it out"
    else:
        return None
    return TableError(
        f"tables.catalogue '{schema}' must be a schema that this Spark may use: {_first_line(error)}; {remedy}; "
        "nothing was written"
    )


def _taken(schema: str, name: str, what: str, path: str) -> TableError:
    return TableError(
        f"{schema}.{name} must be the table at {path}, and is {what}: name another schema in tables.catalogue, or drop "
        "what has the name; nothing was written"
    )


def quoted(name: str) -> str:
    """A name of up to three parts as SQL takes it."""
    return ".".join(f"`{part}`" for part in re.findall(r"[^.`]+", name))


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def _plain(place: str) -> str:
    return re.sub("^file:/+", "/", place).rstrip("/")


def refusal(error: Exception, name: str, place: str) -> DataError | None:
    """What Spark's refusal of a table means; None: something else."""
    text, reason = str(error), _first_line(error)
    if _FORBIDDEN.search(text):
        return DataError(
            f"{place}.table '{name}' may not be read by this Spark user: {reason}. Have SELECT granted on it (and USE "
            "on its catalogue and schema), or name another table"
        )
    if _MISSING.search(text):
        return DataError(
            f"{place}.table '{name}' is in no catalogue of this Spark: {reason}. Write it as catalogue.schema.table, "
            f"or name the table's folder in {place}.path (its format is delta)"
        )
    return None
