"""A task's own tables from their sources: columns by name and type, rows that do not fit to quarantine.

`sources.TABLE` in the settings says where a table's rows lie; the task says which columns it reads, and their types. A
second run on the same files changes nothing; other files make the table anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StructType, TimestampNTZType, TimestampType

from jobs import dispositions, in_place, sources
from jobs.console import say, show_table, step
from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.erasure.persons import of_no_person_in
from jobs.ingest_rules import CORRECT_TIMES
from jobs.sessions import session_settings
from jobs.settings import Settings
from jobs.settings_sources import TableSource, Wide
from jobs.source import Raw, Source, column
from jobs.tables import Tables
from jobs.task import Task, said_persons
from spark_udfs import typed_texts
from spark_udfs.moments import DAY_US
from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import ERASED, NOT_KEPT
from training.errors import DataError, SchemaError, SettingsError, TooManyBadRows

if TYPE_CHECKING:
    from spark_udfs.erased import Erased

JOB = "ingest"
YES, NO = ["true", "t", "yes", "y", "1"], ["false", "f", "no", "n", "0"]
KEPT, MALFORMED = "kept", "malformed line"


def ingest(
    settings: Settings, tables: Tables, task: Task, frames: Mapping[str, DataFrame] | None = None
) -> dict[str, Any]:
    """Bring in every table that the task reads; of `frames`, rows by name, those that `sources.TABLE.table` names.

    Returns:
        `tables`: by name its `source`, `rows`, `bad` rows by reason, `version` and `up_to_date`; `up_to_date`: whether
        all were.

    Raises:
        SettingsError: a table has no source, or a source no table.
        DataError: a source is missing, empty or unreadable. SchemaError: it lacks a column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
    """
    reads = {name.removesuffix("?"): dict(columns) for name, columns in task.reads(settings).items()}
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
        unknown = sorted(set(source.columns) - set(reads.get(table, source.columns)))
        problems += [
            f"sources.{table}.columns has the unknown name '{name}'; task '{task.name}' reads {', '.join(reads[table])}"
            for name in unknown
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
    place, asked = f"sources.{name}", settings.sources.get(name, TableSource())
    with step(f"looking for the rows of {name}"):
        source = _find(settings, tables, task, name, asked, frames)
        held = said_persons(settings, name)
        watch = Watch(tables, JOB, name, held)
        unused = set() if asked.in_place else {"in_place"}  # so that what was made before there was such a thing stays
        inputs = {
            "source": source.name,
            "files": source.state,
            "settings": asked.model_dump(mode="json", exclude={"path", "table", "persons"} | unused),
            "columns": dict(columns),
            **watch.inputs,
        }
        known = tables.up_to_date(name, JOB, inputs)
    if known:
        say(f"{name} is up to date with {source.name}")
        counts = _held(tables, _batch(name, inputs))
        return _told(source.name, counts, tables.version(name), up_to_date=True)
    with step("looking for who was erased"):
        persons = _erased(tables, settings, name)
    with (
        session_settings(tables.spark, CORRECT_TIMES | sources.DECODING),
        step(f"reading {source.name}"),
        sources.readable(source),
    ):
        wanted = _wanted(asked, columns)
        raw = sources.read(tables.spark, source, wanted)
        rows = _melted(raw, asked.wide, place, wanted) if asked.wide else raw.rows
        typed = erased.marked(_typed(rows, asked, columns, wanted, raw.malformed), persons, held).persist()
        counts = {row["reason"] or KEPT: row["count"] for row in typed.groupBy("reason").count().collect()}
        _check(counts, source.name, place, settings.tables.quarantine_limit)
        batch = _batch(name, inputs)
        aside = _aside(typed, persons, of_no_person_in(settings, task, name)).select(
            F.lit(source.name).alias("source"), "reason", "row", F.lit(batch).alias("batch")
        )
        tally = dispositions.tally(tables, batch, {source.name: counts})
        watch.before_writing()
        of_batch: dict[str, Any] = {"job": JOB, "inputs": inputs, "where": f"held.batch = '{batch}'"}
        tables.merge_new("quarantine", aside.distinct(), ["batch", "row"], **of_batch)
        tables.merge_new(dispositions.TABLE, tally, ["batch", "disposition"], **of_batch)
        if asked.in_place and _is_as_read(source, asked, columns, counts):
            version = tables.stand_for(name, in_place.place_of(source), source.version or 0, job=JOB, inputs=inputs)
        else:
            kept = typed.where("reason IS NULL").select(*columns)
            version = tables.write(name, kept, mode="overwrite", job=JOB, inputs=inputs)
        typed.unpersist()
        watch.after_writing([name], batch)
    return _told(source.name, counts, version, up_to_date=False)


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
    why = in_place.obstacle(source, asked, columns, sum(counts.values()) - counts.get(KEPT, 0))
    if why is not None:
        say(f"{source.name} is copied, for {why}")
    return why is None


def _erased(tables: Tables, settings: Settings, name: str) -> Erased | None:
    """Who was erased.

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


def _aside(typed: DataFrame, persons: Erased | None, of_nobody: frozenset[str]) -> DataFrame:
    """The rows for quarantine; once anybody was erased, none that mentions one, and no text of a malformed line.

    Args:
        typed: all rows.
        persons: who was erased.
        of_nobody: the source's columns whose values say nothing of a person.
    """
    rows = typed.where(F.col("reason") != ERASED)
    if persons is None:
        return rows
    row = F.when(F.col("reason") == MALFORMED, NOT_KEPT).otherwise(F.col("row"))
    return persons.unmentioned(rows.withColumn("row", row), "row", of_nobody, trimmed)


def _bad(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in counts.items() if reason not in (KEPT, ERASED)}


