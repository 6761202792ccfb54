"""Writing rows to a named Delta table in one commit that says from what it was made; see jobs/tables.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pyspark.sql import DataFrame, SparkSession

from jobs import added_files, catalogue_tables, commits
from jobs.commits import Metadata, is_conflict
from jobs.sessions import SPARK_ERRORS, session_settings
from jobs.table_reads import TableReads
from training.errors import NoTableError, TableError

if TYPE_CHECKING:
    from spark_udfs.answer_files import Written

# Spark's own default, INT96, is deprecated and read as nanoseconds elsewhere.
MICROSECONDS = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS"}


class TableWrites(TableReads):
    """What all writers of a pipeline's tables have in common."""

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
        # Who replaces a whole table, or says on top of which version he writes, shares a transaction with others who do
        # so on top of the same: the second one is left out.
        whole, once = mode == "overwrite" and where is None, mode == "append" and since is None
        transaction = f"millrace/{job}/{name}" + ("" if whole or since is not None else f"/{digest(inputs)}")
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

    def append_batch(
        self, name: str, df: DataFrame, *, stream: str, number: int, job: str, inputs: Mapping[str, Any]
    ) -> None:
        """Add a batch's rows in one commit, once for ever: a batch that is begun again adds none.

        Args:
            name: the table; made if it does not exist.
            df: the rows.
            stream: the stream's id; batches of others are numbered by themselves.
            number: of the batch, one more than that of the batch before.
            job: the job that writes.
            inputs: what determines the rows.

        Raises:
            TableError: another writer changed the table's columns meanwhile.
        """
        metadata = commits.metadata(job, inputs)
        writer = df.write.format("delta").mode("append").option("userMetadata", metadata.text)
        writer = writer.option("txnAppId", f"millrace/{job}/{stream}").option("txnVersion", number)
        with self._one_writer(name, job):
            writer.save(self.path(name))

    def make(self, name: str, like: DataFrame, partition_by: Sequence[str] = ()) -> None:
        """Make an empty table for such rows, which are not computed, unless there is one.

        Raises:
            TableError: the table cannot have its name in the catalogue.
        """
        self._refuse_other(name)
        self._make(name, like, partition_by, {})
        self.give_name(name)

    def take_in(
        self,
        name: str,
        values: Mapping[str, str],
        write: Callable[[str], Sequence[Written]],
        remove: Callable[[str, Sequence[Written]], None],
        *,
        job: str,
        inputs: Mapping[str, Any],
    ) -> int:
        """Have others write files of rows, and take them in, in place of a partition's rows, in one commit.

        Args:
            name: the table; see `make`.
            values: the partition's, by column.
            write: (the table's path) -> the files that were written in its folder.
            remove: (the table's path, files) -> nothing: takes away what was not taken in.
            job, inputs: as in `write`.

        Returns:
            The version that this made.

        Raises:
            TableError: there is no such table; or another writer changed it, or these rows of it, since this call, and
                nothing was taken in.
        """
        _ = self.version(name)  # there must be one, whose last commit is whole
        path, metadata = self.path(name), commits.metadata(job, inputs)
        begun = added_files.begin(self.spark, path)
        files = write(path)
        try:
            with self._one_writer(name, job):
                return added_files.replace(self.spark, path, begun, files, values, metadata)
        except TableError:
            # A store that answers too late lets a commit conflict with itself.
            if all(commit.write != metadata.write for commit in self.history(name)):
                remove(path, files)
            raise

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
        except NoTableError:
            return -1

    def _make(self, name: str, df: DataFrame, partition_by: Sequence[str], properties: Mapping[str, str]) -> bool:
        """Make an empty table for such rows, unless there is one: two that write the first rows at once both fit.

        By a write of no rows: CREATE TABLE refuses a folder in which another writer's log has just begun.

        Returns:
            Whether there was none.
        """
        if self.exists(name):
            return False
        of_table = {key: value for key, value in properties.items() if key.startswith("delta.")}
        nothing = self.spark.createDataFrame([], df.schema).write.format("delta").mode("ignore").options(**of_table)
        if partition_by:
            nothing = nothing.partitionBy(*partition_by)
        try:
            nothing.save(self.path(name))
        except SPARK_ERRORS as error:
            if not is_conflict(error):
                raise
        return True

    def _version_of(self, name: str, metadata: Metadata, *, by_inputs: bool = False) -> int:
        """The version of one write: another writer may have committed since.

        Raises:
            TableError: there is none; Delta passed over the write, because another came first.
        """
        for commit in self.history(name):
            if commit.write == metadata.write or (by_inputs and commit.made == metadata.made):
                return commit.version
        raise self.changed_meanwhile(name, json.loads(metadata.made)["job"])

    @contextmanager
    def _one_writer(self, name: str, job: str) -> Iterator[None]:
        try:
            yield
        except SPARK_ERRORS as error:
            if not is_conflict(error):
                raise
            raise self.changed_meanwhile(name, job) from error

    def changed_meanwhile(self, name: str, job: str) -> TableError:
        """What a job is told whose write would undo another one's."""
        return TableError(
            f"table '{name}' at {self.path(name)} was changed by another writer while `{job}` wrote to it; "
            f"nothing of this write was kept. Run `millrace {job.replace('_', '-')}` again once the other has ended"
        )


def digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]
