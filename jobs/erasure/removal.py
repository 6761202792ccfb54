"""Removing persons from one Delta table: from its rows, its old files, and its log.

A table's log names persons too: each added file's least and greatest user id stand in the commits and checkpoints. So
after rows and files the log is cut: one last commit with a checkpoint of what the table is now, and everything before
it goes. That commit says of itself what the last change of rows said, so that jobs still know what a table was made
from. Every step may be done again: a removal that was killed is done from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from pyspark.sql import functions as F

from jobs import commits, delta_sql
from jobs.erasure import log as erasure_log
from jobs.sessions import SPARK_ERRORS, partitions_for, session_settings
from jobs.store_files import files_in, leftovers, remove
from jobs.tables import USER_METADATA, Tables
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

JOB = "erase"
LISTING, SHUFFLE = "spark.sql.sources.parallelPartitionDiscovery.parallelism", "spark.sql.shuffle.partitions"
EVERY = "delta.checkpointInterval"
APPEND_ONLY = "delta.appendOnly"
SET_ASIDE = (EVERY, APPEND_ONLY)  # properties of a table that are other ones while it is cleaned
# Delta refuses to remove files younger than a week unless it is told; it is, for this one VACUUM.
ANY_AGE = {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}


def is_vocabulary(name: str) -> bool:
    """Whether a table is a vocabulary: an id that is erased keeps its row there, and loses its name."""
    return name.startswith("vocabulary_")


class Gone(NamedTuple):
    """Rows to remove from a table; in a vocabulary they lose their id instead.

    Attributes:
        name: the table.
        column: of the table.
        values: a column `value`: rows whose `column` has one of these.
        is_raw: whether the table's values stand as they were written, with blanks around.
    """

    name: str
    column: str
    values: DataFrame
    is_raw: bool = False

    @property
    def same(self) -> Column:
        """Whether a row of the table (`held`) has one of the values (`new`); a table may have a column `value` too."""
        held = F.col(f"held.`{self.column}`")
        return (F.trim(held) if self.is_raw else held) == F.col("new.value")


class Cleaned(NamedTuple):
    """What was done to a table: the version that it has now, and how many files of its log went."""

    version: int
    log_files: int


def few_tasks(tables: Tables, name: str) -> AbstractContextManager[None]:
    """Session settings for a table of this size: VACUUM lists and deletes in 10,000 tasks unless it is told."""
    few = partitions_for(tables.spark, tables.size(name))
    return session_settings(tables.spark, few | {LISTING: few.get(SHUFFLE, "200")})


def count(tables: Tables, gone: Sequence[Gone]) -> int:
    """How many rows a table has of those that are to go, each once."""
    rows, found = tables.read(gone[0].name), 0
    for each in gone:
        held, values = rows.alias("held"), each.values.distinct().alias("new")
        found += held.join(values, on=each.same, how="left_semi").count()
        rows = held.join(values, on=each.same, how="left_anti")
    return found


def properties(tables: Tables, name: str) -> dict[str, str]:
    """What a table is set to of that which is set aside while it is cleaned: note it before."""
    return {key: value for key, value in tables.detail(name)["properties"].items() if key in SET_ASIDE}


def tidy(tables: Tables, name: str, horizon_hours: float) -> int:
    """Remove what killed writers left in hidden files and folders, which VACUUM passes over; returns how many."""
    found = leftovers(tables.spark, tables.path(name), erasure_log.oldest_kept(horizon_hours))
    for path in found:
        remove(tables.spark, path)
    return len(found)


def clean(tables: Tables, gone: Sequence[Gone], *, rows: int, horizon_hours: float, held: Mapping[str, str]) -> Cleaned:
    """Remove rows, then the files and the log that held them.

    Args:
        tables: where the table lies.
        gone: which rows, of one table.
        rows: how many these are; 0: none is looked for.
        horizon_hours: files that are no part of the table any more stay so long.
        held: its `properties`; they are restored.

    Raises:
        TableError: another writer changed the table meanwhile, or lost files to VACUUM; or Delta wrote no checkpoint.
    """
    name = gone[0].name
    said = _says(tables, name)
    with _refusing_others(tables, name):
        for each in gone if rows else ():
            _remove_rows(tables, each, said, held)
        place = delta_sql.place(tables.path(name))
        if "deletionVectors" in (tables.detail(name)["tableFeatures"] or ()):
            tables.spark.sql(f"REORG TABLE {place} APPLY (PURGE)")
        with session_settings(tables.spark, ANY_AGE):
            tables.spark.sql(f"VACUUM {place} RETAIN {horizon_hours} HOURS")
        _checkpoint(tables, name, said, held)
    cut = erasure_log.cut(tables, name, horizon_hours)
    return Cleaned(tables.version(name), cut)


def old(tables: Tables, name: str) -> Callable[[str], bool]:
    """Tells of a file's path whether the table as it is now does without it."""
    live = {path.rpartition("/")[2] for path in tables.read(name).inputFiles()}
    checkpoint = max(erasure_log.checkpoints(files_in(tables.spark, f"{tables.path(name)}/_delta_log")), default=0)

    def is_old(path: str) -> bool:
        last = path.rpartition("/")[2]
        if "/_delta_log/" in path:
            return erasure_log.is_past(last, checkpoint)
        return quote(last) not in live and last not in live

    return is_old


