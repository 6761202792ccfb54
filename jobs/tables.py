"""Named Delta tables below one root: the only reader and writer of tables in Millrace.

Every commit carries its job and its inputs (JSON, as the commit's user metadata), so that a job that is run twice with
the same inputs sees that it has nothing to do, and a transaction id (Delta's txnAppId and txnVersion), so that a write
that Spark retries lands once and a write on top of a change that it has not seen is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame

from jobs import commits, delta_sql
from jobs.sessions import session_settings
from jobs.table_writes import MICROSECONDS, TableWrites, digest

USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
WRITABLE = "TBLPROPERTIES ('delta.appendOnly' = 'false')"  # of a clone, whatever the other table is
TRANSACTION, TRANSACTION_VERSION = (f"spark.databricks.delta.write.{name}" for name in ("txnAppId", "txnVersion"))
NOTHING_NEW = "millrace.nothingNew"  # the property that `note_nothing_new` sets


class Tables(TableWrites):
    """The tables of one pipeline, to read and to write.

    Args:
        spark: a session with Delta Lake.
        root: a folder or an object-store URL; each table is a folder below it.
        catalogue: a schema in which each table that is written has a name too, e.g. main.shop; None: in none.
    """

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
        is_new = self._make(name, df, (), properties or {})
        self.give_name(name)
        version = self.version(name)
        held = self.read(name, version).alias("held")  # as `where` names it
        there = (held if where is None else held.where(where)).select(*keys)
        same = " AND ".join([f"held.`{key}` = new.`{key}`" for key in keys] + ([] if where is None else [f"({where})"]))
        metadata = commits.metadata(job, inputs)
        # Whoever made the table adds rows to it unread (below), so of two first writers the second is left out.
        first = {TRANSACTION: f"millrace/{job}/{name}", TRANSACTION_VERSION: "1"} if version == 0 else {}
        asked = df.persist()  # which is looked at twice
        nothing_there = is_new and version == 0 and held.isEmpty()
        try:
            if (asked if nothing_there else asked.join(there, on=list(keys), how="left_anti")).isEmpty():
                return version
            if nothing_there:
                return self.write(name, asked, mode="append", job=job, inputs=inputs, since=version)
            with (
                self._one_writer(name, job),
                session_settings(self.spark, MICROSECONDS | first | {USER_METADATA: metadata.text}),
            ):
                delta_sql.merge(self.spark, self.path(name), asked, same, "WHEN NOT MATCHED THEN INSERT *")
        finally:
            asked.unpersist()
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

    def merge(
        self,
        name: str,
        df: DataFrame,
        keys: Sequence[str],
        *,
        since: int,
        job: str,
        inputs: Mapping[str, Any],
    ) -> int:
        """Put rows in place of those with the same keys, and insert the others, in one commit.

        Args:
            name: the table.
            df: rows with unique, non-null keys and the table's columns.
            keys: columns that tell rows apart.
            since: the version that the rows take account of.
            job: the job that writes.
            inputs: what the table is made from then.

        Returns:
            The version that this made.

        Raises:
            TableError: another writer changed the table since; nothing was written.
        """
        same = " AND ".join(f"held.`{key}` = new.`{key}`" for key in keys)
        metadata = commits.metadata(job, inputs)
        # The transaction of those who replace the table whole; see `write`.
        transaction = {TRANSACTION: f"millrace/{job}/{name}", TRANSACTION_VERSION: str(since + 1)}
        with (
            self._one_writer(name, job),
            session_settings(self.spark, MICROSECONDS | transaction | {USER_METADATA: metadata.text}),
        ):
            then = "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
            delta_sql.merge(self.spark, self.path(name), df, same, then)
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
            same = f"held.`{column}` = new.`{column}`"
            metadata = commits.metadata(job, inputs)
            with self._one_writer(name, job), session_settings(self.spark, {USER_METADATA: metadata.text}):
                delta_sql.merge(self.spark, self.path(name), gone, same, "WHEN MATCHED THEN DELETE")
        return rows

    def put_back(self, name: str, version: int, *, job: str, inputs: Mapping[str, Any]) -> int:
        """See that a table's rows are those of one of its versions: where they are others, a commit puts these back.

        Args:
            name: the table.
            version: one whose files are still there.
            job: the job that asks for it.
            inputs: what determines the rows of that version.

        Returns:
            The table's version.

        Raises:
            TableError: there is no such table, or another writer changed it meanwhile.
        """
        pin = self.pin(name)
        if pin.content <= version <= pin.version:
            return pin.version
        metadata = commits.metadata(job, inputs)
        with (
            self._named(name),
            self._one_writer(name, job),
            session_settings(self.spark, {USER_METADATA: metadata.text}),
        ):
            self.spark.sql(f"RESTORE TABLE {delta_sql.place(self.path(name))} TO VERSION AS OF {version}")
        return self._version_of(name, metadata)

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
            delta_sql.set_properties(self.spark, self.path(name), {NOTHING_NEW: digest(inputs)})
