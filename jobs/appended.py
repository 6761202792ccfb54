"""The rows that were added to a Delta table between two versions, where nothing else was done to it.

Delta's log names the files of each commit, so that their rows are read without those of before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F

from jobs.sessions import SPARK_ERRORS
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

    from jobs.tables import Tables


MOST_COMMITS, MOST_FILES = 1_000, 10_000  # beyond, one read of the whole table costs no more
ACTIONS = (
    "add struct<path: string, dataChange: boolean, deletionVector: struct<storageType: string>>, "
    "remove struct<path: string, dataChange: boolean>"
)
STATISTICS = (
    "add struct<partitionValues: map<string, string>, stats: string, deletionVector: struct<storageType: string>>"
)
BY_PATH = {"__globPaths__": "false"}
UNREADABLE: tuple[type[Exception], ...] = (*SPARK_ERRORS, TableError)  # the log or a file is gone, or not for this user
OTHER_NAMES = ("delta.columnMapping.mode", "delta.enableTypeWidening")  # files that are not as the table says


def appended(tables: Tables, name: str, since: int, until: int) -> DataFrame | None:
    """The rows that a table has at one version and had not at an earlier one.

    Args:
        tables: where it lies.
        name: the table.
        since: a version whose rows are known.
        until: a later one.

    Returns:
        The rows; None if rows were removed or changed too, or if the log or the files do not tell any more.
    """
    if not 0 <= until - since <= MOST_COMMITS:
        return None
    try:
        return _rows(tables, name, since, until)
    except UNREADABLE:
        return None


def written(tables: Tables, name: str, version: int, folder: str) -> dict[str, int] | None:
    """How many rows a commit wrote into each folder, by what the log says of its files.

    Args:
        tables: where the table lies.
        name: the table.
        version: that the commit made.
        folder: the column that is folders, without nulls.

    Returns:
        Rows by the column's value as text; None where the log does not say.
    """
    log = f"{tables.path(name)}/_delta_log/{version:020d}.json"
    try:
        actions = tables.spark.read.schema(STATISTICS).options(**BY_PATH, mode="FAILFAST").json(log)
        added = actions.where("add IS NOT NULL").select(
            F.col("add.partitionValues")[folder].alias("folder"),
            F.when(F.col("add.deletionVector").isNull(), F.get_json_object("add.stats", "$.numRecords"))
            .cast("bigint")
            .alias("rows"),
        )
        found = added.groupBy("folder").agg(
            F.sum("rows").alias("rows"), F.count_if(F.col("rows").isNull()).alias("unknown")
        )
        held = found.collect()
    except UNREADABLE:
        return None
    if any(row["unknown"] or row["folder"] is None for row in held):
        return None
    return {row["folder"]: row["rows"] for row in held}


def _rows(tables: Tables, name: str, since: int, until: int) -> DataFrame | None:
    path, rows, detail = tables.path(name), tables.read(name, until), tables.detail(name)
    if any(detail["properties"].get(key, "none") not in ("none", "false") for key in OTHER_NAMES):
        return None
    folders = list(detail["partitionColumns"])
    log = [f"{path}/_delta_log/{version:020d}.json" for version in range(since + 1, until + 1)]
    files = _files(tables, log, path, folders) if log else []
    if not files:
        return None if files is None else rows.limit(0)
    base = {"basePath": path} if folders else {}
    added = tables.spark.read.schema(rows.schema).options(**BY_PATH, **base).parquet(*files)
    return added.select(*(f"`{column}`" for column in rows.columns))


def _files(tables: Tables, log: list[str], path: str, folders: list[str]) -> list[str] | None:
    """The files that were added; None if that is not all that was done."""
    actions = tables.spark.read.schema(ACTIONS).options(**BY_PATH, mode="FAILFAST").json(log)  # a torn file hides rows
    told = actions.where("add.dataChange OR remove.dataChange").limit(MOST_FILES + 1).collect()
    whole = len(told) <= MOST_FILES and all(_is_plain(action, folders) for action in told)
    return [_absolute(action["add"]["path"], path) for action in told] if whole else None


def _is_plain(action: Row, folders: list[str]) -> bool:
    """Whether a file was added whose rows are all the table's, in the folders that its columns name."""
    added = action["add"]
    if added is None or added["deletionVector"] is not None:
        return False
    parts = added["path"].split("/")[: len(folders)]
    return all(part.startswith(f"{folder}=") for part, folder in zip(parts, folders, strict=False))


def _absolute(path: str, root: str) -> str:
    return unquote(path) if ":/" in path or path.startswith("/") else f"{root}/{unquote(path)}"
