"""Raw order lines to Delta tables: events, items, users; what is not kept lies in quarantine with its reason.

    python -m jobs.ingest --settings pipeline.yaml ingest.path=lines.csv.gz

Every raw row gets exactly one disposition (spark_udfs/order_lines.py says by which rules) and the counts must add up to
the raw rows. A second run on the same files changes nothing; other files add their new events.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs import source_tables, sources
from jobs.command import main_of
from jobs.console import say, show_table, step, warn
from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.sessions import SPARK_ERRORS, in_utc, open_session, partitions_for, session_settings
from jobs.settings import Settings
from jobs.settings_sources import CSV_ONLY, EventSource, IngestSettings, SourceSettings
from jobs.simulate import ORDER_LINES
from jobs.sources import Source
from jobs.tables import Tables
from jobs.tasks import TASKS
from jobs.yaml_settings import cut
from spark_udfs import order_lines, typed_texts
from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import (
    BY_RULE,
    DUPLICATE,
    ERASED,
    KEPT,
    KINDS,
    NAMES,
    OF_SALES,
    OPTIONAL,
    REASONS,
    REQUIRED,
    SOLD,
    Rules,
)
from training.errors import DataError, SettingsError, TooManyBadRows

JOB = "ingest"
EVENTS = "events"
UNKNOWN_KIND = "unknown_kind: "  # begins rows of `dispositions` that name a word: they are a part of another row
MOST_WORDS = 20
ODD_IDS = "odd_ids"  # rows of `dispositions` that are no disposition: kept rows whose ids may be one in several forms
CORRECT_TIMES = {"spark.sql.legacy.timeParserPolicy": "CORRECTED"}
A_TIME = datetime(2001, 11, 23, 16, 5, 9)  # in the afternoon, and no two of its parts are equal


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Ingest `settings.ingest.path`, or the simulated shop if it names none.

    For a task that reads other tables than events, ingest those of `settings.sources` (jobs/source_tables.py).

    Returns:
        `source`, `dispositions` (rows by disposition), `raw_rows`, `odd_ids` (kept rows whose ids may be one in several
        forms), `unknown_kinds` (rows by the words that are mapped to no kind, the most frequent ones), `up_to_date`,
        and `versions` of the tables.

    Raises:
        SettingsError: `ingest.columns` misses a column, names an unknown one or one twice; a pattern or the encoding is
            wrong.
        DataError: the source is missing, empty or unreadable, the counts do not add up, the rules changed, or persons
            were erased meanwhile.
        SchemaError: the source has no such column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
    """
    task = TASKS[settings.task]
    if EVENTS not in task.tables(settings):
        spark = open_session(settings, spark)
        return source_tables.ingest(settings, Tables(spark, settings.tables.root), task)
    if settings.sources:
        raise SettingsError(f"sources is for tasks that read tables of their own; '{task.name}' reads {EVENTS}: ingest")
    rules = _rules(settings.ingest)
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root)
    with session_settings(spark, CORRECT_TIMES | sources.DECODING):
        _try_out(spark, "ingest", settings.ingest)
        if rules.item_pattern is not None:
            _tried(spark, F.lit("x").rlike(rules.item_pattern), "ingest.item_pattern", rules.item_pattern)
    source = _find(settings, spark)
    watch = Watch(tables, JOB, "events")
    inputs: dict[str, Any] = {"source": source.name, "files": source.state, "rules": _as_json(rules, settings.ingest)}
    inputs |= watch.inputs  # rows that were kept before may be dropped now
    with session_settings(spark, partitions_for(spark, source.size)):
        known = tables.up_to_date("events", JOB, inputs)
        if known:
            say(f"events are up to date with {source.name}")
        else:
            _refuse_other_rules(tables, inputs)
            _ingest(settings, tables, rules, source, inputs, watch)
        versions = _describe(tables)
        watch.after_writing(["events", "users"], _batch(inputs))
    held = _held(tables, _batch(inputs))
    dispositions, odd = _dispositions(held), held.get(ODD_IDS, 0)
    _show(dispositions)
    if odd:
        warn(
            f"{odd:,} of the kept rows have ids with invisible characters, blanks or accents in two parts, so that one "
            "id may stand in several forms; ingest.normalise_ids=true makes them one"
        )
    unknown = {name.removeprefix(UNKNOWN_KIND): held[name] for name in held if name.startswith(UNKNOWN_KIND)}
    if unknown:
        warn(f"kinds that are mapped to none of ours: {_listed(unknown)}; map them in ingest.kinds (null: set aside)")
    return {
        "source": source.name,
        "raw_rows": sum(dispositions.values()),
        "dispositions": dispositions,
        "odd_ids": odd,
        "unknown_kinds": unknown,
        "up_to_date": known,
        "versions": versions,
    }


