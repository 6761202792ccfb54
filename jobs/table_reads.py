"""Named Delta tables below one root, as they are read: pinned to one version.

A table that changes while a job runs does not change what the job sees. A table's history tells which job made it from
what, and whether its rows have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession

from jobs import commit_files, commits, delta_sql
from jobs.commits import Commit
from jobs.sessions import SPARK_ERRORS
from spark_udfs.column_types import type_problems
from training.data.delta_log import refuse_torn
from training.errors import NoTableError, SchemaError, TableError

MADE_BY = {  # beside the tables of a simulated shop, and those with the answers of tasks
    "order_lines": "simulate",
    "events": "ingest",
    "items": "ingest",
    "users": "ingest",
    "ingested": "ingest",
    "item_sums": "ingest",
    "user_sums": "ingest",
    "item_attributes": "ingest",
    "user_attributes": "ingest",
    "quarantine": "ingest",
    "dispositions": "ingest",
    "item_history": "ingest",
    "user_history": "ingest",
    "vocabulary_items": "build_examples",
    "vocabulary_users": "build_examples",
    "examples": "build_examples",
    "queries": "build_examples",
    "histories": "build_examples",
    "catalogue": "build_examples",
    "graph": "build_examples",
    "neighbours": "build_examples",
    "triples": "ingest",
    "builds": "build_examples",
    "feedback": "ingest_feedback",
    "ads_plan": "plan_ads",
    "ads_outlook": "plan_ads",
    "orders": "plan_stock",
    "order_problems": "plan_stock",
    "erased": "erase",
    "erasure_key": "erase",
    "erasures": "erase",
}


class Pin(NamedTuple):
    """A table as a job finds it.

    Attributes:
        version: the newest version: the one to read.
        content: the version of the last commit that changed rows: the one to compare, as housekeeping leaves it alone.
    """

    version: int
    content: int


class TableReads:
    """What is read of the tables of one pipeline.

    Args:
        spark: a session with Delta Lake.
        root: a folder or an object-store URL; each table is a folder below it.

    Raises:
        TableError: the root has a variable in it, which Spark's SQL would replace, and its writers would not.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        if "${" in root:
            raise TableError(
                f"tables.root '{root}' must be a path as it stands, without variables; write out what '${{...}}' is for"
            )
        self.spark = spark
        # Spark's SQL resolves a relative path against its warehouse, everything else against the working folder.
        self.root = (root if ":/" in root else str(Path(root).absolute())).rstrip("/")

    def path(self, name: str) -> str:
        """Where a table lies, whether it exists or not."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is a Delta table of this name."""
        return delta_sql.is_table(self.spark, self.path(name))

    def version(self, name: str) -> int:
        """The table's newest version, for reading.

        Raises:
            TableError: there is no such table, or its last commit is torn.
        """
        return next(self.history(name)).version

    def pin(self, name: str) -> Pin:
        """The table's newest version, and the one that tells whether its rows have changed.

        Raises:
            TableError: there is no such table, or its last commit is torn.
        """
        return pin_of(self.history(name))

    def size(self, name: str) -> int:
        """Bytes of the table's newest version.

        Raises:
            TableError: there is no such table.
        """
        return int(self.detail(name)["sizeInBytes"])

    def id(self, name: str) -> str:
        """Delta's own id of the table: another one at the same place has another, and other rows under its versions.

        Raises:
            TableError: there is no such table.
        """
        return str(self._metadata(name)["id"])

    def ids(self, names: Iterable[str]) -> dict[str, str]:
        """The ids of several tables, by name.

        Raises:
            TableError: one of them is missing.
        """
        return {name: self.id(name) for name in names}

    def folders(self, name: str) -> list[str]:
        """The columns that are folders.

        Raises:
            TableError: there is no such table.
        """
        return list(self._metadata(name)["partitionColumns"])

    def _metadata(self, name: str) -> Mapping[str, Any]:
        found = commit_files.metadata(self.spark, self.path(name))
        return found or self.detail(name).asDict()

    def detail(self, name: str) -> Row:
        """What Delta tells of the table: see `delta_sql.detail`.

        Raises:
            TableError: there is no such table.
        """
        with self._named(name):
            return delta_sql.detail(self.spark, self.path(name))

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """One version of a table; the newest at the time of this call if none is named.

        Raises:
            TableError: there is no such table or no such version.
        """
        pinned = self.version(name) if version is None else version
        try:
            with self._named(name):
                df = self.spark.read.format("delta").option("versionAsOf", pinned).load(self.path(name))
                _ = df.schema  # with Spark Connect `load` alone asks nothing
                return df
        except AnalysisException as error:
            raise TableError(
                f"table '{name}' at {self.path(name)} has no version {pinned} any more (newest: {self.version(name)}); "
                f"run `millrace {maker(name)}` again, or name a version that VACUUM has not removed"
            ) from error

    def made_from(self, name: str, by: str | None = None) -> dict[str, Any] | None:
        """Inputs of the table's last change; None if there is no table, or it was changed by other means.

        Args:
            name: the table.
            by: a job; changes by others are other means.
        """
        last = self._last_change(name)
        if last is None or last.made is None:
            return None
        made = json.loads(last.made)
        return dict(made["inputs"]) if by in (None, made["job"]) else None

    def made_by(self, name: str) -> str | None:
        """The job of the table's last change; None if there is no table, or it was changed by other means."""
        made = self._last_change(name)
        return str(json.loads(made.made)["job"]) if made is not None and made.made is not None else None

    def up_to_date(self, name: str, job: str, inputs: Mapping[str, Any]) -> bool:
        """Whether this job made the table's last change from these inputs, or has found since that it holds them."""
        made = commits.metadata(job, inputs).made
        return any(commit.made == made for commit in self._since_last_change(name))

    def require(self, df: DataFrame, name: str, columns: Mapping[str, str]) -> DataFrame:
        """Check columns and types, and return them alone, in the order given.

        Args:
            df: rows of the table.
            name: the table's name, for the message.
            columns: Spark's name of each column's type ("bigint", "array<float>"), by column.

        Raises:
            SchemaError: columns are missing or of another type; all of them are listed.
        """
        if problems := type_problems(df, columns):
            raise SchemaError(
                f"table '{name}' at {self.path(name)}: {'; '.join(problems)}. "
                f"Run `millrace {maker(name)}` to make it anew, or fix what wrote it"
            )
        return df.select(*columns)

    def history(self, name: str) -> Iterator[Commit]:
        """The table's commits, newest first, as far back as its log goes.

        Raises:
            TableError: there is no such table, or its last commit is torn.
        """
        found = commit_files.newest_first(self.spark, self.path(name), lambda limit: self._history(name, limit))
        if (newest := next(found, None)) is not None:
            refuse_torn(self.path(name), newest.version)
            yield newest
        yield from found

    def _history(self, name: str, limit: int) -> DataFrame:
        with self._named(name):
            return delta_sql.history(self.spark, self.path(name), limit)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except SPARK_ERRORS as error:  # of a version of no table Hadoop speaks, not Delta
            if self.exists(name):
                raise
            raise NoTableError(
                f"table '{name}' does not exist at {self.path(name)}; run `millrace {maker(name)}` first, "
                "or set tables.root to where it lies"
            ) from error

    def _since_last_change(self, name: str) -> Iterator[Commit]:
        """Commits, newest first, down to the last one that changed rows, if the log has it; none without a table."""
        try:
            for commit in self.history(name):
                yield commit
                if not commit.is_housekeeping:
                    return
        except NoTableError:
            return

    def _last_change(self, name: str) -> Commit | None:
        """The last commit that changed rows; None if there is no table, or no such commit in its log any more."""
        return next((commit for commit in self._since_last_change(name) if not commit.is_housekeeping), None)


def pin_of(history: Iterator[Commit]) -> Pin:
    """What a table's commits, newest first, say of it; there is one at least."""
    newest = last = next(history)
    while last.is_housekeeping and (earlier := next(history, None)):
        last = earlier
    return Pin(newest.version, last.version)


def maker(name: str) -> str:
    """The command that makes a table."""
    from jobs.tasks import TASKS
    from spark_udfs.simulated.scenes import SCENES

    made_by = {table.name: "simulate" for scene in SCENES.values() for table in scene}
    made_by |= {task.table: "score" for task in TASKS.values()} | MADE_BY
    # Tables that tasks read are made of the shop's own sources, or of the simulated shop's, by ingest.
    made_by |= {name.rstrip("?"): "ingest" for task in TASKS.values() for name in task.simulated}
    made_by |= {task.live.table: "stream" for task in TASKS.values() if task.live is not None}
    return made_by.get(name, "ingest").replace("_", "-")
