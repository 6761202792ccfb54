"""What ingest has taken in, file by file: a later run reads the files that are new, and no other.

The table `ingested` has a row for each file of each source, and for each version of a source that is a table, with the
batch that brought it. It is written before the events: its last commit says from what the events are made with its last
batch and what they were made from without it, so that a batch that was torn in between is told from one that landed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.appended import appended
from jobs.tables import Tables
from training.errors import DataError, SchemaError

if TYPE_CHECKING:
    from jobs.source import Raw, Source

TABLE, JOB = "ingested", "ingest"
FILE = ("file", "size", "modified")
MOST_FILES = 10_000  # new ones that are named one by one; more are read with all others


class Known(NamedTuple):
    """What the events hold by now.

    Attributes:
        rows: of `ingested`.
        number: of the last batch.
        made_from: the inputs of the events with it.
    """

    rows: DataFrame
    number: int
    made_from: Mapping[str, Any]

    def last_batch(self, sources: Sequence[str]) -> str:
        """The batch that brought rows of these sources last."""
        of_sources = self.rows.where(F.col("source").isin(*sources))
        return str(of_sources.select(F.max_by("batch", "number")).collect()[0][0])

    def columns(self, source: str) -> list[dict[str, str]]:
        """The columns, with types, that a source had; several where they differ by file. Empty files tell none."""
        held = self.rows.where(F.col("source") == source).select("columns").distinct().collect()
        return [columns for row in held if (columns := json.loads(row["columns"]))]


class Unread(NamedTuple):
    """What of a source is to be read.

    Attributes:
        source: all of it, or cut down to what is new; None: nothing is.
        is_changed: whether what was taken in has changed since.
    """

    source: Source | None
    is_changed: bool = False


def known(tables: Tables, erased: Mapping[str, int]) -> Known | None:
    """What was taken in; None if nothing was, or the events were changed by other means since.

    Args:
        tables: where the events lie.
        erased: what the job adds to its inputs for the persons who were erased.
    """
    said = tables.made_from(TABLE)
    if said is None or said["made_from"].get("erased") != erased.get("erased"):
        return None
    rows, number = tables.read(TABLE), int(said["number"])
    if tables.up_to_date("events", JOB, said["made_from"]):
        return Known(rows, number, said["made_from"])
    if said["before"] is not None and tables.up_to_date("events", JOB, said["before"]):
        return Known(rows.where(F.col("number") < number), number - 1, said["before"])
    return None


def unread(tables: Tables, source: Source, known: Known | None) -> Unread:
    """What of a source was not taken in yet."""
    if known is None:
        return Unread(source)
    held = known.rows.where(F.col("source") == source.name)
    return _unread_files(source, held) if source.listed is not None else _unread_table(tables, source, held)


def note(
    tables: Tables,
    taken: Mapping[str, tuple[Source, str]],
    known: Known | None,
    made_from: Mapping[str, Any],
    *,
    batch: str,
    number: int,
    since: int,
    whole: bool,
) -> None:
    """Say what a batch brings; the events follow.

    Args:
        tables: where the events lie.
        taken: what was read of each source, and the source's columns (`columns_of`).
        known: what was taken in before.
        made_from: inputs of the events with the batch.
        batch: its name.
        number: its number.
        since: the version of `ingested` that it takes account of; -1: there was none.
        whole: whether the batch takes the place of all that these sources brought before.

    Raises:
        TableError: another ingest has taken something in meanwhile; nothing was written.
    """
    parts = [
        _rows(tables, source).select(
            F.lit(name).alias("source"),
            *FILE,
            F.lit(columns).alias("columns"),
            F.lit(batch).alias("batch"),
            F.lit(number).cast("bigint").alias("number"),
        )
        for name, (source, columns) in taken.items()
    ]
    if whole and known is not None:
        parts.append(known.rows.where(~F.col("source").isin(*taken)))
    rows, before = reduce(DataFrame.unionByName, parts), None if known is None or whole else known.made_from
    tables.write(
        TABLE,
        rows.coalesce(1),
        mode="overwrite",
        where=f"number >= {number}" if before is not None else None,  # what a torn batch has left goes
        since=since,
        job=JOB,
        inputs={"made_from": made_from, "before": before, "number": number},
    )


def in_force(tables: Tables) -> DataFrame:
    """`source`, `batch`: the batches of which the events consist, each once."""
    return tables.read(TABLE).select("source", "batch").distinct()


def columns_of(raw: Raw) -> str:
    """A source's columns with their types, as JSON."""
    return json.dumps(dict(raw.columns))


