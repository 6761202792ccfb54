"""Tables and views of a catalogue, by their names: found, pinned where they have versions, and errors said.

A Delta table is read at one version. A view, and a table of another format, has none: it is read as it is.
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
from training.errors import DataError

_MISSING = re.compile(r"NOT_FOUND|NO_SUCH|NoSuch|REQUIRES_SINGLE_PART_NAMESPACE|cannot be found")
_FORBIDDEN = re.compile(r"PERMISSION|PRIVILEGE|AccessControl|AccessDenied|ermission denied|not authorized|Forbidden")


class Named(NamedTuple):
    """A catalogue's table: its rows, lazily; its version and bytes, if it has versions."""

    rows: DataFrame
    pin: Pin | None
    size: int | None


def find(spark: SparkSession, name: str, place: str) -> Named:
    """Look a table up.

    Args:
        spark: a session whose catalogue has it.
        name: e.g. main.shop.events.
        place: of the settings that name it, for messages.

    Raises:
        DataError: there is no such table, or the session may not read it.
    """
    quoted = ".".join(f"`{part}`" for part in re.findall(r"[^.`]+", name))
    try:
        rows = spark.table(quoted)
        _ = rows.schema  # with Spark Connect `table` alone asks nothing
    except SPARK_ERRORS as error:
        raise refusal(error, name, place) or error from error
    try:
        pin = pin_of(commits.newest_first(lambda limit: spark.sql(f"DESCRIBE HISTORY {quoted} LIMIT {limit}")))
        size = spark.sql(f"DESCRIBE DETAIL {quoted}").select("sizeInBytes").collect()[0][0]
        return Named(spark.sql(f"SELECT * FROM {quoted} VERSION AS OF {pin.version}"), pin, int(size))
    except AnalysisException as error:
        if _FORBIDDEN.search(str(error)):
            raise refusal(error, name, place) or error from error
        warn(f"'{name}' is a view or no Delta table, without versions to pin: it is read as it is, twice")
        return Named(rows, None, None)


def refusal(error: Exception, name: str, place: str) -> DataError | None:
    """What Spark's refusal of a table means; None: something else."""
    text = str(error)
    reason = next((line for line in text.splitlines() if line.strip()), "")[:300]
    if _FORBIDDEN.search(text):
        return DataError(
            f"{place}.table '{name}' may not be read by this Spark user: {reason}. Have SELECT granted on it (and USE "
            "on its catalogue and schema), or name another table"
        )
    if _MISSING.search(text):
        return DataError(
            f"{place}.table '{name}' is in no catalogue of this Spark: {reason}. Write it as catalogue.schema.table, "
            f"or name the table's folder in {place}.path with {place}.format=delta"
        )
    return None
