"""Raw order lines to Delta tables: events, items, users; what is not kept lies in quarantine with its reason.

    python -m jobs.ingest --settings pipeline.yaml ingest.path=lines.csv.gz

Every raw row gets exactly one disposition (spark_udfs/order_lines.py says by which rules) and the counts must add up to
the raw rows. A second run on the same files reads and changes nothing; of more files the new ones are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import (
    attributes,
    descriptions,
    dispositions,
    ingest_batch,
    ingest_inputs,
    ingest_rules,
    source_tables,
    sources,
)
from jobs.attributes import AttributeReading
from jobs.command import main_of
from jobs.console import say, step, warn
from jobs.dispositions import ODD_IDS, UNKNOWN_KIND
from jobs.erasure.erased import Watch
from jobs.ingest_batch import Batch
from jobs.ingest_inputs import Reading
from jobs.sessions import in_utc, open_session, partitions_for, session_settings
from jobs.settings import Settings
from jobs.simulate import ORDER_LINES
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs.attributes import AttributeRules
from spark_udfs.order_lines import Rules
from training.errors import SettingsError

JOB = "ingest"
EVENTS = "events"


@in_utc
def run(
    settings: Settings, spark: SparkSession | None = None, *, frames: Mapping[str, DataFrame] | None = None
) -> dict[str, Any]:
    """Ingest the sources that `settings.ingest` names, or the simulated shop if it names none.

    For a task that reads other tables than events, ingest those of `settings.sources` (jobs/source_tables.py).

    Args:
        settings: the pipeline's.
        spark: a session; None: the active one, or one of the job's own.
        frames: rows by name, in place of the catalogue's tables of these names (`ingest.table`).

    Returns:
        `source` (the names); of the last batch of these sources `dispositions` (rows by disposition), `sources` (the
        same for each), `raw_rows`, `odd_ids` (kept rows whose ids may be one in several forms) and `unknown_kinds`
        (rows by the words that are mapped to no kind, the most frequent ones); `all`: `dispositions` and `raw_rows` of
        all batches of which the events consist; `attributes` (rows by disposition of the sources of each table),
        `tables` (what `source_tables.ingest` says of those that `sources` bring), `up_to_date`, and `versions` of the
        tables of events, items and users.

    Raises:
        SettingsError: `columns` miss a name, have an unknown one or one twice; a pattern, a zone or the encoding is
            wrong; no source has the name of a frame.
        DataError: a source is missing, empty or unreadable, the counts do not add up, the rules changed, or persons
            were erased meanwhile.
        SchemaError: a source has no such column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
        QualityError: a batch differs from the good ones before it, and `quality.gate` is stop.
    """
    task, given = TASKS[settings.task], frames or {}
    _refuse_unnamed(given, settings)
    _refuse_no_tables(settings)
    if EVENTS not in task.tables(settings):
        if named := settings.ingest.all_sources():
            raise SettingsError(
                f"{next(iter(named))} is for tasks that read {EVENTS}; '{task.name}' has tables of its own: say where "
                f"their rows lie in sources, e.g. sources.{next(iter(task.tables(settings)))}"
            )
        spark = open_session(settings, spark)
        tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
        return source_tables.ingest(settings, tables, task, given)
    if strangers := sorted(set(settings.sources) - set(task.given)):
        own = f", and of {', '.join(task.given)}" if task.given else ""
        raise SettingsError(
            f"sources is for tasks that read tables of their own{own}; '{task.name}' reads {EVENTS}: ingest, in place "
            f"of sources.{strangers[0]}"
        )
    of_attributes = attributes.rules_of(settings.ingest)
    rules = {
        place: ingest_rules.rules_of(place, settings.ingest, asked) for place, asked in settings.ingest.events().items()
    }
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    _try_rules(settings, spark)
    with step("ingest: looking at the sources and the tables"):
        readings = _found(settings, spark, rules, given)
        described = _described(settings, spark, of_attributes, given)
        watch = Watch(tables, JOB, EVENTS)
    batch = _planned(tables, readings, watch)
    name = ", ".join(dict.fromkeys(source.name for source, _ in readings))
    with session_settings(spark, partitions_for(spark, sum(source.size for source, _ in batch.readings))):
        if batch.readings:
            attributes.look_into(tables, described)
            ingest_batch.take_in(settings, tables, batch, watch)
        else:
            say(f"events are up to date with {name}")
        made = descriptions.describe(settings, tables, described, watch)
        beside = source_tables.ingest(settings, tables, task, given) if settings.sources else {"tables": {}}
        of_users = [table for table in descriptions.OF_USERS if tables.exists(table)]
        watch.after_writing([EVENTS, *of_users], batch.name)
        told = _told(tables, batch.name)
    return {
        "source": name,
        **told,
        "attributes": made.attributes,
        "tables": beside["tables"],
        "up_to_date": not batch.readings and beside.get("up_to_date", True),
        "versions": made.versions,
    }


def _planned(tables: Tables, readings: Sequence[Reading], watch: Watch) -> Batch:
    """What of the sources is to be read."""
    inputs = ingest_inputs.inputs_of(readings) | watch.inputs  # rows that were kept before may be dropped now
    compared = step("ingest: comparing the sources with what was taken in")
    with session_settings(tables.spark, partitions_for(tables.spark, 0)), compared:
        batch = ingest_batch.planned(tables, readings, inputs, watch.inputs)
        is_unknown = batch.known is None and tables.exists(EVENTS)
    if is_unknown:
        say("what the events hold is not known by files (they are of an earlier version, or were changed): all is read")
    return batch


def _told(tables: Tables, batch: str) -> dict[str, Any]:
    """Rows by disposition of a batch and of all, shown, with warnings of what is odd."""
    with step("ingest: reading the dispositions"):
        held, all_batches = dispositions.of_batch(tables, batch), dispositions.of_all(tables)
    all_rows = sum((Counter(rows) for rows in held.values()), Counter[str]())
    of_last, odd = dispositions.named(all_rows), all_rows[ODD_IDS]
    dispositions.show(of_last, all_batches)
    if odd:
        warn(
            f"{odd:,} of the kept rows have ids with invisible characters, blanks or accents in two parts, so that one "
            "id may stand in several forms; ingest.normalise_ids=true makes them one"
        )
    unknown = {word.removeprefix(UNKNOWN_KIND): all_rows[word] for word in all_rows if word.startswith(UNKNOWN_KIND)}
    if unknown:
        words = dispositions.listed(unknown)
        warn(f"kinds that are mapped to none of ours: {words}; map them in kinds (null: set aside)")
    return {
        "raw_rows": sum(of_last.values()),
        "dispositions": of_last,
        "sources": {source: dispositions.named(rows) for source, rows in held.items()},
        "all": {"raw_rows": sum(all_batches.values()), "dispositions": all_batches},
        "odd_ids": odd,
        "unknown_kinds": unknown,
    }


def _try_rules(settings: Settings, spark: SparkSession) -> None:
    """Try the settings of all sources on a row, before a file is blamed for them."""
    reading = ingest_rules.CORRECT_TIMES | sources.AS_TEXTS
    with step("ingest: trying the rules on a row"), session_settings(spark, reading):
        for place, source in settings.ingest.all_sources().items():
            ingest_rules.try_out(spark, place, source)
        if settings.ingest.events() and settings.ingest.item_pattern is not None:
            of_text = F.lit("x").rlike(settings.ingest.item_pattern)
            ingest_rules.tried(spark, of_text, "ingest.item_pattern", settings.ingest.item_pattern)


def _found(
    settings: Settings, spark: SparkSession, rules: Mapping[str, Rules], frames: Mapping[str, DataFrame]
) -> list[Reading]:
    """The sources of events; the simulated shop if the settings name none."""
    asked = settings.ingest.events()
    found = [Reading(sources.find(place, each, spark, frames), rules[place]) for place, each in asked.items()]
    return found or [Reading(sources.simulated(settings, spark), ORDER_LINES)]


def _described(
    settings: Settings,
    spark: SparkSession,
    rules: Mapping[str, AttributeRules],
    frames: Mapping[str, DataFrame],
) -> dict[str, list[AttributeReading]]:
    """The sources of attributes, by table."""
    return {
        table: [
            AttributeReading(sources.find(place, each, spark, frames), rules[place]) for place, each in listed.items()
        ]
        for table, listed in settings.ingest.attributes().items()
    }


def _refuse_no_tables(settings: Settings) -> None:
    """Refuse settings of the quality gate for tables that this task does not bring in."""
    task = TASKS[settings.task]
    held = [EVENTS] if EVENTS in task.tables(settings) else [name.removesuffix("?") for name in task.reads(settings)]
    for setting, asked in (("keys", settings.quality.keys), ("labels", settings.quality.labels)):
        if unknown := sorted(set(asked) - set(held)):
            raise SettingsError(
                f"quality.{setting}.{unknown[0]} names no table that '{task.name}' brings in; these are: "
                f"{', '.join(held)}"
            )


def _refuse_unnamed(frames: Mapping[str, DataFrame], settings: Settings) -> None:
    named = {asked.table for asked in (*settings.ingest.all_sources().values(), *settings.sources.values())}
    if unnamed := sorted(frames.keys() - named):
        raise SettingsError(
            f"frames has '{unnamed[0]}', and no source names it; set ingest.table={unnamed[0]}, or leave it out"
        )


if __name__ == "__main__":
    main_of(run)