def _ingest(
    settings: Settings, tables: Tables, rules: Rules, source: Source, inputs: dict[str, Any], watch: Watch
) -> None:
    """Read, sort out, check, then write quarantine, dispositions and events, in this order: events are the proof."""
    batch, persons = _batch(inputs), erased.known(tables)
    with session_settings(tables.spark, CORRECT_TIMES | sources.DECODING):
        with step(f"reading {source.name}"), sources.readable(source):
            raw = sources.read(tables.spark, source, rules.columns)
            if order_lines.names_no_zone(raw.rows, rules):
                say(f"times of {source.name} name no zone: taken as {rules.time_zone} ({source.place}.time_zone)")
            sorted_out = order_lines.sort_out(raw.rows, rules, raw.malformed, persons).persist()
            counts = {row["disposition"]: row["rows"] for row in order_lines.counts(sorted_out).collect()}
            raw_rows = raw.rows.count()
            odd = order_lines.oddities(sorted_out).collect()[0]
        if odd["replaced"] and source.table is None and source.asked.format in ("csv", "json"):
            sources.refuse_undecodable(tables.spark, source)
        unknown = dict[str, int]()
        if "unknown_kind" in counts:
            words = order_lines.unknown_kinds(sorted_out).limit(MOST_WORDS).collect()
            unknown = {row["kind"] or "(none)": row["rows"] for row in words}
        _check(counts, raw_rows, source.name, settings.tables.quarantine_limit, unknown)
        aside = order_lines.set_aside(sorted_out)
        if persons is not None:
            clean = order_lines.normalised if rules.normalise_ids else trimmed
            aside = persons.unmentioned(aside, "row", order_lines.of_no_person(rules.columns), clean).distinct()
        aside = aside.select(F.lit(source.name).alias("source"), "reason", "row", F.lit(batch).alias("batch"))
        tallied = counts | {f"{UNKNOWN_KIND}{word}": rows for word, rows in unknown.items()}
        tallied |= {ODD_IDS: odd["odd_ids"]} if odd["odd_ids"] and not rules.normalise_ids else {}
        tally = tables.spark.createDataFrame(
            [(batch, source.name, name, count) for name, count in tallied.items()],
            "batch string, source string, disposition string, rows bigint",
        )
        watch.before_writing()
        with step("writing events"):
            tables.merge_new("quarantine", aside, ["batch", "row"], job=JOB, inputs=inputs)
            tables.merge_new("dispositions", tally, ["batch", "disposition"], job=JOB, inputs=inputs)
            tables.merge_new("events", order_lines.events(sorted_out), ["event_id"], job=JOB, inputs=inputs)
            if not tables.up_to_date("events", JOB, inputs):  # it had them all: no commit says so yet
                tables.note_nothing_new("events", JOB, inputs)
        sorted_out.unpersist()


def _describe(tables: Tables) -> dict[str, int]:
    """Items and users are functions of the events: made anew when these changed."""
    pin = tables.pin("events")
    versions, made_from = {"events": pin.version}, {"events": pin.content}
    events = tables.read("events", pin.version)
    for name, made in (("items", order_lines.items(events)), ("users", order_lines.users(events))):
        if tables.up_to_date(name, JOB, made_from):
            versions[name] = tables.version(name)
            continue
        with step(f"writing {name}"):
            versions[name] = tables.write(name, made, mode="overwrite", job=JOB, inputs=made_from)
    return versions


def _find(settings: Settings, spark: SparkSession) -> Source:
    if settings.ingest.path is None:
        return sources.simulated(settings, spark)
    return sources.find("ingest", settings.ingest, spark)


def _rules(ingest: IngestSettings) -> Rules:
    if ingest.path is None:
        return ORDER_LINES
    if problems := _problems("ingest", ingest):
        raise SettingsError("; ".join(problems))
    return Rules(
        columns=dict(ingest.columns),
        constants=dict(ingest.constants),
        kinds=dict(ingest.kinds),
        time_format=ingest.time_format,
        time_zone=ingest.time_zone,
        decimal_comma=ingest.decimal == ",",
        cancelled_prefix=ingest.cancelled_prefix,
        item_pattern=ingest.item_pattern,
        now=ingest.now,
        earliest=_earliest(ingest),
        normalise_ids=ingest.normalise_ids,
    )


