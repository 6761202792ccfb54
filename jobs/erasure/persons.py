"""Where persons stand in the tables of a pipeline: in which columns, and how, by what every task says of its own.

Each task names the tables and columns (`Task.persons`), and all tasks are asked whose tables lie there: one root may
hold those of several. Beside them there are quarantine, whose rows are JSON; what a job of Millrace wrote with a column
`user_id`, whatever its name; and the raw tables of a simulated shop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import builds, moved_builds, store_files
from jobs.erasure import erased
from jobs.erasure.removal import is_vocabulary
from jobs.settings import EVENTS
from jobs.settings_sources import TableSource
from jobs.simulate import raw_tables
from jobs.staged import is_staged
from jobs.task import BY_ID, BY_LINE, Task
from jobs.tasks import TASKS
from training.errors import SchemaError, SettingsError

if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.tables import Tables
    from spark_udfs.erased import Erased

RAW, QUARANTINE, USER = "order_lines", "quarantine", "user_id"
IN_ROW = "row"  # somewhere in a row that is JSON


class Mark(NamedTuple):
    """How a person stands in a column: BY_ID, BY_LINE, IN_ROW, or the vocabulary of an index; and who says so."""

    column: str
    how: str
    task: str


class Place(NamedTuple):
    """A table in which persons may stand.

    Attributes:
        key: what logs and certificates call it.
        tables: where it lies.
        name: the table.
        marks: its columns that hold persons.
        is_raw: whether it is a simulated shop's, whose ids stand as they were written.
    """

    key: str
    tables: Tables
    name: str
    marks: tuple[Mark, ...]
    is_raw: bool = False

    def has(self, how: str) -> bool:
        """Whether a column holds persons in this way."""
        return any(mark.how == how for mark in self.marks)

    @property
    def by_id(self) -> list[str]:
        """The columns in which ids stand."""
        return [mark.column for mark in self.marks if mark.how == BY_ID]

    @property
    def says_lines(self) -> bool:
        """Whether its rows say themselves whose line each is."""
        return self.has(BY_LINE) and self.has(BY_ID)

    @property
    def is_nameless(self) -> bool:
        """Whether its rows name persons by an index or by a line alone, so that no search for ids finds them."""
        return any(mark.how not in (BY_ID, IN_ROW) for mark in self.marks)

    @property
    def turn(self) -> int:
        """Which is cleaned before which: what says who a line or an index is of comes after what needs it."""
        if self.says_lines:
            return 1
        if self.has(BY_LINE):
            return 0
        if is_vocabulary(self.name):
            return 4
        return 3 if self.is_nameless else 2 if self.has(IN_ROW) else 1


def of_table(task: Task, settings: Settings, name: str) -> list[str]:
    """The columns of a task's table in which persons stand by their ids."""
    return [column for column, how in task.persons(settings).get(name, {}).items() if how == BY_ID]


def of_no_person_in(settings: Settings, task: Task, name: str) -> frozenset[str]:
    """The columns of a table's source whose values say nothing of a person, for they are no texts to its task."""
    asked = settings.sources.get(name, TableSource())
    reads = {table.removesuffix("?"): columns for table, columns in task.reads(settings).items()}[name]
    others = [column for column, kind in reads.items() if kind.removesuffix("?") != "string"]
    return frozenset(asked.columns.get(column, column) for column in others)


def known_to(tables: Tables, settings: Settings, name: str) -> Erased | None:
    """Who was erased, before rows of a table are read.

    Raises:
        SettingsError: somebody was, and nobody has said by which columns that is told here.
    """
    persons = erased.known(tables)
    if persons is not None and settings.sources.get(name, TableSource()).persons is None:
        raise SettingsError(
            f"persons were erased from the tables at {tables.root}, and sources.{name}.persons does not say which "
            f"columns of '{name}' hold their ids: name them, or [] if there is none; nothing was written"
        )
    return persons


def places(settings: Settings, tables: Tables) -> list[Place]:
    """The tables that are there in which persons may stand, in the order in which they are to be cleaned.

    Raises:
        SettingsError: of a table of `sources` nobody has said which columns hold persons' ids.
        SchemaError: a column of which that was said is not in the table, or not in the one of a stream's answers.
    """
    there = [task for task in TASKS.values() if task.name == settings.task or _is_there(task, settings, tables)]
    asked = [(task, settings_as(settings, task)) for task in there]
    _refuse_unsaid(tables, asked)
    held = list(_of_tasks(tables, asked))
    names = {place.name for place in held}
    held += [
        Place(name, tables, name, (Mark(USER, BY_ID, ""),))
        for name in store_files.tables_in(tables.spark, tables.root)
        if not (name in names or is_staged(name))
        if tables.exists(name) and tables.made_by(name) and USER in tables.read(name).columns
    ]
    if tables.exists(QUARANTINE):
        held.append(Place(QUARANTINE, tables, QUARANTINE, (Mark(IN_ROW, IN_ROW, ""),)))
    return sorted([*_simulated(settings, tables), *held], key=lambda place: place.turn)


def lines_of(settings: Settings, held: list[Place], name: str, ids: DataFrame) -> DataFrame:
    """The ids of all lines of persons (a column `value`), by the tables as they are and as what was made of them read
    them, and by what came after these and says itself whose it is (a stream's rows); kept on the executors, for the
    tables are cleaned later.

    Args:
        settings: the pipeline's.
        held: from `places`.
        name: a task's, some of whose columns are BY_LINE.
        ids: the persons' (a column `value`).
    """
    task, own = TASKS[name], settings_as(settings, TASKS[name])
    (key,) = {mark.column for place in held for mark in place.marks if mark.how == BY_LINE and mark.task == name}
    tables = next(place.tables for place in held if not place.is_raw)
    names = [table for table in task.tables(own) if tables.exists(table)]
    parts = []
    for versions in _versions(tables, task, names):
        read = {
            table: _theirs(tables.read(table, version), of_table(task, own, table), ids)
            for table, version in versions.items()
        }
        parts.append(task.lines(read, own).select(F.col(key).alias("value")))
    for place in held:
        if place.says_lines and any(mark.task == name for mark in place.marks):
            rows = _theirs(place.tables.read(place.name), place.by_id, ids)
            parts.append(rows.select(F.col(key).alias("value")))
    return reduce(DataFrame.union, parts).distinct().localCheckpoint()


