"""Named Delta tables below one root: the only reader and writer of tables in Millrace.

Every commit carries its job and its inputs (JSON, as the commit's user metadata), so that a job that is run twice with
the same inputs sees that it has nothing to do, and a transaction id (Delta's txnAppId and txnVersion), so that a write
that Spark or a person retries lands once. Every read is pinned to one version: a table that changes while a job runs
does not change what the job sees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from delta import exceptions as delta_exceptions
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from cluster.session import build_session
from training.errors import SchemaError, TableError

if TYPE_CHECKING:
    from jobs.settings import Settings

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
    "recommendations": "score",
    "feedback": "ingest_feedback",
}
# Commits that move or describe rows without changing them.
HOUSEKEEPING = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "COMPUTE STATS")
# They share no base class in Python.
CONFLICTS = tuple(getattr(delta_exceptions, name) for name in delta_exceptions.__all__)
HISTORY = 100  # commits looked back for the last change of rows
# Spark's own default, INT96, is deprecated and read as nanoseconds elsewhere.
MICROSECONDS = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"


def open_session(settings: Settings, spark: SparkSession | None = None) -> SparkSession:
    """Return the session given, or start the one that the settings describe."""
    return spark or build_session(
        master=settings.spark.master,
        driver_memory=settings.spark.driver_memory,
        shuffle_partitions=settings.spark.shuffle_partitions,
    )


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
        """The table's newest version.

        Raises:
            TableError: there is no such table.
        """
        return int(self._table(name).history(1).select("version").collect()[0][0])

    def read(self, name: str, version: int | None = None) -> DataFrame:
        """One version of a table; the newest at the time of this call if none is named.

        Raises:
            TableError: there is no such table or no such version.
        """
        pinned = self.version(name) if version is None else version
        self._table(name)
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
        partition_by: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Write rows in one commit; a retry of the same write changes nothing.

        Args:
            name: the table; made if it does not exist.
            df: the rows.
            mode: "overwrite" replaces rows and schema (or, with the property replaceWhere, the rows it names);
                "append" adds rows.
            job: the job that writes.
            inputs: what determines the rows (versions read, settings), JSON-able; see `up_to_date`.
            partition_by: columns that become folders.
            properties: options of Delta's writer; those named delta.* become the table's properties when it is made;
                those named parquet.* hold for this write's Parquet files.

        Returns:
            The version that this write made.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written.
        """
        start = self.version(name) if self.exists(name) else -1
        given = dict(properties or {})
        file_options = {key: given.pop(key) for key in list(given) if key.startswith("parquet.")}
        writer = df.write.format("delta").mode(mode).options(**given).option("userMetadata", _metadata(job, inputs))
        writer = writer.option("txnAppId", f"millrace/{job}/{name}/{_digest(inputs)}").option("txnVersion", start + 1)
        if mode == "overwrite" and "replaceWhere" not in given:
            writer = writer.option("overwriteSchema", "true")
        if partition_by:
            writer = writer.partitionBy(*partition_by)
        with self._one_writer(name, job), session_settings(self.spark, MICROSECONDS | file_options):
            writer.save(self.path(name))
        return self._version_of(name, job, inputs)

    def merge_new(
        self, name: str, df: DataFrame, keys: Sequence[str], *, job: str, inputs: Mapping[str, Any], **first: Any
    ) -> int:
        """Insert the rows whose keys the table does not hold; rows that it holds stay as they are.

        Args:
            name: the table; made if it does not exist.
            df: rows with unique, non-null keys.
            keys: columns that tell rows apart.
            job: the job that writes.
            inputs: what determines the rows.
            **first: `partition_by` and `properties` of `write`, for the table's making.

        Returns:
            The table's version; unchanged if there was nothing to insert.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written.
        """
        if not self.exists(name):
            return self.write(name, df, mode="append", job=job, inputs=inputs, **first)
        if df.join(self.read(name).select(*keys), on=list(keys), how="left_anti").isEmpty():
            return self.version(name)
        same = " AND ".join(f"held.`{key}` = new.`{key}`" for key in keys)
        merge = self._table(name).alias("held").merge(df.alias("new"), same).whenNotMatchedInsertAll()
        settings = MICROSECONDS | {USER_METADATA: _metadata(job, inputs)}
        with self._one_writer(name, job), session_settings(self.spark, settings):
            merge.execute()
        return self._version_of(name, job, inputs)

    def clone(self, name: str, root: str) -> None:
        """Make the same table below another root, if there is none: a clone that shares the files, not a copy.

        Raises:
            TableError: there is no such table here.
        """
        self._table(name)
        there = Tables(self.spark, root).path(name)
        self.spark.sql(f"CREATE TABLE IF NOT EXISTS delta.`{there}` SHALLOW CLONE delta.`{self.path(name)}`")

    def made_from(self, name: str) -> dict[str, Any] | None:
        """Inputs of the table's last change; None if there is no table, or it was changed by other means."""
        metadata = next((metadata for _, metadata in self._changes(name)), None) if self.exists(name) else None
        try:
            inputs = json.loads(metadata or "null")["inputs"]
        except (ValueError, TypeError, KeyError):
            return None
        return dict(inputs)

    def up_to_date(self, name: str, job: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the table's last change was made by this job from these inputs."""
        if not self.exists(name):
            return False
        return next((metadata == _metadata(job, inputs) for _, metadata in self._changes(name)), False)

    def properties(self, name: str) -> dict[str, str]:
        """The table's own properties.

        Raises:
            TableError: there is no such table.
        """
        return dict(self._table(name).detail().select("properties").collect()[0][0])

    def describe(self, name: str, properties: Mapping[str, str]) -> None:
        """Set properties of a table, in a commit that changes no row.

        Raises:
            TableError: there is no such table, or another writer changed it meanwhile.
        """
        self._table(name)
        pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in properties.items())
        with self._one_writer(name, _maker(name)):
            self.spark.sql(f"ALTER TABLE delta.`{self.path(name)}` SET TBLPROPERTIES ({pairs})")

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

    def _table(self, name: str) -> DeltaTable:
        if not self.exists(name):
            raise TableError(
                f"table '{name}' does not exist at {self.path(name)}; run `millrace {_maker(name)}` first, "
                "or set tables.root to where it lies"
            )
        return DeltaTable.forPath(self.spark, self.path(name))

    def _changes(self, name: str) -> Iterator[tuple[int, str | None]]:
        """(version, user metadata) of the commits that changed rows, newest first, among the last HISTORY."""
        for row in self._table(name).history(HISTORY).select("version", "operation", "userMetadata").collect():
            if row["operation"] not in HOUSEKEEPING:
                yield row["version"], row["userMetadata"]

    def _version_of(self, name: str, job: str, inputs: Mapping[str, Any]) -> int:
        """The newest version that this job made from these inputs: another writer may have committed since."""
        wanted = _metadata(job, inputs)
        return next(version for version, metadata in self._changes(name) if metadata == wanted)

    @contextmanager
    def _one_writer(self, name: str, job: str) -> Iterator[None]:
        try:
            yield
        except CONFLICTS as error:
            raise TableError(
                f"table '{name}' at {self.path(name)} was changed by another writer while `{job}` wrote to it; "
                f"nothing of this write was kept. Run `millrace {job}` again once the other has ended"
            ) from error


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Set session settings for a while."""
    before = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _metadata(job: str, inputs: Mapping[str, Any]) -> str:
    return json.dumps({"job": job, "inputs": inputs}, sort_keys=True, default=str)


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _maker(name: str) -> str:
    return MADE_BY.get(name, "ingest")
