"""A task's own tables from their sources: columns by name and type, rows that do not fit to quarantine.

`sources.TABLE` in the settings says where a table's rows lie; the task says which columns it reads, and their types. A
second run on the same files changes nothing; other files make the table anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from cluster.errors import EnvironmentProblem
from jobs import dispositions, in_place, incoming, ingest_rules, picture_sources, source_rows, sources, unfit_rows
from jobs.console import say, show_table, step
from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.erasure.persons import known_to, of_no_person_in
from jobs.quality import gate
from jobs.sessions import persisted, session_settings
from jobs.settings import Settings
from jobs.settings_sources import TableSource
from jobs.source import Source
from jobs.tables import Tables
from jobs.task import Task, said_persons
from spark_udfs import pictures, typed_texts
from training.errors import SettingsError

if TYPE_CHECKING:
    from spark_udfs.erased import Erased

JOB = "ingest"


class _Table(NamedTuple):
    """A table that is to be made.

    Attributes:
        task: whose it is.
        name: the table.
        columns: what the task reads: types, by column.
        asked: the settings of its source.
        source: where its rows lie.
        inputs: what decides them.
    """

    task: Task
    name: str
    columns: Mapping[str, str]
    asked: TableSource
    source: Source
    inputs: Mapping[str, Any]


def ingest(
    settings: Settings, tables: Tables, task: Task, frames: Mapping[str, DataFrame] | None = None
) -> dict[str, Any]:
    """Bring in every table that the task reads, or, beside events, those that it is given so; of `frames`, rows by
    name, those that `sources.TABLE.table` names.

    Returns:
        `tables`: by name its `source`, `rows`, `bad` rows by reason, `version` and `up_to_date`; `up_to_date`: whether
        all were.

    Raises:
        SettingsError: a table has no source, or a source no table.
        DataError: a source is missing, empty or unreadable. SchemaError: it lacks a column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
        EnvironmentProblem: there are pictures, and nothing here reads them.
        QualityError: a table differs from what it was, and such a one is not to be written.
    """
    reads = {name.removesuffix("?"): dict(columns) for name, columns in task.reads(settings).items()}
    reads = {name: columns for name, columns in reads.items() if name in (task.given or reads)}
    for name, columns in reads.items():
        for of_persons in said_persons(settings, name):
            columns.setdefault(of_persons, "string?")  # one that the task does not read is kept for an erasure
    _refuse_strangers(settings, task, reads)
    made = {
        name: _ingest(settings, tables, task, name, columns, frames or {})
        for name, columns in reads.items()
        if not task.tables(settings)[name] or name in settings.sources
    }
    rows = [
        (name, told["source"], told["rows"], sum(told["bad"].values()), "; ".join(told["bad"]))
        for name, told in made.items()
    ]
    show_table("Tables", ("table", "source", "rows", "bad rows", "why"), rows)
    return {"tables": made, "up_to_date": all(told["up_to_date"] for told in made.values())}


def _refuse_strangers(settings: Settings, task: Task, reads: Mapping[str, Mapping[str, str]]) -> None:
    strangers = sorted(set(settings.sources) - set(reads))
    problems = [
        f"sources.{name} is no table of task '{task.name}', which reads {', '.join(reads)}" for name in strangers
    ]
    for table, source in settings.sources.items():
        for section, named in (("columns", source.columns), ("words", source.words), ("joined", source.joined)):
            problems += [
                f"sources.{table}.{section} has the unknown name '{name}'; task '{task.name}' reads "
                f"{', '.join(reads[table])}"
                for name in sorted(set(named) - set(reads.get(table, named)))
            ]
        problems += [
            f"sources.{table}.joined has '{name}', which is a {reads[table][name]}; ids are texts"
            for name in source.joined
            if not reads.get(table, {}).get(name, "string").startswith("string")
        ]
        problems += [
            f"sources.{table}.persons has '{column}', which is a {reads[table][column]}; ids are texts"
            for column in source.persons or ()
            if not reads.get(table, {}).get(column, "string").startswith("string")
        ]
    if problems:
        raise SettingsError("; ".join(problems))


def _ingest(
    settings: Settings,
    tables: Tables,
    task: Task,
    name: str,
    columns: Mapping[str, str],
    frames: Mapping[str, DataFrame],
) -> dict[str, Any]:
    """Bring in one table, unless it is as its source is."""
    asked = settings.sources.get(name, TableSource())
    with step(f"looking for the rows of {name}"):
        source = _find(settings, tables, task, name, asked, frames)
        watch = Watch(tables, JOB, name, said_persons(settings, name))
        inputs = _inputs(source, asked, columns) | watch.inputs
        known = tables.up_to_date(name, JOB, inputs)
    if known:
        say(f"{name} is up to date with {source.name}")
        counts, version = _held(tables, _batch(name, inputs)), tables.version(name)
    else:
        counts, version = _take_in(settings, tables, _Table(task, name, columns, asked, source, inputs), watch)
    return {
        "source": source.name,
        "rows": counts.get(unfit_rows.KEPT, 0),
        "bad": unfit_rows.bad(counts),
        "version": version,
        "up_to_date": known,
    }


def _inputs(source: Source, asked: TableSource, columns: Mapping[str, str]) -> dict[str, Any]:
    """What decides the rows."""
    # So that what was made before there was such a thing stays.
    later = ("in_place", "order_by_hash_of", "hash_without_numbers", "joined")
    unused = {name for name in later if not getattr(asked, name)}
    return {
        "source": source.name,
        "files": source.state,
        "settings": asked.model_dump(mode="json", exclude={"path", "table", "persons"} | unused),
        "columns": dict(columns),
    }


def _take_in(settings: Settings, tables: Tables, table: _Table, watch: Watch) -> tuple[dict[str, int], int]:
    """Read, type, check, then write: quarantine, dispositions, and the table; its rows by reason, and its version."""
    name, source, asked, inputs = table.name, table.source, table.asked, table.inputs
    with step("looking for who was erased"):
        persons = known_to(tables, settings, name)
    of_pictures = picture_sources.READING if asked.format in picture_sources.FORMATS else {}
    with (
        session_settings(tables.spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS | of_pictures),
        step(f"reading {source.name}"),
        sources.readable(source),
        persisted(_typed(settings, tables, table, persons)) as typed,
    ):
        counts = unfit_rows.counted(tables.spark, table.source, table.asked, table.columns, typed)
        unfit_rows.check(counts, source.name, f"sources.{name}", settings.tables.quarantine_limit)
        batch = _batch(name, inputs)
        gate.pass_through(
            tables,
            lambda: incoming.of_table(settings, tables, name, table.columns, typed, counts, batch),
            settings.quality,
        )
        put_aside = unfit_rows.aside(typed, persons, of_no_person_in(settings, table.task, name)).select(
            F.lit(source.name).alias("source"), "reason", "row", F.lit(batch).alias("batch")
        )
        tally = dispositions.tally(tables, batch, {source.name: counts})
        watch.before_writing()
        of_batch: dict[str, Any] = {"job": JOB, "inputs": inputs, "where": f"held.batch = '{batch}'"}
        tables.merge_new("quarantine", put_aside.distinct(), ["batch", "row"], **of_batch)
        tables.merge_new(dispositions.TABLE, tally, ["batch", "disposition"], **of_batch)
        if asked.in_place and _is_as_read(source, asked, table.columns, counts):
            version = tables.stand_for(name, in_place.place_of(source), source.version or 0, job=JOB, inputs=inputs)
        else:
            kept = typed.where("reason IS NULL").select(*table.columns)
            version = tables.write(name, kept, mode="overwrite", job=JOB, inputs=inputs)
        watch.after_writing([name], batch)
    return counts, version


def _typed(settings: Settings, tables: Tables, table: _Table, persons: Erased | None) -> DataFrame:
    """All rows with their types, and what is wrong with each."""
    asked, wanted = table.asked, source_rows.wanted_of(table.asked, table.columns)
    ingest_rules.try_out(tables.spark, f"sources.{table.name}", asked)
    pictured = [wanted[name] for name, kind in table.columns.items() if kind.removesuffix("?") == source_rows.BINARY]
    if pictured and (missing := pictures.missing()) is not None:
        raise EnvironmentProblem(f"pictures of {table.source.name} are to be read, and {missing}")
    raw = sources.read(tables.spark, table.source, wanted, binary=pictured)
    times = [wanted[name] for name, kind in table.columns.items() if kind.startswith("timestamp") and name in wanted]
    if any(typed_texts.zoneless(raw.rows, name, asked.time_format) for name in times):
        say(f"times of {table.source.name} name no zone: taken as {asked.time_zone} (sources.{table.name}.time_zone)")
    place = f"sources.{table.name}"
    if asked.order_by_hash_of:
        raw = raw._replace(
            rows=source_rows.ordered(
                raw, asked.order_by_hash_of, place, wanted, without_numbers=asked.hash_without_numbers
            )
        )
    rows = source_rows.melted(raw, asked.wide, place, wanted) if asked.wide else raw.rows
    typed = source_rows.typed(rows, asked, table.columns, wanted, raw.malformed)
    return erased.marked(typed, persons, said_persons(settings, table.name))


def _find(
    settings: Settings, tables: Tables, task: Task, name: str, asked: TableSource, frames: Mapping[str, DataFrame]
) -> Source:
    if asked.name is not None:
        return sources.find(f"sources.{name}", asked, tables.spark, frames)
    if name not in task.simulated:
        raise SettingsError(
            f"task '{task.name}' reads the table '{name}': name its file or table in sources.{name}.path or .table"
        )
    return sources.simulated(settings, tables.spark, task.simulated[name], asked)


def _is_as_read(source: Source, asked: TableSource, columns: Mapping[str, str], counts: Mapping[str, int]) -> bool:
    """Whether a table can be read where it lies; says why not."""
    why = in_place.obstacle(source, asked, columns, sum(counts.values()) - counts.get(unfit_rows.KEPT, 0))
    if why is not None:
        say(f"{source.name} is copied, for {why}")
    return why is None


def _batch(name: str, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([name, inputs], sort_keys=True).encode()).hexdigest()[:12]


def _held(tables: Tables, batch: str) -> dict[str, int]:
    rows = tables.read("dispositions").where(F.col("batch") == batch).select("disposition", "rows").collect()
    return {row["disposition"]: row["rows"] for row in rows}
