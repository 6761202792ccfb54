"""Which tables persons stand in, by all files of all tables: live ones, old ones, and logs.

The executors read the files; what comes to the driver is a row for each file that names a
person. The rows are asked too, for a file may lie elsewhere, or name its columns in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.erasure import files as erasure_files
from jobs.erasure import removal
from jobs.erasure.removal import Gone
from jobs.sessions import session_settings
from jobs.simulate import ORDER_LINES, raw_tables
from jobs.tables import Tables
from spark_udfs.occurrences import ONE_FILE_A_BATCH, Finder, find, finder_for, in_file, trimmed
from spark_udfs.order_lines import NOT_KEPT, normalised, of_no_person

if TYPE_CHECKING:
    from jobs.settings import Settings

RAW, VOCABULARY, QUARANTINE, EXAMPLES = "order_lines", "vocabulary_users", "quarantine", "examples"
MALFORMED = "malformed_line"  # the reason of a line that has no fields
PHYSICAL = "delta.columnMapping.physicalName"
HIDDEN = re.compile(r"^[_.]|\._COPYING_$")  # to Spark
BY_ID = ("events", "users", "queries", "histories", "recommendations", "feedback")
# In this order they are cleaned. The vocabulary is the last: it says which index is whose.
ORDER = (RAW, *BY_ID, QUARANTINE, EXAMPLES, VOCABULARY)


class Scan:
    """Looks for ids in the tables of a pipeline, and in the raw order lines if its shop is simulated.

    Args:
        settings: the pipeline's.
        tables: its tables.
        ids: as ingest keeps them.
    """

    def __init__(self, settings: Settings, tables: Tables, ids: Iterable[str]) -> None:
        clean = normalised if settings.ingest.normalise_ids else trimmed
        self.finder = Finder(ids, settings.ingest.user_columns, clean)
        columns = (asked.columns for asked in settings.ingest.events().values())
        of_nobody = [of_no_person(held) for held in columns] or [of_no_person(ORDER_LINES.columns)]
        self._aside = frozenset.intersection(*of_nobody)
        self._tables, raw = tables, raw_tables(settings, tables.spark)
        self._sources = [_plain(asked.path) for asked in settings.ingest.all_sources().values() if asked.path]
        self._raw = raw if not settings.ingest.events() and raw.exists(RAW) else None
        held = [tables] if self._raw is None else [tables, self._raw]
        self._roots = {erasure_files.qualified(tables.spark, place.root): place for place in held}

    def of(self, name: str) -> Tables:
        """Where a table lies."""
        return self._raw if name == RAW and self._raw is not None else self._tables

    def table_of(self, path: str) -> str | None:
        """The table of persons that a file belongs to, by the first folder below the root; None: another."""
        for root, tables in self._roots.items():
            name = path.removeprefix(f"{root}/").partition("/")[0]
            if path.startswith(f"{root}/{name}/") and name in ORDER and (name == RAW) == (tables is self._raw):
                return name
        return None

    def files(self) -> dict[str, int]:
        """The files in which ids stand, and in how many places; UNREADABLE: nobody knows."""
        spark, finders = self._tables.spark, self._finders()
        folders, hidden = list[str](), list[str]()
        for root in self._roots:
            inner, passed = passed_over(root, erasure_files.below(spark, root))
            folders, hidden = [*folders, root, *inner], [*hidden, *passed]
        with session_settings(spark, ONE_FILE_A_BATCH):
            rows = find(spark, folders, self.finder, finders).collect()
        found = {row["path"]: row["places"] for row in rows}
        for path in hidden:
            found[path] = in_file(path, erasure_files.content(spark, path), finder_for(path, self.finder, finders))
        return {path: places for path, places in found.items() if places and not self._is_source(path)}

    def gone(self, name: str, wanted: DataFrame, indices: DataFrame) -> Gone:
        """Which rows of a table are the persons'.

        Args:
            name: the table.
            wanted: the ids (a column `value`).
            indices: theirs in the vocabulary (a column `value`).
        """
        if name == EXAMPLES:
            return Gone(name, "user", indices)
        if name == QUARANTINE:
            return Gone(name, "row", self.quarantined())
        return Gone(name, "id" if name == VOCABULARY else "user_id", wanted)

    def rows(self, wanted: DataFrame, indices: DataFrame) -> dict[str, int]:
        """How many rows of the tables as they are now are the persons'; tables without any are left out.

        Whatever a table's files are called, and wherever they lie: a clone's lie below another root.
        """
        held = {name: removal.count(self.of(name), self.gone(name, wanted, indices)) for name in self._held()}
        return {name: rows for name, rows in held.items() if rows}

    def _held(self) -> list[str]:
        ours = ORDER if self._raw is not None else ORDER[1:]  # other raw lines are the shop's own
        return [name for name in ours if self.of(name).exists(name)]

    def _finders(self) -> dict[str, Finder]:
        """What to look for in tables whose files name users' columns in another way, by the beginning of a path."""
        roots = {id(tables): root for root, tables in self._roots.items()}
        held: dict[str, Finder] = {}
        for name in self._held():
            logical = frozenset({"id"}) if name == VOCABULARY else self.finder.columns  # `id` is a user's there alone
            columns = logical | _physical(self.of(name), name, logical)
            if columns != self.finder.columns:
                held[f"{roots[id(self.of(name))]}/{name}/"] = self.finder.of_columns(columns)
        return held

    def _is_source(self, path: str) -> bool:
        """Whether a file is of the shop's own source (`ingest.path`), where that lies below the tables' root."""
        below = [source for source in self._sources if source.startswith(f"{_plain(self._tables.root)}/")]
        return any(f"{_plain(path)}/".startswith(f"{source}/") for source in below)

    def still_needed(self, files: dict[str, int]) -> dict[str, int]:
        """Those of the files that the tables as they are now consist of."""
        needed: dict[str, int] = {}
        for name in sorted({name for path in files if (name := self.table_of(path))}):
            is_old = removal.old(self.of(name), name)
            needed |= {
                path: places for path, places in files.items() if self.table_of(path) == name and not is_old(path)
            }
        return needed | {path: places for path, places in files.items() if self.table_of(path) is None}

    def in_rows(self, wanted: DataFrame) -> int:
        """How many of the ids (a column `value`) stand in a column of users of a table as it is now."""
        held = [name for name in (*BY_ID, VOCABULARY) if self._tables.exists(name)]
        if not held:
            return 0
        columns = {name: F.col("id" if name == VOCABULARY else "user_id").alias("value") for name in held}
        ids = reduce(DataFrame.union, [self._tables.read(name).select(column) for name, column in columns.items()])
        return ids.join(wanted, on="value", how="left_semi").distinct().count()

    def indices(self, wanted: DataFrame) -> list[int]:
        """The persons' indices in the vocabulary, while it has their ids."""
        if not self._tables.exists(VOCABULARY):
            return []
        held = self._tables.read(VOCABULARY).withColumnRenamed("id", "value")
        return [row["index"] for row in held.join(wanted, on="value", how="left_semi").select("index").collect()]

    def quarantined(self) -> DataFrame:
        """The raw rows in quarantine (a column `value`) that name one of the persons, and all malformed lines.

        Those have no fields to look at; what ingest has put in place of such a line names nobody.
        """
        rows = self._tables.read(QUARANTINE).where(F.col("row") != NOT_KEPT)
        names = F.udf(partial(self.finder.names, aside=self._aside), "boolean", useArrow=True)
        is_malformed = F.col("reason") == MALFORMED
        return rows.where(F.when(is_malformed, True).otherwise(names("row"))).select(F.col("row").alias("value"))


