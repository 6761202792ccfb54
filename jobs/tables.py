"""Named Delta tables below one root: the only reader and writer of tables in Millrace.

Every commit carries its job and its inputs (JSON, as the commit's user metadata), so that a job that is run twice with
the same inputs sees that it has nothing to do, and a transaction id (Delta's txnAppId and txnVersion), so that a write
that Spark retries lands once and a write on top of a change that it has not seen is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession

from jobs import catalogue_tables, commits, delta_sql
from jobs.commits import Metadata, is_conflict
from jobs.sessions import SPARK_ERRORS, session_settings
from jobs.table_reads import TableReads
from training.errors import TableError

# Spark's own default, INT96, is deprecated and read as nanoseconds elsewhere.
MICROSECONDS = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
WRITABLE = "TBLPROPERTIES ('delta.appendOnly' = 'false')"  # of a clone, whatever the other table is
NOTHING_NEW = "millrace.nothingNew"  # the property that `note_nothing_new` sets


class Tables(TableReads):
    """The tables of one pipeline, to read and to write.

    Args:
        spark: a session with Delta Lake.
        root: a folder or an object-store URL; each table is a folder below it.
        catalogue: a schema in which each table that is written has a name too, e.g. main.shop; None: in none.
    """

    def __init__(self, spark: SparkSession, root: str, catalogue: str | None = None) -> None:
        super().__init__(spark, root)
        self._catalogue, self._named_there = catalogue, set[str]()

    def up_to_date(self, name: str, job: str, inputs: Mapping[str, Any]) -> bool:
        """Whether this job made the table's last change from these inputs, or has found since that it holds them.

        Raises:
            TableError: the table cannot have its name in the catalogue.
        """
        held = super().up_to_date(name, job, inputs)
        if held:
            self.give_name(name)
        return held

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
            since: the version that the rows take account of (-1: no table); default: of an overwrite the newest at this
                call, of rows that are added none.

        Returns:
            The version that this write made, or the one that had the rows already.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written. Or the table cannot have its
                name in the catalogue.
        """
        self._refuse_other(name)
        given = dict(properties or {})
        if where is not None:
            self._make(name, df, partition_by, given)
            given["replaceWhere"] = where
        # Who replaces a whole table, or adds to it, on top of one version shares a transaction: the second is left out.
        whole, once = mode == "overwrite" and where is None, mode == "append" and since is None
        is_shared = whole or (mode == "append" and not once)
        transaction = f"millrace/{job}/{name}" + ("" if is_shared else f"/{_digest(inputs)}")
        if since is None:
            since = -1 if once else self._newest(name)
        file_options = {key: given.pop(key) for key in list(given) if key.startswith("parquet.")}
        metadata = commits.metadata(job, inputs)
        writer = df.write.format("delta").mode(mode).options(**given).option("userMetadata", metadata.text)
        writer = writer.option("txnAppId", transaction).option("txnVersion", since + 1)
        if whole:
            writer = writer.option("overwriteSchema", "true")
        if partition_by:
            writer = writer.partitionBy(*partition_by)
        with self._one_writer(name, job), session_settings(self.spark, MICROSECONDS | file_options):
            writer.save(self.path(name))
        self.give_name(name)
        return self._version_of(name, metadata, by_inputs=once)

    def merge_new(
        self,
        name: str,
        df: DataFrame,
        keys: Sequence[str],
        *,
        job: str,
        inputs: Mapping[str, Any],
        where: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Insert the rows whose keys the table does not hold; rows that it holds stay as they are.

        Args:
            name: the table; made if it does not exist.
            df: rows with unique, non-null keys.
            keys: columns that tell rows apart.
            job: the job that writes.
            inputs: what determines the rows.
            where: a condition of Spark's SQL that every row of the table meets which may have one of the keys: files
                whose statistics rule it out are not read.
            properties: the table's properties, for its making.

        Returns:
            The table's version; unchanged if there was nothing to insert.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written. Or the table cannot have its
                name in the catalogue.
        """
        self._refuse_other(name)
        self._make(name, df, (), properties or {})
        self.give_name(name)
        version = self.version(name)
        held = self.read(name, version).alias("held")
        if df.join(
            (held if where is None else held.where(where)).select(*keys), on=list(keys), how="left_anti"
        ).isEmpty():
            return version
        same = " AND ".join([f"held.`{key}` = new.`{key}`" for key in keys] + ([] if where is None else [f"({where})"]))
        metadata = commits.metadata(job, inputs)
        with (
            self._one_writer(name, job),
            session_settings(self.spark, MICROSECONDS | {USER_METADATA: metadata.text}),
        ):
            delta_sql.merge(self.spark, self.path(name), df, same, "WHEN NOT MATCHED THEN INSERT *")
        return self._version_of(name, metadata)

    def append_new(
        self,
        name: str,
        df: DataFrame,
        key: str,
        *,
        order_by: str,
        files: int,
        job: str,
        inputs: Mapping[str, Any],
        where: str | None = None,
    ) -> int:
        """Add the rows whose key the table does not hold, in files that are ranges of a column; no old file changes.

        Args:
            name: the table; made if it does not exist.
            df: rows with unique, non-null keys.
            key: the column that tells rows apart.
            order_by: the column whose ranges are files, so that their statistics tell them apart.
            files: how many of them.
            job: the job that writes.
            inputs: what determines the rows.
            where: as in `merge_new`.

        Returns:
            The table's version; unchanged if there was nothing to add.

        Raises:
            TableError: another writer changed the table meanwhile; nothing was written.
        """
        self._refuse_other(name)
        self._make(name, df, (), {})
        self.give_name(name)
        version = self.version(name)
        held = self.read(name, version)
        same = (held if where is None else held.where(where)).select(key)
        # A table from before there was a column goes on without it.
        new = df if same.isEmpty() else df.join(same, on=key, how="left_anti").persist()
        try:
            if new.isEmpty():
                return version
            ranges = new.select(*held.columns).repartitionByRange(files, order_by).sortWithinPartitions(order_by)
            return self.write(name, ranges, mode="append", job=job, inputs=inputs, since=version)
        finally:
            if new is not df:
                new.unpersist()

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
            same = f"held.`{column}` = new.`{column}`"
            metadata = commits.metadata(job, inputs)
            with self._one_writer(name, job), session_settings(self.spark, {USER_METADATA: metadata.text}):
                delta_sql.merge(self.spark, self.path(name), gone, same, "WHEN MATCHED THEN DELETE")
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
        here, there = (delta_sql.place(tables.path(name)) for tables in (self, Tables(self.spark, root)))
        self.spark.sql(f"CREATE TABLE IF NOT EXISTS {there} SHALLOW CLONE {here} VERSION AS OF {pinned}")

    def stand_for(self, name: str, other: str, version: int, *, job: str, inputs: Mapping[str, Any]) -> int:
        """Make the table a clone of a version of another one: it shares that one's files, and copies none.

        A table that has rows is emptied first, in a commit of its own, for Delta clones into no other.

        Args:
            name: the table; what it held is replaced.
            other: the other table, as SQL names it.
            version: of the other.
            job: the job that makes it.
            inputs: what determines the rows.

        Returns:
            The version that this makes.

        Raises:
            TableError: another writer changed the table meanwhile. Or it cannot have its name in the catalogue.
        """
        self._refuse_other(name)
        metadata, here = commits.metadata(job, inputs), delta_sql.place(self.path(name))
        with self._one_writer(name, job), session_settings(self.spark, {USER_METADATA: metadata.text}):
            if self.exists(name):
                with session_settings(self.spark, {USER_METADATA: ""}):
                    self.spark.sql(f"DELETE FROM {here}")
            self.spark.sql(f"CREATE OR REPLACE TABLE {here} SHALLOW CLONE {other} VERSION AS OF {version} {WRITABLE}")
        self.give_name(name)
        return self._version_of(name, metadata)

    def note_nothing_new(self, name: str, job: str, inputs: Mapping[str, Any]) -> None:
        """Commit that the table holds all that the job makes of these inputs: no row of them was new.

        The commit sets a property, so it changes no row, and counts until rows change; see `up_to_date`.

        Raises:
            TableError: there is no such table, or another writer changed it meanwhile.
        """
        metadata = commits.metadata(job, inputs)
        with (
            self._named(name),
            self._one_writer(name, job),
            session_settings(self.spark, {USER_METADATA: metadata.text}),
        ):
            delta_sql.set_properties(self.spark, self.path(name), {NOTHING_NEW: _digest(inputs)})

    def _refuse_other(self, name: str) -> None:
        """See that the table's name in the catalogue is its own, or free."""
        if self._catalogue is None or name in self._named_there:
            return
        if catalogue_tables.refuse_other(self.spark, self._catalogue, name, self.path(name)):
            self._named_there.add(name)

    def give_name(self, name: str) -> None:
        """Name a table that is there in the catalogue, if it is not named there.

        Raises:
            TableError: something else has the name, or it may not be given.
        """
        self._refuse_other(name)
        if self._catalogue is not None and name not in self._named_there:
            catalogue_tables.give_name(self.spark, self._catalogue, name, self.path(name))
            self._named_there.add(name)

    def _newest(self, name: str) -> int:
        """The table's newest version; -1 without a table."""
        try:
            return self.version(name)
        except TableError:
            return -1

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
        except SPARK_ERRORS as error:
            if not is_conflict(error):
                raise

    def _version_of(self, name: str, metadata: Metadata, *, by_inputs: bool = False) -> int:
        """The version of one write: another writer may have committed since.

        Raises:
            TableError: there is none; Delta passed over the write, because another came first.
        """
        for commit in self.history(name):
            if commit.write == metadata.write or (by_inputs and commit.made == metadata.made):
                return commit.version
        raise self._changed_meanwhile(name, json.loads(metadata.made)["job"])

    @contextmanager
    def _one_writer(self, name: str, job: str) -> Iterator[None]:
        try:
            yield
        except SPARK_ERRORS as error:
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
