"""Named Delta tables below one root: the only reader and writer of tables in Millrace.

Every commit carries its job and its inputs (JSON, as the commit's user metadata), so that a job that is run twice with
the same inputs sees that it has nothing to do, and a transaction id (Delta's txnAppId and txnVersion), so that a write
that Spark retries lands once and a write on top of a change that it has not seen is refused. Every read is pinned to
one version: a table that changes while a job runs does not change what the job sees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from jobs import commits
from jobs.commits import Commit, Metadata, is_conflict
from jobs.sessions import session_settings
from training.errors import SchemaError, TableError

MADE_BY = {
    "order_lines": "simulate",
    "events": "ingest",
    "items": "ingest",
    "users": "ingest",
    "quarantine": "ingest",
    "dispositions": "ingest",
    "vocabulary_items": "build_examples",
    "vocabulary_users": "build_examples",
    "examples": "build_examples",
    "queries": "build_examples",
    "catalogue": "build_examples",
    "builds": "build_examples",
    "recommendations": "score",
    "feedback": "ingest_feedback",
    "erased": "erase",
    "erasure_key": "erase",
    "erasures": "erase",
}
# Spark's own default, INT96, is deprecated and read as nanoseconds elsewhere.
MICROSECONDS = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
NOTHING_NEW = "millrace.nothingNew"  # the property that `note_nothing_new` sets


class Pin(NamedTuple):
    """A table as a job finds it.

    Attributes:
        version: the newest version: the one to read.
        content: the version of the last commit that changed rows: the one to compare, as housekeeping leaves it alone.
    """

    version: int
    content: int


class Tables:
    """The tables of one pipeline.

    Args:
        spark: a session with Delta Lake.
        root: a folder or an object-store URL; each table is a folder below it.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        # Spark's SQL resolves a relative path against its warehouse, everything else against the working folder.
        self.root = root.rstrip("/") if ":/" in root else str(Path(root).absolute())

    def path(self, name: str) -> str:
        """Where a table lies, whether it exists or not."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether there is a Delta table of this name."""
        return bool(DeltaTable.isDeltaTable(self.spark, self.path(name)))

    def version(self, name: str) -> int:
        """The table's newest version, for reading.

        Raises:
            TableError: there is no such table.
        """
        return int(self._table(name).history(1).select("version").collect()[0][0])

    def pin(self, name: str) -> Pin:
        """The table's newest version, and the one that tells whether its rows have changed.

        Raises:
            TableError: there is no such table.
        """
        commits = self._commits(name)
        newest = last = next(commits)
        while last.is_housekeeping and (earlier := next(commits, None)):
            last = earlier
        return Pin(newest.version, last.version)

    def size(self, name: str) -> int:
        """Bytes of the table's newest version.

        Raises:
            TableError: there is no such table.
        """
        return int(self._table(name).detail().select("sizeInBytes").collect()[0][0])

    def folders(self, name: str) -> list[str]:
        """The columns that are folders.

        Raises:
            TableError: there is no such table.
        """
        return list(self._table(name).detail().select("partitionColumns").collect()[0][0])

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """One version of a table; the newest at the time of this call if none is named.

        Raises:
            TableError: there is no such table or no such version.
        """
        pinned = self.version(name) if version is None else version
        try:
            return self.spark.read.format("delta").option("versionAsOf", pinned).load(self.path(name))
        except AnalysisException as error:
            raise TableError(
                f"table '{name}' at {self.path(name)} has no version {pinned} any more (newest: {self.version(name)}); "
                f"run `millrace {_maker(name)}` again, or name a version that VACUUM has not removed"
            ) from error

    def write(
        self,
        name: str,
        df: DataFrame,
        *,
        mode: Literal["overwrite", "append"],
        job: str,
        inputs: Mapping[str, Any],
        where: str | None = None,
        partition_by: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        since: int | None = None,
    ) -> int:
        """Write rows in one commit, on top of what the table is now.

        Args:
            name: the table; made if it does not exist.
            df: the rows.
            mode: "overwrite" replaces rows and schema, or the rows that `where` names; "append" adds rows, those of one
                job and inputs once for ever.
            job: the job that writes.
            inputs: what determines the rows (versions read, settings), JSON-able; see `up_to_date`.
            where: a condition of Spark's SQL that all rows given meet; other rows stay.
            partition_by: columns that become folders.
            properties: options of Delta's writer; those named delta.* become the table's properties when it is made;
                those named parquet.* hold for this write's Parquet files.
            since: the version that the rows take account of (-1: no table); default: the newest at this call.

        Returns:
            The version that this write made, or the one that had the rows already.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written.
        """
        given = dict(properties or {})
        if where is not None:
            self._make(name, df, partition_by, given)
            given["replaceWhere"] = where
        if since is None:
            since = self._newest(name) if mode == "overwrite" else -1  # what is added takes account of nothing
        # Whoever replaces a whole table on top of the same version shares a transaction: the second one is left out.
        whole = mode == "overwrite" and where is None
        transaction = f"millrace/{job}/{name}" + ("" if whole else f"/{_digest(inputs)}")
        file_options = {key: given.pop(key) for key in list(given) if key.startswith("parquet.")}
        metadata = commits.metadata(job, inputs)
        writer = df.write.format("delta").mode(mode).options(**given).option("userMetadata", metadata.text)
        writer = writer.option("txnAppId", transaction).option("txnVersion", 0 if mode == "append" else since + 1)
        if whole:
            writer = writer.option("overwriteSchema", "true")
        if partition_by:
            writer = writer.partitionBy(*partition_by)
        with self._one_writer(name, job), session_settings(self.spark, MICROSECONDS | file_options):
            writer.save(self.path(name))
        return self._version_of(name, metadata, by_inputs=mode == "append")

    def merge_new(
        self,
        name: str,
        df: DataFrame,
        keys: Sequence[str],
        *,
        job: str,
        inputs: Mapping[str, Any],
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Insert the rows whose keys the table does not hold; rows that it holds stay as they are.

        Args:
            name: the table; made if it does not exist.
            df: rows with unique, non-null keys.
            keys: columns that tell rows apart.
            job: the job that writes.
            inputs: what determines the rows.
            properties: the table's properties, for its making.

        Returns:
            The table's version; unchanged if there was nothing to insert.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written.
        """
        self._make(name, df, (), properties or {})
        version = self.version(name)
        if df.join(self.read(name, version).select(*keys), on=list(keys), how="left_anti").isEmpty():
            return version
        same = " AND ".join(f"held.`{key}` = new.`{key}`" for key in keys)
        merge = self._table(name).alias("held").merge(df.alias("new"), same).whenNotMatchedInsertAll()
        metadata = commits.metadata(job, inputs)
        with (
            self._one_writer(name, job),
            session_settings(self.spark, MICROSECONDS | {USER_METADATA: metadata.text}),
        ):
            merge.execute()
        return self._version_of(name, metadata)

    def remove(self, name: str, values: DataFrame, *, job: str, inputs: Mapping[str, Any]) -> int:
        """Remove the rows that have one of the values.

        Args:
            name: the table.
            values: one column, of a name that the table has too.
            job: the job that removes them.
            inputs: what the table is made from without them.

        Returns:
            How many rows went; if none, there was no commit.

        Raises:
            TableError: there is no such table, or another writer changed it meanwhile; nothing was removed.
        """
        (column,), gone = values.columns, values.distinct()
        rows = self.read(name).join(gone, on=column, how="left_semi").count()
        if rows:
            merge = self._table(name).alias("held").merge(gone.alias("gone"), f"held.`{column}` = gone.`{column}`")
            metadata = commits.metadata(job, inputs)
            with self._one_writer(name, job), session_settings(self.spark, {USER_METADATA: metadata.text}):
                merge.whenMatchedDelete().execute()
        return rows

    def clone(self, name: str, root: str, version: int | None = None) -> None:
        """Make the same table below another root, if there is none: a clone that shares the files, not a copy.

        Args:
            name: the table.
            root: where the clone shall lie.
            version: the one to clone; None: the newest.

        Raises:
            TableError: there is no such table here.
        """
        pinned = self.version(name) if version is None else version
        there = Tables(self.spark, root).path(name)
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS delta.`{there}` SHALLOW CLONE delta.`{self.path(name)}` VERSION AS OF {pinned}"
        )

    def made_from(self, name: str) -> dict[str, Any] | None:
        """Inputs of the table's last change; None if there is no table, or it was changed by other means."""
        made = self._last_change(name)
        return dict(json.loads(made.made)["inputs"]) if made is not None and made.made is not None else None

    def made_by(self, name: str) -> str | None:
        """The job of the table's last change; None if there is no table, or it was changed by other means."""
        made = self._last_change(name)
        return str(json.loads(made.made)["job"]) if made is not None and made.made is not None else None

    def up_to_date(self, name: str, job: str, inputs: Mapping[str, Any]) -> bool:
        """Whether this job made the table's last change from these inputs, or has found since that it holds them."""
        made = commits.metadata(job, inputs).made
        return any(commit.made == made for commit in self._since_last_change(name))

    def note_nothing_new(self, name: str, job: str, inputs: Mapping[str, Any]) -> None:
        """Commit that the table holds all that the job makes of these inputs: no row of them was new.

        The commit sets a property, so it changes no row, and counts until rows change; see `up_to_date`.

        Raises:
            TableError: there is no such table, or another writer changed it meanwhile.
        """
        self._table(name)
        metadata = commits.metadata(job, inputs)
        with self._one_writer(name, job), session_settings(self.spark, {USER_METADATA: metadata.text}):
            self.spark.sql(
                f"ALTER TABLE delta.`{self.path(name)}` SET TBLPROPERTIES ('{NOTHING_NEW}' = '{_digest(inputs)}')"
            )

    def require(self, df: DataFrame, name: str, columns: Mapping[str, str]) -> DataFrame:
        """Check columns and types, and return them alone, in the order given.

        Args:
            df: rows of the table.
            name: the table's name, for the message.
            columns: Spark's name of each column's type ("bigint", "array<float>"), by column.

        Raises:
            SchemaError: columns are missing or of another type; all of them are listed.
        """
        held = {field.name: field.dataType.simpleString() for field in df.schema.fields}
        problems = [
            f"column '{column}' must be {wanted}, it is {held.get(column, 'missing')}"
            for column, wanted in columns.items()
            if held.get(column) != wanted
        ]
        if problems:
            raise SchemaError(
                f"table '{name}' at {self.path(name)}: {'; '.join(problems)}. "
                f"Run `millrace {_maker(name)}` to make it anew, or fix what wrote it"
            )
        return df.select(*columns)

    def _newest(self, name: str) -> int:
        """The table's newest version; -1 without a table."""
        try:
            return self.version(name)
        except TableError:
            return -1

    def _table(self, name: str) -> DeltaTable:
        try:
            return DeltaTable.forPath(self.spark, self.path(name))
        except AnalysisException as error:
            if self.exists(name):
                raise
            raise TableError(
                f"table '{name}' does not exist at {self.path(name)}; run `millrace {_maker(name)}` first, "
                "or set tables.root to where it lies"
            ) from error

    def _make(self, name: str, df: DataFrame, partition_by: Sequence[str], properties: Mapping[str, str]) -> None:
        """Make an empty table for such rows, unless there is one: two that write the first rows at once both fit.

        By a write of no rows: CREATE TABLE refuses a folder in which another writer's log has just begun.
        """
        if self.exists(name):
            return
        of_table = {key: value for key, value in properties.items() if key.startswith("delta.")}
        nothing = self.spark.createDataFrame([], df.schema).write.format("delta").mode("ignore").options(**of_table)
        if partition_by:
            nothing = nothing.partitionBy(*partition_by)
        try:
            nothing.save(self.path(name))
        except (PySparkException, Py4JJavaError) as error:
            if not is_conflict(error):
                raise

    def _commits(self, name: str) -> Iterator[Commit]:
        return commits.newest_first(self._table(name).history)

    def _since_last_change(self, name: str) -> Iterator[Commit]:
        """Commits, newest first, down to the last one that changed rows, if the log has it; none without a table."""
        try:
            for commit in self._commits(name):
                yield commit
                if not commit.is_housekeeping:
                    return
        except TableError:
            return

    def _last_change(self, name: str) -> Commit | None:
        """The last commit that changed rows; None if there is no table, or no such commit in its log any more."""
        return next((commit for commit in self._since_last_change(name) if not commit.is_housekeeping), None)

    def _version_of(self, name: str, metadata: Metadata, *, by_inputs: bool = False) -> int:
        """The version of one write: another writer may have committed since.

        Raises:
            TableError: there is none; Delta passed over the write, because another came first.
        """
        for commit in self._commits(name):
            if commit.write == metadata.write or (by_inputs and commit.made == metadata.made):
                return commit.version
        raise self._changed_meanwhile(name, json.loads(metadata.made)["job"])

    @contextmanager
    def _one_writer(self, name: str, job: str) -> Iterator[None]:
        try:
            yield
        except (PySparkException, Py4JJavaError) as error:
            if not is_conflict(error):
                raise
            raise self._changed_meanwhile(name, job) from error

    def _changed_meanwhile(self, name: str, job: str) -> TableError:
        return TableError(
            f"table '{name}' at {self.path(name)} was changed by another writer while `{job}` wrote to it; "
            f"nothing of this write was kept. Run `millrace {job.replace('_', '-')}` again once the other has ended"
        )


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _maker(name: str) -> str:
    return MADE_BY.get(name, "ingest").replace("_", "-")