def _problems(place: str, asked: EventSource) -> list[str]:
    """What is wrong with how a source's columns and kinds are mapped."""
    columns, constants = asked.columns, asked.constants
    given, kind = columns.keys() | constants.keys(), constants.get("kind")
    if "kind" in constants:
        may_be_sale = kind in SOLD
    else:
        may_be_sale = not asked.kinds or not set(SOLD).isdisjoint(asked.kinds.values())
    missing = [name for name in REQUIRED if columns.get(name, constants.get(name)) is None]
    missing += [name for name in OF_SALES if may_be_sale and name not in given]
    unknown, twice = sorted(given - set(NAMES)), sorted(columns.keys() & constants.keys())
    of_file = [column for column, count in Counter(columns.values()).items() if count > 1]
    words = Counter(word.strip().lower() for word in asked.kinds)
    found = [f"{place}.columns needs '{name}'" for name in missing]
    if may_be_sale and not set(OF_SALES).isdisjoint(missing):
        found.append(
            f"events may be sales: where the shop has no such column, say so in {place}.constants, e.g. "
            f"{{{missing[-1]}: null}}, or name other kinds ({place}.kinds, or {place}.constants={{kind: view}})"
        )
    found += [f"{place}.columns or .constants has the unknown name '{name}'" for name in unknown]
    found += [f"'{name}' is both in {place}.columns and in {place}.constants" for name in twice]
    found += [f"{place}.columns has the file's column '{column}' more than once" for column in of_file]
    found += [f"{place}.kinds has the word '{word}' more than once" for word, count in words.items() if count > 1]
    if asked.kinds and "kind" not in columns:
        found.append(f"{place}.kinds needs 'kind' in {place}.columns")
    if "kind" in constants and kind not in KINDS:
        found.append(f"{place}.constants has the kind '{kind}'; known: {', '.join(KINDS)}")
    if missing or unknown:
        found.append(
            f"our names are {', '.join(REQUIRED)}; of sales: {', '.join(OF_SALES)}; optional: {', '.join(OPTIONAL)}; "
            f"{place}.columns maps them to the file's columns, e.g. {{order_id: InvoiceNo}}"
        )
    return found


def _earliest(ingest: IngestSettings) -> datetime:
    is_default = ingest.earliest == order_lines.EARLIEST
    of_epochs = is_default and ingest.time_format in typed_texts.MICROSECONDS
    return order_lines.EARLIEST_EPOCH if of_epochs else ingest.earliest


def _try_out(spark: SparkSession, place: str, asked: SourceSettings) -> None:
    """Try patterns, zone and encoding on one row, before any file is blamed for them.

    Raises:
        SettingsError: a time in `time_format` does not read back, Spark knows no such pattern, zone or encoding, or a
            setting is for files of another format.
    """
    defaults = SourceSettings()
    wrong = [name for name in CSV_ONLY if getattr(asked, name) != getattr(defaults, name)]
    if wrong and asked.format != "csv":
        raise SettingsError(f"{place}.{wrong[0]} is for {place}.format csv, got {asked.format}; leave it out")
    line_break = _tried(spark, F.decode(F.lit(b"\n"), asked.encoding), f"{place}.encoding", asked.encoding)
    if line_break != "\n" and not asked.multiline:
        raise SettingsError(
            f"{place}.encoding '{asked.encoding}' has line breaks of several bytes; set {place}.multiline=true (csv), "
            "or convert the file to UTF-8"
        )
    a_time = F.lit(str(A_TIME)).cast("timestamp")
    _tried(spark, F.to_utc_timestamp(a_time, asked.time_zone), f"{place}.time_zone", asked.time_zone)
    if asked.time_format not in typed_texts.MICROSECONDS:
        _try_pattern(spark, f"{place}.time_format", asked.time_format)


def _try_pattern(spark: SparkSession, setting: str, pattern: str) -> None:
    text = F.date_format(F.lit(str(A_TIME)).cast("timestamp"), pattern)
    back = F.try_to_timestamp(text, F.lit(pattern))
    written = _tried(spark, F.concat(text, F.lit("|"), F.coalesce(back.cast("string"), F.lit(""))), setting, pattern)
    shown, _, read = written.rpartition("|")
    minute = A_TIME.replace(second=0)
    shorter = (A_TIME, minute, minute.replace(minute=0), minute.replace(minute=0, hour=0))
    if read not in [str(time) for time in shorter]:
        raise SettingsError(
            f"{setting} '{pattern}' writes {A_TIME} as '{shown}' and reads that as {read or 'nothing'}: "
            "hours of twelve (hh) need am or pm (a), MM is the month, mm the minute; year, month and day must be there"
        )


def _tried(spark: SparkSession, column: Column, setting: str, value: str) -> Any:
    try:
        return spark.range(1).select(column).collect()[0][0]
    except SPARK_ERRORS as error:
        reasons = [line for line in str(error).splitlines() if line.strip()]
        raise SettingsError(f"{setting} is '{value}', which Spark does not take: {reasons[0]}") from error