def _told(source: str, counts: Mapping[str, int], version: int, *, up_to_date: bool) -> dict[str, Any]:
    bad = _bad(counts)
    return {
        "source": source,
        "rows": counts.get(KEPT, 0),
        "bad": bad,
        "version": version,
        "up_to_date": up_to_date,
    }


def _wanted(asked: TableSource, columns: Mapping[str, str]) -> dict[str, str]:
    """The source's column of each of ours; where none is named, the one of the same name."""
    made = set() if asked.wide is None else {asked.wide.time, asked.wide.value}
    return {name: asked.columns.get(name, name) for name in columns if name not in made}


def _melted(raw: Raw, wide: Wide, place: str, wanted: dict[str, str]) -> DataFrame:
    """A row for each column that holds one period: its time, and the value.

    Raises:
        SchemaError: no column is named so.
    """
    pattern = re.compile(f"{re.escape(wide.prefix)}([0-9]+)")
    found = {name: int(match[1]) for name in raw.rows.columns if (match := pattern.fullmatch(name))}
    if not found:
        raise SchemaError(
            f"{place}.wide.prefix is '{wide.prefix}', and no column is named so with a number behind; the source has: "
            f"{', '.join(raw.rows.columns)}"
        )
    first = int((wide.start.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() * 1_000_000)
    cells = F.array(
        *(
            F.struct(
                F.timestamp_micros(F.lit(first + number * wide.days * DAY_US)).alias(wide.time),
                column(name).alias(wide.value),
            )
            for name, number in sorted(found.items(), key=lambda item: item[1])
        )
    )
    held = [column(name) for name in raw.rows.columns if name not in found]
    wanted |= {wide.time: wide.time, wide.value: wide.value}
    return raw.rows.select(*held, F.explode(cells).alias("_cell")).select(
        *(F.col(c) for c in _names(raw, found)), "_cell.*"
    )


def _names(raw: Raw, found: Mapping[str, int]) -> list[str]:
    return [f"`{name.replace('`', '``')}`" for name in raw.rows.columns if name not in found]


def _typed(
    rows: DataFrame, asked: TableSource, columns: Mapping[str, str], wanted: Mapping[str, str], malformed: str | None
) -> DataFrame:
    """Our columns with their types, `row` (JSON of the source's columns) and `reason` (null: the row fits)."""
    values, reasons = [], []
    texts = {name: F.trim(column(wanted[name]).cast("string")) for name in columns}
    with_texts = rows.select(
        *(column(name) for name in rows.columns),
        *(_number_text(text, asked).alias(_place_of(name)) for name, text in texts.items()),
    )
    for name, kind in columns.items():
        held, wanted_type = column(wanted[name]), kind.removesuffix("?")
        value = _value(held, wanted_type, rows.schema, name, wanted[name], asked)
        values.append(value.alias(name))
        is_there = held.isNotNull() & (F.trim(held.cast("string")) != "")
        reasons.append(F.when(is_there & value.isNull(), F.lit(f"{name} is no {wanted_type}")))
        if not kind.endswith("?"):
            reasons.append(F.when(~F.coalesce(is_there, F.lit(False)), F.lit(f"{name} is missing")))
    if malformed is not None:
        reasons.insert(0, F.when(column(malformed).isNotNull(), F.lit(MALFORMED)))
    shown = [column(name).cast("string").alias(name) for name in rows.columns]
    return with_texts.select(*values, F.to_json(F.struct(*shown)).alias("row"), F.coalesce(*reasons).alias("reason"))


def _place_of(name: str) -> str:
    return f"_text of {name}"


def _number_text(text: Column, asked: TableSource) -> Column:
    return typed_texts.with_point(text) if asked.decimal == "," else text


def _value(held: Column, kind: str, schema: StructType, ours: str, name: str, asked: TableSource) -> Column:
    """A value of a kind, null where it is none; `_text of OURS` has the text of a number."""
    text, words = F.trim(held.cast("string")), asked.words.get(ours)
    if words is not None:
        pairs = [F.when(text == word, F.lit(float(value))) for word, value in words.items()]
        return F.coalesce(*pairs, F.lit(None).cast("double")).cast(kind)
    if kind == "string":
        return F.when(text != "", text)
    if kind == "timestamp":
        held_as = schema[name].dataType
        if isinstance(held_as, TimestampType):
            return held
        if isinstance(held_as, DateType | TimestampNTZType):
            return typed_texts.in_zone(held.cast("timestamp"), asked.time_zone)
        return typed_texts.time(text, asked.time_format, asked.time_zone)
    if kind == "boolean":
        return F.when(F.lower(text).isin(YES), True).when(F.lower(text).isin(NO), False)
    value = F.expr(f"try_cast(`{_place_of(ours)}` AS {kind})")
    if kind in ("double", "float"):
        return F.when(~F.isnan(value) & (F.abs(value) != F.lit(float("inf"))), value)
    return value


def _check(counts: Mapping[str, int], source: str, place: str, limit: float) -> None:
    rows, bad = sum(counts.values()), _bad(counts)
    if not rows:
        raise DataError(f"'{source}' holds no rows; name files that hold some in {place}.path")
    if sum(bad.values()) > limit * rows:
        listed = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(bad.items(), key=lambda item: -item[1]))
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {rows:,} rows of '{source}' are bad, over tables.quarantine_limit {limit:g}: "
            f"{listed}. Correct the file or {place}, or raise the limit; nothing was written"
        )


def _batch(name: str, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([name, inputs], sort_keys=True).encode()).hexdigest()[:12]


def _held(tables: Tables, batch: str) -> dict[str, int]:
    rows = tables.read("dispositions").where(F.col("batch") == batch).select("disposition", "rows").collect()
    return {row["disposition"]: row["rows"] for row in rows}