def refuse_other_columns(source: Source, raw: Raw, held: Sequence[Mapping[str, str]]) -> None:
    """Files that cannot be read together are not read one after the other either.

    Raises:
        DataError: a csv file has another header than those of before.
        SchemaError: a column has another type.
    """
    if not raw.columns or (source.asked.format == "json" and source.table is None):
        return
    if source.asked.format == "csv" and source.table is None:
        names = [name for name, _ in raw.columns]
        other = next((list(before) for before in held if list(before) != names), None)
        if other is not None:
            raise DataError(
                f"'{source.name}' has files with different headers: those of before have {', '.join(other)}, new ones "
                f"{', '.join(names)}. Give all files the same header, or ingest them one by one"
            )
    for before in held:
        own = [(name, kind) for name, kind in raw.columns if name not in source.partitions]  # folders have no types
        changed = [(name, kind) for name, kind in own if before.get(name, kind) != kind]
        if changed:
            told = " and ".join(f"column '{name}' is {before[name]} and {kind}" for name, kind in changed)
            raise SchemaError(
                f"'{source.name}' has files in which {told}: write all of them with the same types, or ingest them one "
                "by one"
            )


def _unread_files(source: Source, held: DataFrame) -> Unread:
    assert source.listed is not None
    if held.isEmpty():
        return Unread(source)
    there = source.listed.select("file", "size", F.struct("size", "modified").alias("is"))
    before = held.select("file", F.struct("size", "modified").alias("was"))
    both = there.join(before, on="file", how="left")  # what is gone is no matter: its events stay
    is_new = F.col("was").isNull()
    counts = both.agg(
        F.count_if(is_new).alias("new"), F.count_if(F.col("is") != F.col("was")).alias("changed")
    ).collect()[0]
    if counts["changed"] or counts["new"] > MOST_FILES or (counts["new"] and not source.can_be_cut_down):
        return Unread(source, is_changed=True)
    if not counts["new"]:
        return Unread(None)
    new = both.where(is_new).select("file", "size").collect()
    files = tuple(sorted(row["file"] for row in new))
    return Unread(replace(source, files=files, size=sum(row["size"] for row in new), is_cut_down=True))


def _unread_table(tables: Tables, source: Source, held: DataFrame) -> Unread:
    before = held.orderBy(F.desc("number")).limit(1).collect()
    if not before:
        return Unread(source)
    was = json.loads(before[0]["file"])
    if source.version is None or source.folder is None or before[0]["size"] is None:
        return Unread(None) if was == source.state else Unread(source, is_changed=True)
    if was[1:] not in ([], source.state[1:]):  # once the table's id was not noted
        return Unread(source, is_changed=True)
    if was[0] == source.state[0]:
        return Unread(None)
    root, _, name = source.folder.rpartition("/")
    rows = appended(Tables(tables.spark, root), name, before[0]["size"], source.version)
    return Unread(source, is_changed=True) if rows is None else Unread(replace(source, table=rows, is_cut_down=True))


def _rows(tables: Tables, source: Source) -> DataFrame:
    """FILE of what a source has that was read."""
    if source.listed is None:
        row = (json.dumps(source.state), source.version, None)
        return tables.spark.createDataFrame([row], "file string, size bigint, modified bigint")
    if not source.files:
        return source.listed
    return source.listed.where(F.col("file").isin(*source.files))
