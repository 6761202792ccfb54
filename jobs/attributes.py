"""Attributes of items and users, from tables of their own, into the tables `items` and `users`."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import dispositions, source_files, sources
from jobs.console import say, show_table, step
from jobs.ingest_rules import CORRECT_TIMES
from jobs.sessions import persisted, session_settings
from jobs.settings_sources import AttributeSource
from jobs.source import Raw, Source
from spark_udfs import attributes, typed_texts
from spark_udfs.attributes import GOOD, REASONS, TIME, TYPES, AttributeRules
from spark_udfs.order_lines import REPLACED
from training.errors import SchemaError, SettingsError, TooManyBadRows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.settings_sources import IngestSettings
    from jobs.tables import Tables
    from spark_udfs.erased import Erased

JOB = "ingest"
HISTORIES = {"items": "item_history", "users": "user_history"}
IDS = {"items": "item_id", "users": "user_id"}
FACTS = {
    "items": ("item_id", "first_sold", "last_sold", "price"),
    "users": ("user_id", "first_seen", "last_seen"),
}
TEXTS = {"items": ("name", "category"), "users": ("country",)}  # of events; an attribute of the name goes over them
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class AttributeReading(NamedTuple):
    """A source of attributes and how to read it."""

    source: Source
    rules: AttributeRules


def rules_of(ingest: IngestSettings) -> dict[str, AttributeRules]:
    """How to read each source of attributes, by its place in the settings.

    Raises:
        SettingsError: an id is not mapped, or an attribute's name cannot be; all of them are told.
    """
    problems, rules = list[str](), dict[str, AttributeRules]()
    for table, listed in ingest.attributes().items():
        places: dict[str, str] = {}
        for place, asked in listed.items():
            each = AttributeRules(
                id=IDS[table],
                columns=dict(asked.columns),
                types=dict(asked.types),
                time_format=asked.time_format,
                time_zone=asked.time_zone,
                decimal_comma=asked.decimal == ",",
                normalise_ids=ingest.normalise_ids,
            )
            problems += _problems(place, table, each)
            if asked.history and TIME not in asked.columns:
                problems.append(f"{place}.history needs '{TIME}' in {place}.columns: from when on a row holds")
            problems += [
                f"{place}.columns has the attribute '{name}', and so has {places[name]}; name one of them otherwise"
                for name in each.attributes
                if name in places
            ]
            places |= dict.fromkeys(each.attributes, place)
            rules[place] = each
    if problems:
        raise SettingsError("; ".join(problems))
    return rules


def made_from(readings: Sequence[AttributeReading]) -> dict[str, Any]:
    """What attributes add to a table's inputs; nothing without any."""
    listed = [
        {"source": source.name, "files": source.state, "rules": vars(rules), "encoding": source.asked.encoding}
        | ({"history": True} if keeps_history(source) else {})
        | ({"written": written} if (written := source.asked.written) else {})
        for source, rules in readings
    ]
    return {"attributes": listed} if listed else {}


def look_into(tables: Tables, described: Mapping[str, Sequence[AttributeReading]]) -> None:
    """Open the sources, before anything is written: a column that is missing or of another type is said first.

    Args:
        tables: where the attributes go.
        described: the sources, by table.

    Raises:
        DataError: a source cannot be read.
        SchemaError: as of `gathered`.
    """
    with session_settings(tables.spark, CORRECT_TIMES | sources.AS_TEXTS):
        for name, readings in described.items():
            parts = []
            for source, rules in readings:
                with step(f"looking into {source.name}"), sources.readable(source):
                    raw = _opened(tables.spark, source, rules)
                parts.append(attributes.kept(attributes.sort_out(raw.rows, rules, raw.malformed), rules))
            if parts:
                _joined(tables, name, readings, parts)


@contextmanager
def gathered(
    tables: Tables,
    name: str,
    readings: Sequence[AttributeReading],
    inputs: Mapping[str, Any],
    *,
    limit: float,
    persons: Erased | None,
) -> Iterator[DataFrame]:
    """The attributes of all sources, a row an id, for a while; counts, bad rows and histories are written.

    Args:
        tables: where these go.
        name: items or users.
        readings: the sources.
        inputs: what the attributes are made from.
        limit: the share of bad rows of a source past which nothing is written.
        persons: who was erased: they get no row.

    Raises:
        SchemaError: an attribute has another type than in the table that is there, or no type that a table takes.
        TooManyBadRows: a source passed the limit.
    """
    spark, batch, parts, histories = tables.spark, _batch(inputs), list[DataFrame](), list[DataFrame]()
    of_batch = f"held.batch = '{batch}'"
    tallied: dict[str, Counter[str]] = {}
    with session_settings(spark, CORRECT_TIMES | sources.AS_TEXTS), ExitStack() as held:
        for source, rules in readings:
            with step(f"reading {source.name}"), sources.readable(source):
                raw = _opened(spark, source, rules)
                if TIME in rules.columns and typed_texts.zoneless(raw.rows, rules.columns[TIME], rules.time_format):
                    say(f"times of {source.name} name no zone: taken as {rules.time_zone} ({source.place}.time_zone)")
                sorted_out = held.enter_context(persisted(attributes.sort_out(raw.rows, rules, raw.malformed)))
                counts = {row["disposition"]: row["rows"] for row in attributes.counts(sorted_out).collect()}
                is_replaced = not sorted_out.where(F.contains("row", F.lit(REPLACED))).isEmpty()
            if is_replaced:
                source_files.refuse_undecodable(spark, source)
            _check(source, counts, limit)
            aside = attributes.set_aside(sorted_out)
            if persons is not None:
                aside = persons.unmentioned(aside, "row", frozenset(), str.strip).distinct()
            aside = aside.select(F.lit(source.name).alias("source"), "reason", "row", F.lit(batch).alias("batch"))
            tables.merge_new("quarantine", aside, ["batch", "row"], job=JOB, inputs=inputs, where=of_batch)
            tallied[source.name] = tallied.get(source.name, Counter()) + Counter(counts)  # a file may be read twice
            made_of = sorted_out
            if persons is not None and rules.id == "user_id":
                made_of = persons.without(sorted_out, F.col("user_id"))
            parts.append(attributes.kept(made_of, rules))
            if keeps_history(source):
                histories.append(attributes.history(made_of, rules))
            show_table(f"Rows of {source.name}", ("disposition", "rows"), sorted(counts.items()))
        tally, keys = dispositions.tally(tables, batch, tallied), ["batch", "source", "disposition"]
        tables.merge_new(dispositions.TABLE, tally, keys, job=JOB, inputs=inputs, where=of_batch)
        made = _joined(tables, name, readings, parts)
        if histories:
            every = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), histories)
            with step(f"writing {HISTORIES[name]}"):
                tables.write(HISTORIES[name], every, mode="overwrite", job=JOB, inputs=inputs)
        elif tables.exists(HISTORIES[name]):  # of what no source keeps any more
            none = tables.read(HISTORIES[name]).select(IDS[name], attributes.TIME).limit(0)
            tables.write(HISTORIES[name], none, mode="overwrite", job=JOB, inputs=inputs)
        yield made


