"""Answers that are made bucket by bucket, in a table of their own until all are in: a job that was killed goes on.

The place is named by a digest of what decides the answers. A bucket is one commit, and which ones are in is read from
what the commits say of themselves, for a bucket may have no rows. The table has no name in a catalogue: it is there for
a while, and nobody but the job reads it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from cluster.errors import EnvironmentProblem
from jobs import commits, store_files, versions
from jobs.answers import JOB
from jobs.console import say
from jobs.erasure import erased
from jobs.sessions import SPARK_ERRORS
from jobs.table_writes import digest
from jobs.tables import Tables
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.task import Task

PLACE = re.compile(r"staged_(\w+)_[0-9a-f]{12}")
STALE = timedelta(days=7)  # after which a place that nothing was written to is given up


def bucket_of(key: str, buckets: int) -> Column:
    """Which bucket a row belongs to, by its key's id alone: an index or a partition may be another one next time."""
    return F.pmod(F.xxhash64(key), F.lit(buckets)).cast("int")


def is_staged(name: str) -> bool:
    """Whether a table's name is such a place's."""
    return PLACE.fullmatch(name) is not None


def remove_all(tables: Tables) -> list[str]:
    """Remove all such places below a root, whoever writes there: persons stand in them. Returns their names."""
    held = [name for name in store_files.folders_in(tables.spark, tables.root) if is_staged(name)]
    for name in held:
        store_files.remove(tables.spark, tables.path(name))
    return held


def remove_stale(tables: Tables, task: Task) -> None:
    """Remove a task's places that nobody goes on with: to which nothing was written for a week, or whose job did not
    know whom an erasure has taken out since."""
    for name in [] if is_remote() else store_files.folders_in(tables.spark, tables.root):
        if (found := PLACE.fullmatch(name)) is None or found[1] != task.table:
            continue
        written = _last_written(tables, name)
        if written is not None and time.time() - written > STALE.total_seconds():
            say(f"removing {name}: answers that were not finished, and to which nothing came for {STALE.days} days")
            store_files.remove(tables.spark, tables.path(name))
        elif _knew_others_erased(tables, name):
            say(f"removing {name}: answers that were not finished, and persons were erased since")
            store_files.remove(tables.spark, tables.path(name))


def _knew_others_erased(tables: Tables, name: str) -> bool:
    """Whether a place's job knew others as erased than are now; one without a commit may be just begun."""
    if not store_files.files_in(tables.spark, f"{tables.path(name)}/_delta_log"):
        return False
    made = Tables(tables.spark, tables.root).made_from(name, by=JOB)
    return made is not None and made.get("erased") != erased.state(tables)


def _last_written(tables: Tables, name: str) -> float | None:
    """Seconds since 1970 at which a file was last written there, committed or not; None: there is no file."""
    place = tables.path(name)
    held = [file for part in (place, f"{place}/_delta_log") for file in store_files.files_in(tables.spark, part)]
    return max((file.modified / 1e3 for file in held), default=None)


class Staged:
    """The staging place of one set of answers.

    Args:
        tables: below whose root it lies.
        task: whose answers they are.
        inputs: what decides the answers. Another version of the code does not go on with them.
        buckets: how many they are dealt to.

    Raises:
        EnvironmentProblem: the session is one of Spark Connect.
    """

    def __init__(self, tables: Tables, task: Task, inputs: Mapping[str, Any], buckets: int) -> None:
        if is_remote():
            raise EnvironmentProblem(
                f"scoring.buckets={buckets} needs a classic session, for what was staged is removed through the "
                "driver's own JVM; this one is of Spark Connect: set it to 1, or run score with cluster/submit.sh; "
                "nothing was written"
            )
        self._tables, self.buckets = Tables(tables.spark, tables.root), buckets
        self._made = {**inputs, "buckets": buckets, "version": versions.installed("millrace")}
        self.name = f"staged_{task.table}_{digest(self._made)}"

    def missing(self) -> list[int]:
        """The buckets that are not in.

        Raises:
            TableError: what lies there cannot be read.
        """
        with self._readable():
            history = self._tables.history(self.name) if self._tables.exists(self.name) else iter(())
            made = {commit.made for commit in history}
        return [bucket for bucket in range(self.buckets) if self._metadata(bucket) not in made]

    def add(self, bucket: int, rows: DataFrame) -> None:
        """Commit a bucket's answers; one that another job has committed meanwhile stays as it is."""
        self._tables.write(self.name, rows, mode="append", job=JOB, inputs=self._inputs(bucket))

    def rows(self) -> DataFrame:
        """All answers that are in, as they are now.

        Raises:
            TableError: what lies there cannot be read.
        """
        with self._readable():
            return self._tables.read(self.name)

    def remove(self) -> None:
        """Remove the place, if it is there."""
        store_files.remove(self._tables.spark, self._tables.path(self.name))

    @contextmanager
    def there(self) -> Iterator[None]:
        """Say what it means if what was staged goes while it is read or added to.

        Raises:
            TableError: it is gone.
        """
        was_there = self._has_log()
        try:
            yield
        except SPARK_ERRORS as error:
            if not was_there or self._has_log():
                raise
            raise self._unreadable() from error

    def _has_log(self) -> bool:
        return bool(store_files.files_in(self._tables.spark, f"{self._tables.path(self.name)}/_delta_log"))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except SPARK_ERRORS as error:
            raise self._unreadable() from error

    def _unreadable(self) -> TableError:
        return TableError(
            f"staged answers at {self._tables.path(self.name)} must be readable, and are not: another score of the "
            "same inputs has published and removed them, or a removal was killed. Run `millrace score` again once no "
            "other runs; if it says this again, remove the folder"
        )

    def _inputs(self, bucket: int) -> dict[str, Any]:
        return {**self._made, "bucket": bucket}

    def _metadata(self, bucket: int) -> str:
        return commits.metadata(JOB, self._inputs(bucket)).made