def passed_over(root: str, files: Iterable[str]) -> tuple[list[str], list[str]]:
    """What Spark passes over when it reads a folder whole, since its name begins with _ or .

    Args:
        root: the folder.
        files: the paths of all files below it.

    Returns:
        Folders to name too, which have files with other names, and files to read by other means.
    """
    folders, hidden = set[str](), list[str]()
    for path in files:
        *parents, name = path.removeprefix(f"{root}/").split("/")
        last = max((number for number, parent in enumerate(parents, 1) if HIDDEN.search(parent)), default=0)
        if HIDDEN.search(name):
            hidden.append(path)
        elif last:
            folders.add("/".join([root, *parents[:last]]))
    return sorted(folders), hidden


def _physical(tables: Tables, name: str, columns: Collection[str]) -> frozenset[str]:
    """What a table's files and log call columns: names of their own where it maps columns (`delta.columnMapping`)."""
    jvm: Any = tables.spark._jvm
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(tables.spark._jsparkSession, tables.path(name))
    fields = json.loads(log.unsafeVolatileSnapshot().schema().json())["fields"]
    return frozenset(field["metadata"].get(PHYSICAL, field["name"]) for field in fields if field["name"] in columns)


def _plain(place: str) -> str:
    """A path or URL as it can be compared: a local one absolute, without its scheme."""
    local = re.sub("^file:/+", "/", place).rstrip("/")
    return local if ":/" in local else str(Path(local).absolute())
