"""Delta Lake by SQL, which classic sessions and Spark Connect have alike; a table is named by its path."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException

from jobs.sessions import giving_back

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

NO_TABLE = re.compile(r"\[(PATH_NOT_FOUND|DELTA_(TABLE_NOT_FOUND|PATH_DOES_NOT_EXIST|MISSING_DELTA_TABLE))\b")


def place(path: str) -> str:
    """The table at a path, as SQL names it, whatever backticks the path has."""
    escaped = path.replace("`", "``")
    return f"delta.`{escaped}`"


def is_table(spark: SparkSession, path: str) -> bool:
    """Whether there is a Delta table at a path."""
    try:
        _ = spark.read.format("delta").load(path).schema  # with Spark Connect `load` alone asks nothing
    except AnalysisException as error:
        if NO_TABLE.search(str(error)):
            return False
        raise
    return True


def history(spark: SparkSession, path: str, limit: int) -> DataFrame:
    """The newest so many commits, newest first.

    Raises:
        AnalysisException: there is no table at the path.
    """
    return spark.sql(f"DESCRIBE HISTORY {place(path)} LIMIT {limit}")


def detail(spark: SparkSession, path: str) -> Row:
    """What Delta tells of a table: id, sizeInBytes, partitionColumns, properties, tableFeatures.

    Raises:
        AnalysisException: there is no table at the path.
    """
    columns = ("id", "sizeInBytes", "partitionColumns", "properties", "tableFeatures")
    return spark.sql(f"DESCRIBE DETAIL {place(path)}").select(*columns).collect()[0]


def merge(spark: SparkSession, path: str, rows: DataFrame, on: str, then: str) -> None:
    """Merge rows into a table, in one commit.

    Args:
        spark: the session.
        path: the table's.
        rows: what is merged; in a view meanwhile, so that no value of theirs stands in what the commit says.
        on: the condition, over `held`, the table's rows, and `new`, the ones given.
        then: what is done, e.g. WHEN MATCHED THEN DELETE.
    """
    view = f"millrace_{uuid.uuid4().hex}"
    rows.createTempView(view)
    with giving_back(spark, lambda: spark.catalog.dropTempView(view)):
        spark.sql(f"MERGE INTO {place(path)} AS held USING {view} AS new ON {on} {then}")


def set_properties(spark: SparkSession, path: str, properties: Mapping[str, str]) -> None:
    """Set properties of a table, in one commit that changes no row."""
    pairs = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
    spark.sql(f"ALTER TABLE {place(path)} SET TBLPROPERTIES ({pairs})")