def keeps_history(source: Source) -> bool:
    """Whether every row of a source counts from its time on, beside the newest of each id."""
    return isinstance(source.asked, AttributeSource) and source.asked.history


def counts_of(tables: Tables, inputs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Rows by disposition of each source, as they were counted."""
    return dispositions.of_batch(tables, _batch(inputs))


def _problems(place: str, table: str, rules: AttributeRules) -> list[str]:
    found = [f"{place}.columns needs '{rules.id}'"] if rules.id not in rules.columns else []
    if not rules.attributes:
        found.append(f"{place}.columns names no attribute, e.g. {{{rules.id}: id, brand: brand}}")
    taken = [name for name in rules.attributes if name in FACTS[table]]
    found += [f"{place}.columns has '{name}', which {table} have of the events; name it otherwise" for name in taken]
    odd = [name for name in rules.attributes if not _NAME.fullmatch(name)]
    found += [f"{place}.columns has '{name}': an attribute's name has letters, digits and _ alone" for name in odd]
    of_file = [column for column, count in Counter(rules.columns.values()).items() if count > 1]
    found += [f"{place}.columns has the file's column '{column}' more than once" for column in of_file]
    strange = sorted(rules.types.keys() - {*rules.attributes})
    return found + [f"{place}.types has '{name}', which is no attribute" for name in strange]


def _opened(spark: SparkSession, source: Source, rules: AttributeRules) -> Raw:
    """A source's rows, lazily."""
    raw = sources.read(spark, source, rules.columns, typed=True)
    _refuse_maps(source, raw.rows, rules)
    return raw


def _joined(tables: Tables, name: str, readings: Sequence[AttributeReading], parts: Sequence[DataFrame]) -> DataFrame:
    """A row an id, of types that the table may have."""
    made = attributes.joined(parts[0], IDS[name], parts[1:], ())
    named = [each for _, rules in readings for each in rules.attributes]
    _refuse_other_types(tables, name, made, [each for each in named if each not in TEXTS[name]])
    return made


def _refuse_maps(source: Source, rows: DataFrame, rules: AttributeRules) -> None:
    for name in rules.attributes:
        kind = rows.schema[rules.columns[name]].dataType.simpleString()
        if "map<" in kind or "variant" in kind:
            raise SchemaError(
                f"attribute '{name}' of '{source.name}' is {kind}; attributes are of {', '.join(TYPES.values())} and "
                "the like: take its parts out as columns first, or leave it out"
            )


def _check(source: Source, counts: Mapping[str, int], limit: float) -> None:
    bad = {what: count for what, count in counts.items() if what not in GOOD}
    if sum(bad.values()) > limit * sum(counts.values()):
        listed = ", ".join(f"{what}: {count:,} ({REASONS[what]})" for what, count in sorted(bad.items()))
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {sum(counts.values()):,} rows of '{source.name}' are bad, over "
            f"tables.quarantine_limit {limit:g}: {listed}. Correct the file, or {source.place}.columns and .types, or "
            "raise the limit"
        )


def _refuse_other_types(tables: Tables, name: str, made: DataFrame, names: Sequence[str]) -> None:
    """What reads an attribute relies on its type."""
    if not tables.exists(name):
        return
    held = {field.name: field.dataType.simpleString() for field in tables.read(name).schema.fields}
    new = {field.name: field.dataType.simpleString() for field in made.schema.fields}
    other = [each for each in names if held.get(each, new[each]) != new[each]]
    changed = [f"'{each}' is {new[each]} and was {held[each]}" for each in other]
    if changed:
        raise SchemaError(
            f"attributes of table '{name}' at {tables.path(name)} change their type: {'; '.join(changed)}. Say the "
            f"type in types (of ingest.{name}), name the attribute otherwise, or remove the table"
        )


def _batch(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]