def _remove_rows(tables: Tables, gone: Gone, said: str, properties: Mapping[str, str]) -> None:
    """Remove the rows in one commit."""
    path, column = tables.path(gone.name), f"`{gone.column}`"
    of_vocabulary = is_vocabulary(gone.name)
    if of_vocabulary or properties.get(APPEND_ONLY) == "true":
        delta_sql.set_properties(tables.spark, path, {APPEND_ONLY: "false"})
    held = f"trim(held.{column})" if gone.is_raw else f"held.{column}"
    then = f"UPDATE SET {column} = NULL" if of_vocabulary else "DELETE"
    with session_settings(tables.spark, {USER_METADATA: said}):
        delta_sql.merge(tables.spark, path, gone.values.distinct(), f"{held} = new.value", f"WHEN MATCHED THEN {then}")


def _says(tables: Tables, name: str) -> str:
    """What our commits say of themselves: that of the last change of rows, so that the table is made from the same.

    Of what ingest made the rules alone: the next ingest is to read its source again, and to refuse other rules. A
    change by other means says nothing, and so does what stands for it.
    """
    job, inputs = tables.made_by(name), tables.made_from(name)
    if job is None or inputs is None:
        return commits.standing(None, {})
    if job in ("ingest", JOB):
        return commits.standing(JOB, {"rules": inputs["rules"]} if "rules" in inputs else {})
    return commits.standing(job, inputs)


def _checkpoint(tables: Tables, name: str, said: str, properties: Mapping[str, str]) -> None:
    """Two commits that change no row; the first brings a checkpoint, and both restore what the table was set to.

    The first is of the metadata, so a writer that began before it cannot commit after it.
    """
    path = tables.path(name)
    kept = {APPEND_ONLY: "true"} if is_vocabulary(name) else {}
    restored = {key: value for key, value in properties.items() if key != EVERY} | kept
    with session_settings(tables.spark, {USER_METADATA: said}):
        delta_sql.set_properties(tables.spark, path, {EVERY: "1"} | restored)
        _refuse_lost_files(tables, name)
        if EVERY in properties:
            delta_sql.set_properties(tables.spark, path, {EVERY: properties[EVERY]})
        else:
            tables.spark.sql(f"ALTER TABLE {delta_sql.place(path)} UNSET TBLPROPERTIES ('{EVERY}')")


def _refuse_lost_files(tables: Tables, name: str) -> None:
    """Files that another writer had written and not yet committed while VACUUM ran are gone, and its commit names them.

    Raises:
        TableError: there are such.
    """
    root = tables.path(name)
    files = tables.spark.read.format("binaryFile").options(__globPaths__="false", recursiveFileLookup="true")
    held = {row["path"].rpartition("/")[2] for row in files.load(root).select("path").collect()}
    local = root if "://" not in root else root.partition("://")[2]
    live = [unquote(path) for path in tables.read(name).inputFiles()]
    lost = sorted(path for path in live if local in path and path.rpartition("/")[2] not in held)
    if lost:
        raise TableError(
            f"all {len(live):,} files of table '{name}' at {root} must be there; {len(lost):,} are gone, e.g. "
            f"{lost[0]}: another job wrote them while VACUUM ran. Stop it, RESTORE the table to the version before its "
            "commit (DESCRIBE HISTORY), run the erasure again with the same ids, and that job after it"
        )


@contextmanager
def _refusing_others(tables: Tables, name: str) -> Iterator[None]:
    try:
        yield
    except SPARK_ERRORS as error:
        if not commits.is_conflict(error):
            raise
        raise TableError(
            f"table '{name}' at {tables.path(name)} was changed by another writer while persons were erased from it. "
            "Run `millrace erase` again with the same ids once the other has ended; it goes on where it stood"
        ) from error
