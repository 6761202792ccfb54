"""Which tables persons stand in, by all files of all tables: live ones, old ones, and logs.

The executors read the files; what comes to the driver is a row for each file that names a
person. The rows are asked too, for a file may lie elsewhere, or name its columns in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import store_files
from jobs.erasure import persons, removal
from jobs.erasure.persons import IN_ROW, QUARANTINE, Place
from jobs.erasure.removal import Gone, is_vocabulary
from jobs.sessions import session_settings
from jobs.settings import EVENTS
from jobs.simulate import ORDER_LINES
from jobs.task import BY_ID, BY_LINE
from jobs.tasks import TASKS
from spark_udfs.occurrences import ONE_FILE_A_BATCH, Finder, find, finder_for, in_file, trimmed
from spark_udfs.order_lines import NOT_KEPT, normalised, of_no_person

if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.tables import Tables

MALFORMED = ("malformed_line", "malformed line")  # the reasons of a line that has no fields
PHYSICAL = "delta.columnMapping.physicalName"
HIDDEN = re.compile(r"^[_.]|\._COPYING_$")  # to Spark


class Wanted(NamedTuple):
    """Whom to erase, each a column `value`: ids; their indices, by vocabulary; the ids of their lines, by task."""

    ids: DataFrame
    indices: Mapping[str, DataFrame]
    lines: Mapping[str, DataFrame]


class Scan:
    """Looks for ids in the tables of a pipeline, and in the raw tables if its shop is simulated.

    Args:
        settings: the pipeline's.
        tables: its tables.
        places: those in which persons may stand (`persons.places`).
        ids: as ingest keeps them.
    """

    def __init__(self, settings: Settings, tables: Tables, places: Iterable[Place], ids: Iterable[str]) -> None:
        self.places = {place.key: place for place in places}
        clean = normalised if settings.ingest.normalise_ids else trimmed
        of_users = settings.ingest.user_columns | set(_source_columns(settings))
        of_users |= {name for place in self.places.values() if not is_vocabulary(place.name) for name in place.by_id}
        self.finder = Finder(ids, of_users, clean)
        self._aside = frozenset.intersection(*_of_nobody(settings))
        self._settings, self._tables = settings, tables
        sources = [*settings.ingest.all_sources().values(), *settings.sources.values()]
        self._sources = [_plain(asked.path) for asked in sources if asked.path]
        held = {id(place.tables): place.tables for place in self.places.values()} | {id(tables): tables}
        self._roots = {store_files.qualified(tables.spark, each.root): each for each in held.values()}

    def table_of(self, path: str) -> str | None:
        """The key of the table of persons that a file belongs to, by the first folder below the root; None: another."""
        for root, tables in self._roots.items():
            name = path.removeprefix(f"{root}/").partition("/")[0]
            if path.startswith(f"{root}/{name}/"):
                found = [key for key, place in self.places.items() if place.name == name and place.tables is tables]
                if found:
                    return found[0]
        return None

    def files(self) -> dict[str, int]:
        """The files in which ids stand, and in how many places; UNREADABLE: nobody knows."""
        spark, finders = self._tables.spark, self._finders()
        folders, hidden = list[str](), list[str]()
        for root in self._roots:
            inner, passed = passed_over(root, store_files.below(spark, root))
            folders, hidden = [*folders, root, *inner], [*hidden, *passed]
        with session_settings(spark, ONE_FILE_A_BATCH):
            rows = find(spark, folders, self.finder, finders).collect()
        found = {row["path"]: row["places"] for row in rows}
        for path in hidden:
            found[path] = in_file(path, store_files.content(spark, path), finder_for(path, self.finder, finders))
        return {path: places for path, places in found.items() if places and not self._is_source(path)}

    def wanted(self, ids: DataFrame) -> Wanted:
        """Whom to erase, while the tables still say which indices and lines are theirs.

        Args:
            ids: the ids (a column `value`).
        """
        held, spark = [*self.places.values()], self._tables.spark
        indices = {
            place.name: spark.createDataFrame([(index,) for index in _indices(place, ids)], "value bigint")
            for place in held
            if is_vocabulary(place.name)
        }
        of_tasks = {mark.task for place in held for mark in place.marks if mark.how == BY_LINE}
        return Wanted(
            ids, indices, {task: persons.lines_of(self._settings, held, task, ids) for task in sorted(of_tasks)}
        )

    def gone(self, place: Place, wanted: Wanted) -> list[Gone]:
        """Which rows of a table are the persons'."""

        def values(mark: persons.Mark) -> DataFrame:
            if mark.how == BY_ID:
                return wanted.ids
            if mark.how == BY_LINE:
                return wanted.lines[mark.task]
            if mark.how == IN_ROW:
                return self.quarantined()
            return wanted.indices.get(mark.how, wanted.ids.where("false").selectExpr("CAST(value AS bigint) AS value"))

        return [Gone(place.name, mark.column, values(mark), place.is_raw) for mark in place.marks]

    def rows(self, wanted: Wanted) -> dict[str, int]:
        """How many rows of the tables as they are now are the persons'; tables without any are left out.

        Whatever a table's files are called, and wherever they lie: a clone's lie below another root.
        """
        held = {key: removal.count(place.tables, self.gone(place, wanted)) for key, place in self.places.items()}
        return {key: rows for key, rows in held.items() if rows}

    def nameless(self) -> set[str]:
        """The tables whose rows name persons by an index or a line alone: no search finds them in old files."""
        return {key for key, place in self.places.items() if place.is_nameless}

    def reached(self, wanted: Wanted, named: Collection[str]) -> set[str]:
        """The tables that may hold persons whom no search finds there: these have an index or a line.

        Args:
            wanted: whom to erase.
            named: the tables in whose files ids stand. Lines of theirs may have been in versions that are gone.
        """
        held = {name for name, indices in wanted.indices.items() if not indices.isEmpty()}
        found = {
            key for key, place in self.places.items() if place.name in held or any(place.has(name) for name in held)
        }
        for task, lines in wanted.lines.items():
            sources = TASKS[task].tables(persons.settings_as(self._settings, TASKS[task]))
            if not lines.isEmpty() or not sources.keys().isdisjoint(named):
                found |= {key for key, place in self.places.items() if any(_is_of(mark, task) for mark in place.marks)}
        return found

    def least(self, wanted: Wanted) -> int | None:
        """The least index of one of the persons, 0 if they have lines; None: neither."""
        if any(not lines.isEmpty() for lines in wanted.lines.values()):
            return 0
        least = [found.agg(F.min("value")).collect()[0][0] for found in wanted.indices.values()]
        return min((index for index in least if index is not None), default=None)

    def vocabularies(self) -> set[str]:
        """The kinds of ids that are persons'."""
        return {place.name.partition("_")[2] for place in self.places.values() if is_vocabulary(place.name)}

    def in_rows(self, wanted: Wanted) -> int:
        """How many of the ids stand in a column of ids of one of the pipeline's tables as it is now."""
        ids = [
            place.tables.read(place.name).select(F.col(column).alias("value"))
            for place in self.places.values()
            if not place.is_raw
            for column in place.by_id
        ]
        if not ids:
            return 0
        every = reduce(DataFrame.union, ids)
        return every.join(wanted.ids, on="value", how="left_semi").distinct().count()

    def _finders(self) -> dict[str, Finder]:
        """What to look for in tables whose files name users' columns in another way, by the beginning of a path."""
        roots = {id(tables): root for root, tables in self._roots.items()}
        held: dict[str, Finder] = {}
        for place in self.places.values():
            # `id` is a user's in vocabularies alone
            logical = frozenset({"id"}) if is_vocabulary(place.name) else self.finder.columns
            columns = logical | _physical(place.tables, place.name, logical)
            if columns != self.finder.columns:
                held[f"{roots[id(place.tables)]}/{place.name}/"] = self.finder.of_columns(columns)
        return held

    def _is_source(self, path: str) -> bool:
        """Whether a file is of the shop's own source (`ingest.path`), where that lies below the tables' root."""
        below = [source for source in self._sources if source.startswith(f"{_plain(self._tables.root)}/")]
        return any(f"{_plain(path)}/".startswith(f"{source}/") for source in below)

    def still_needed(self, files: dict[str, int]) -> dict[str, int]:
        """Those of the files that the tables as they are now consist of."""
        needed: dict[str, int] = {}
        for key in sorted({key for path in files if (key := self.table_of(path))}):
            is_old = removal.old(self.places[key].tables, self.places[key].name)
            needed |= {
                path: places for path, places in files.items() if self.table_of(path) == key and not is_old(path)
            }
        return needed | {path: places for path, places in files.items() if self.table_of(path) is None}

    def quarantined(self) -> DataFrame:
        """The raw rows in quarantine (a column `value`) that name one of the persons, and all malformed lines.

        Those have no fields to look at; what ingest has put in place of such a line names nobody.
        """
        rows = self._tables.read(QUARANTINE).where(F.col("row") != NOT_KEPT)
        names = F.udf(partial(self.finder.names, aside=self._aside), "boolean", useArrow=True)
        is_malformed = F.col("reason").isin(*MALFORMED)
        return rows.where(F.when(is_malformed, True).otherwise(names("row"))).select(F.col("row").alias("value"))


def _of_nobody(settings: Settings) -> list[frozenset[str]]:
    """Of each source the columns whose values say nothing of a person."""
    found = [of_no_person(asked.columns) for asked in settings.ingest.events().values()]
    task = TASKS[settings.task]
    if EVENTS not in task.tables(settings):
        found += [persons.of_no_person_in(settings, task, name) for name in task.tables(settings)]
    return found or [of_no_person(ORDER_LINES.columns)]


def _source_columns(settings: Settings) -> list[str]:
    """The columns of the sources of tables that hold persons' ids."""
    return [asked.columns.get(column, column) for asked in settings.sources.values() for column in asked.persons or ()]


def _indices(place: Place, ids: DataFrame) -> list[int]:
    """The persons' indices in a vocabulary, while it has their ids."""
    held = place.tables.read(place.name).withColumnRenamed("id", "value")
    return [row["index"] for row in held.join(ids, on="value", how="left_semi").select("index").collect()]


def _is_of(mark: persons.Mark, task: str) -> bool:
    return mark.how == BY_LINE and mark.task == task


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