def _check(
    counts: Mapping[str, int], raw_rows: int, source: str, limit: float, unknown_kinds: Mapping[str, int] | None = None
) -> None:
    if not raw_rows:
        raise DataError(f"'{source}' holds a header but no rows; name files that hold order lines")
    if sum(counts.values()) != raw_rows:
        raise DataError(
            f"dispositions of '{source}' must add up to its {raw_rows:,} rows, they add up to "
            f"{sum(counts.values()):,}: the source changed while it was read; run ingest again"
        )
    bad = {name: count for name, count in counts.items() if name not in KEPT + BY_RULE}
    if sum(bad.values()) > limit * raw_rows:
        listed = ", ".join(f"{name}: {count:,}" for name, count in sorted(bad.items(), key=lambda item: -item[1]))
        kinds = f". Kinds of ingest.kinds are missing: {_listed(unknown_kinds)}" if unknown_kinds else ""
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {raw_rows:,} rows of '{source}' are bad, over tables.quarantine_limit "
            f"{limit:g}: {listed}{kinds}. Correct the file or ingest.columns, or raise the limit; nothing was written"
        )


def _refuse_other_rules(tables: Tables, inputs: Mapping[str, Any]) -> None:
    """Events that were kept under other rules cannot be told apart any more."""
    before = tables.made_from("events")
    if before is not None and before.get("rules") != inputs["rules"]:
        old, new = before.get("rules", {}), inputs["rules"]
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        remedy = "name a new folder in tables.root, or remove this one"
        if "erased" in inputs:
            remedy = (
                f"name a new folder in tables.root and copy the tables '{erased.HASHES}' and '{erased.KEY}' there "
                "first, or remove all but these two from this one: without them erased persons would come back"
            )
        raise DataError(
            f"the events at {tables.path('events')} were ingested under other rules (changed: {', '.join(changed)}); "
            f"{remedy}"
        )


def _as_json(rules: Rules, ingest: IngestSettings) -> dict[str, Any]:
    """What decides how a row is read. What came later is named only where it is used, so that older tables go on."""
    later = {
        "earliest": str(rules.earliest) if rules.earliest != order_lines.EARLIEST else None,
        "normalise_ids": rules.normalise_ids or None,
        "encoding": ingest.encoding if ingest.encoding != IngestSettings().encoding else None,
        "multiline": ingest.multiline or None,
        "constants": dict(rules.constants) or None,
        "kinds": dict(rules.kinds) or None,
        "time_zone": rules.time_zone if rules.time_zone != "UTC" else None,
        "decimal_comma": rules.decimal_comma or None,
        "delimiter": ingest.delimiter if ingest.delimiter != "," else None,
        "quotes": [ingest.quote, ingest.escape] if (ingest.quote, ingest.escape) != ('"', None) else None,
        # Fields that are not mapped were no part of a row once.
        "json_rows": "whole" if ingest.path is not None and ingest.format == "json" else None,
    }
    first = {name: value for name, value in vars(rules).items() if name not in later}
    first |= {"columns": dict(rules.columns), "now": str(rules.now) if rules.now else None}
    return first | {name: value for name, value in later.items() if value is not None}


def _batch(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _held(tables: Tables, batch: str) -> dict[str, int]:
    rows = tables.read("dispositions").where(F.col("batch") == batch).select("disposition", "rows").collect()
    return {row["disposition"]: row["rows"] for row in rows}


def _dispositions(held: Mapping[str, int]) -> dict[str, int]:
    return {name: held[name] for name in (*KEPT, DUPLICATE, ERASED, *REASONS) if name in held}


def _listed(rows: Mapping[str, int]) -> str:
    return ", ".join(f"'{cut(word)}' ({count:,})" for word, count in rows.items())


def _show(dispositions: Mapping[str, int]) -> None:
    words = {
        "sale": "kept: sales of known customers",
        "sale_without_customer": "kept for item statistics only: sales without a customer",
        "return": "kept as returns: cancelled orders; histories do not change",
        **{kind: f"kept: events of the kind {kind}" for kind in KINDS if kind not in SOLD},
        "ignored_kind": f"set aside: {REASONS['ignored_kind']}",
        "duplicate": "set aside: further copies of a row that equals another in every column",
        "erased": "dropped: of persons who were erased; written nowhere",
        "not_a_product": f"set aside: {REASONS['not_a_product']}",
    }
    rows = [(name, words.get(name, f"quarantined: {REASONS.get(name)}"), count) for name, count in dispositions.items()]
    show_table(
        "Raw rows by disposition", ("disposition", "what", "rows"), [*rows, ("all", "", sum(dispositions.values()))]
    )


if __name__ == "__main__":
    main_of(run)