def settings_as(settings: Settings, task: Task) -> Settings:
    """The settings of a task whose tables lie there too, with what `sources` say of its tables."""
    if task.name == settings.task:
        return settings
    own = {name: section() for name, section in task.sections.items()}
    return settings.model_copy(update={"task": task.name, **own})


def _is_there(task: Task, settings: Settings, tables: Tables) -> bool:
    return any(tables.exists(name) for name in (*task.tables(settings_as(settings, task)), task.table))


def _refuse_unsaid(tables: Tables, asked: list[tuple[Task, Settings]]) -> None:
    """Nobody but the shop knows which of its own columns hold persons' ids."""
    problems = dict[str, None]()
    for task, settings in asked:
        for name in () if EVENTS in task.tables(settings) else task.tables(settings):
            if tables.exists(name) and settings.sources.get(name, TableSource()).persons is None:
                problems[
                    f"sources.{name}.persons must name the columns of '{name}' that hold a person's id ([]: there is "
                    f"none); it has {', '.join(tables.read(name).columns)}"
                ] = None
    if problems:
        raise SettingsError(f"{'; '.join(problems)}; nothing was erased")


def _of_tasks(tables: Tables, asked: list[tuple[Task, Settings]]) -> Iterator[Place]:
    """The tables of tasks; one that several may have made is the one's that has."""
    marked: dict[str, list[Mark]] = {}
    for task, settings in asked:
        for name, columns in task.persons(settings).items():
            marked.setdefault(name, []).extend(Mark(column, how, task.name) for column, how in columns.items())
    sources = {name for task, settings in asked for name in task.tables(settings)}
    followed = {task.live.table: task.live.follows for task, _ in asked if task.live is not None}
    for name, marks in marked.items():
        if not marks or not tables.exists(name):
            continue
        held, maker = tables.read(name).columns, (tables.made_from(name) or {}).get("task")
        if any(mark.task == maker for mark in marks):
            marks = [mark for mark in marks if mark.task == maker]
        lacking = [mark.column for mark in marks if mark.column not in held]
        if lacking and name in sources:
            raise SchemaError(
                f"table '{name}' at {tables.path(name)} has no column '{lacking[0]}', by which persons are to be found "
                f"(sources.{name}.persons); it has {', '.join(held)}: run `millrace ingest` and erase again; "
                "nothing was erased"
            )
        if lacking and name in followed:
            raise SchemaError(
                f"table '{name}' at {tables.path(name)} has no column '{lacking[0]}', by which persons are to be found "
                f"(sources.{followed[name]}.persons): its rows came before that was said. Add the column (ALTER TABLE) "
                "and fill it from your own rows by their ids, or remove the table and the stream's folder, and erase "
                "again; nothing was erased"
            )
        there = {mark.column: mark for mark in marks if mark.column in held}
        if there:
            yield Place(name, tables, name, tuple(there.values()))


def _simulated(settings: Settings, tables: Tables) -> list[Place]:
    """The raw tables, if the shop is simulated: other raw rows are the shop's own."""
    raw = raw_tables(settings, tables.spark)
    if settings.ingest.events() or not raw.exists(RAW):
        return []
    named: dict[str, set[str]] = {}
    for name, of_shop in TASKS[settings.task].simulated.items():
        source = settings.sources.get(name, TableSource())
        if source.name is None:
            named[of_shop] = {source.columns.get(column, column) for column in source.persons or ()}
    held = []
    for name in store_files.tables_in(tables.spark, raw.root):
        if raw.exists(name) and (name == RAW or raw.made_by(name) == "simulate"):
            of_persons = {USER} | named.get(name, set())
            marks = tuple(Mark(column, BY_ID, "") for column in raw.read(name).columns if column in of_persons)
            held.append(Place(name if name == RAW else f"raw/{name}", raw, name, marks, is_raw=True))
    return [place for place in held if place.marks]


def _versions(tables: Tables, task: Task, names: list[str]) -> list[Mapping[str, int]]:
    """The versions of a task's tables to look for lines in: the newest, and those that the build in force and the last
    answers were made of, as far as they can be read."""
    newest = {name: tables.version(name) for name in names}
    manifest = builds.newest(tables).manifest or {}
    of_build = manifest.get("read", {}) if manifest.get("inputs", {}).get("task") == task.name else {}
    of_answers = (tables.made_from(task.table) or {}).get("tables", {})
    found = [newest]
    for other in (of_build, of_answers):
        versions = newest | {name: other[name] for name in names if other.get(name) is not None}
        if versions not in found and all(
            moved_builds.has_version(tables.path(name), at) for name, at in versions.items()
        ):
            found.append(versions)
    return list[Mapping[str, int]](found)


def _theirs(rows: DataFrame, columns: Sequence[str], ids: DataFrame) -> DataFrame:
    """The rows that have one of the ids in one of the columns; all, where there is no such column."""
    if not columns:
        return rows
    held = [
        rows.join(ids.select(F.col("value").alias(column)), on=column, how="left_semi").select(*rows.columns)
        for column in columns
    ]
    return reduce(DataFrame.union, held)
