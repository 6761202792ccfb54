"""Raw order lines to Delta tables: events, items, users; what is not kept lies in quarantine with its reason.

    python -m jobs.ingest --settings pipeline.yaml ingest.path=lines.csv.gz

Every raw row gets exactly one disposition (spark_udfs/order_lines.py says by which rules) and the counts must add up to
the raw rows. A second run on the same files changes nothing; other files add their new events.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import attributes, ingest_rules, source_tables, sources, time_ranges
from jobs.attributes import AttributeReading
from jobs.command import main_of
from jobs.console import say, show_table, step, warn
from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.sessions import in_utc, open_session, partitions_for, session_settings
from jobs.settings import Settings
from jobs.simulate import ORDER_LINES
from jobs.sources import Source
from jobs.tables import Tables
from jobs.tasks import TASKS
from jobs.yaml_settings import cut
from spark_udfs import order_lines
from spark_udfs.event_names import KINDS, SOLD
from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import BY_RULE, DUPLICATE, ERASED, KEPT, REASONS, Rules
from training.errors import DataError, SettingsError, TooManyBadRows

JOB = "ingest"
EVENTS = "events"
UNKNOWN_KIND = "unknown_kind: "  # begins rows of `dispositions` that name a word: they are a part of another row
MOST_WORDS = 20
ROWS_PER_FILE = 250_000  # of `events`: each file is a range of time
ODD_IDS = "odd_ids"  # rows of `dispositions` that are no disposition: kept rows whose ids may be one in several forms


class Reading(NamedTuple):
    """A source and how to read it."""

    source: Source
    rules: Rules


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
        `source` (the names), `dispositions` (rows by disposition), `sources` (the same for each), `attributes` (the
        same for the sources of each table), `raw_rows`, `odd_ids`
        (kept rows whose ids may be one in several forms), `unknown_kinds` (rows by the words that are mapped to no
        kind, the most frequent ones), `up_to_date`, and `versions` of the tables.

    Raises:
        SettingsError: `columns` miss a name, have an unknown one or one twice; a pattern, a zone or the encoding is
            wrong; no source has the name of a frame.
        DataError: a source is missing, empty or unreadable, the counts do not add up, the rules changed, or persons
            were erased meanwhile.
        SchemaError: a source has no such column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
    """
    task = TASKS[settings.task]
    _refuse_unnamed(frames or {}, settings)
    if EVENTS not in task.tables(settings):
        spark = open_session(settings, spark)
        tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
        return source_tables.ingest(settings, tables, task, frames)
    if settings.sources:
        raise SettingsError(f"sources is for tasks that read tables of their own; '{task.name}' reads {EVENTS}: ingest")
    asked, of_attributes = settings.ingest.events(), attributes.rules_of(settings.ingest)
    rules = {place: ingest_rules.rules_of(place, settings.ingest, source) for place, source in asked.items()}
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    decoding = ingest_rules.CORRECT_TIMES | sources.DECODING
    with step("ingest: trying the rules on a row"), session_settings(spark, decoding):
        for place, source in settings.ingest.all_sources().items():
            ingest_rules.try_out(spark, place, source)
        if asked and settings.ingest.item_pattern is not None:
            of_text = F.lit("x").rlike(settings.ingest.item_pattern)
            ingest_rules.tried(spark, of_text, "ingest.item_pattern", settings.ingest.item_pattern)
    with step("ingest: looking at the sources and the tables"):
        found = [Reading(sources.find(place, each, spark, frames), rules[place]) for place, each in asked.items()]
        described = {
            table: [
                AttributeReading(sources.find(place, each, spark, frames), of_attributes[place])
                for place, each in listed.items()
            ]
            for table, listed in settings.ingest.attributes().items()
        }
        readings = found or [Reading(sources.simulated(settings, spark), ORDER_LINES)]
        name = ", ".join(dict.fromkeys(source.name for source, _ in readings))
        watch = Watch(tables, JOB, "events")
        inputs = _inputs(readings) | watch.inputs  # rows that were kept before may be dropped now
        dealt = partitions_for(spark, sum(source.size for source, _ in readings))
    with session_settings(spark, dealt):
        with step("ingest: comparing the events with the sources"):
            known = tables.up_to_date("events", JOB, inputs)
            if not known:
                _refuse_other_rules(tables, inputs)
        if known:
            say(f"events are up to date with {name}")
        else:
            _ingest(settings, tables, readings, inputs, watch)
        versions, of_tables = _describe(settings, tables, described, watch)
        with step("ingest: reading the dispositions"):
            watch.after_writing(["events", "users"], _batch(inputs))
            held = _held(tables, _batch(inputs))
    by_source = {source: _dispositions(rows) for source, rows in held.items()}
    all_rows = sum((Counter(rows) for rows in held.values()), Counter[str]())
    dispositions, odd = _dispositions(all_rows), all_rows[ODD_IDS]
    _show(dispositions)
    if odd:
        warn(
            f"{odd:,} of the kept rows have ids with invisible characters, blanks or accents in two parts, so that one "
            "id may stand in several forms; ingest.normalise_ids=true makes them one"
        )
    unknown = {word.removeprefix(UNKNOWN_KIND): all_rows[word] for word in all_rows if word.startswith(UNKNOWN_KIND)}
    if unknown:
        warn(f"kinds that are mapped to none of ours: {_listed(unknown)}; map them in kinds (null: set aside)")
    return {
        "source": name,
        "raw_rows": sum(dispositions.values()),
        "dispositions": dispositions,
        "sources": by_source,
        "attributes": of_tables,
        "odd_ids": odd,
        "unknown_kinds": unknown,
        "up_to_date": known,
        "versions": versions,
    }


def _refuse_unnamed(frames: Mapping[str, DataFrame], settings: Settings) -> None:
    named = {asked.table for asked in (*settings.ingest.all_sources().values(), *settings.sources.values())}
    if unnamed := sorted(frames.keys() - named):
        raise SettingsError(
            f"frames has '{unnamed[0]}', and no source names it; set ingest.table={unnamed[0]}, or leave it out"
        )


def _inputs(readings: Sequence[Reading]) -> dict[str, Any]:
    """What decides the rows. That of one source is written as it was when there was but one."""
    rules = [ingest_rules.as_json(rules, source.asked) for source, rules in readings]
    if len(readings) == 1:
        source = readings[0].source
        return {"source": source.name, "files": source.state, "rules": rules[0]}
    names = [source.name for source, _ in readings]
    files = [source.state for source, _ in readings]
    by_source = [list(pair) for pair in zip(names, rules, strict=True)]
    return {"source": names, "files": files, "rules": {"sources": by_source}}


def _ingest(
    settings: Settings, tables: Tables, readings: Sequence[Reading], inputs: dict[str, Any], watch: Watch
) -> None:
    """Read, sort out, check, then write quarantine, dispositions and events, in this order: events are the proof."""
    batch = _batch(inputs)
    with step("looking for who was erased"):
        persons = erased.known(tables)
    with session_settings(tables.spark, ingest_rules.CORRECT_TIMES | sources.DECODING):
        parts, raw_rows = list[DataFrame](), Counter[str]()
        for source, rules in readings:
            with step(f"looking into {source.name}"):
                with sources.readable(source):
                    raw = sources.read(tables.spark, source, rules.columns)
                names_no_zone = order_lines.names_no_zone(raw.rows, rules)
            if names_no_zone:
                say(f"times of {source.name} name no zone: taken as {rules.time_zone} ({source.place}.time_zone)")
            parts.append(order_lines.sort_out(raw.rows, rules, raw.malformed, persons, source=source.name))
            with step(f"reading {source.name}"), sources.readable(source):
                raw_rows[source.name] += raw.rows.count() if source.rows is None else source.rows
        sorted_out = order_lines.together(parts).persist()
        with step("sorting out"), sources.readable(*(source for source, _ in readings)):
            rows = order_lines.counts(sorted_out).collect()
            odd = order_lines.oddities(sorted_out).collect()[0]
        counts = {name: {row["disposition"]: row["rows"] for row in rows if row["source"] == name} for name in raw_rows}
        with step("checking the counts"):
            for source, _ in readings:
                if odd["replaced"] and source.table is None and source.asked.format in ("csv", "json"):
                    sources.refuse_undecodable(tables.spark, source)
            for name, of_source in counts.items():
                unknown = dict[str, int]()
                if "unknown_kind" in of_source:
                    of_kind = order_lines.unknown_kinds(sorted_out.where(F.col("source") == name))
                    words = of_kind.limit(MOST_WORDS).collect()
                    unknown = {row["kind"] or "(none)": row["rows"] for row in words}
                _check(of_source, raw_rows[name], name, settings.tables.quarantine_limit, unknown)
                of_source |= {f"{UNKNOWN_KIND}{word}": count for word, count in unknown.items()}
        if odd["odd_ids"] and not settings.ingest.normalise_ids:
            counts[readings[0].source.name][ODD_IDS] = odd["odd_ids"]
        aside = order_lines.set_aside(sorted_out)
        if persons is not None:
            clean = order_lines.normalised if settings.ingest.normalise_ids else trimmed
            of_nobody = frozenset.intersection(*(order_lines.of_no_person(rules.columns) for _, rules in readings))
            aside = persons.unmentioned(aside, "row", of_nobody, clean).distinct()
        aside = aside.select("source", "reason", "row", F.lit(batch).alias("batch"))
        tally = tables.spark.createDataFrame(
            [(batch, name, what, count) for name, held in counts.items() for what, count in held.items()],
            "batch string, source string, disposition string, rows bigint",
        )
        with step("writing events"):
            watch.before_writing()
            kept, of_batch = order_lines.events(sorted_out), f"held.batch = '{batch}'"
            tables.merge_new("quarantine", aside, ["batch", "row"], job=JOB, inputs=inputs, where=of_batch)
            tables.merge_new(
                "dispositions", tally, ["batch", "source", "disposition"], job=JOB, inputs=inputs, where=of_batch
            )
            # An id is of the whole row, so that events of one id have one time.
            days = (row["day"] for row in order_lines.days(kept).collect()) if _times_agree(tables, inputs) else ()
            files = math.ceil(sum(sum(held.values()) for held in counts.values()) / ROWS_PER_FILE)
            of_days = time_ranges.within(days)
            new: dict[str, Any] = {"order_by": "time", "files": files, "where": of_days}
            tables.append_new("events", kept, "event_id", **new, job=JOB, inputs=inputs)
            if not tables.up_to_date("events", JOB, inputs):  # it had them all: no commit says so yet
                tables.note_nothing_new("events", JOB, inputs)
        sorted_out.unpersist()


def _describe(
    settings: Settings, tables: Tables, described: Mapping[str, Sequence[AttributeReading]], watch: Watch
) -> tuple[dict[str, int], dict[str, dict[str, dict[str, int]]]]:
    """Items and users are functions of the events and of their attributes: made anew when these changed."""
    with step("ingest: opening the events"):
        pin = tables.pin("events")
        events = tables.read("events", pin.version)
    versions, counted = {"events": pin.version}, dict[str, dict[str, dict[str, int]]]()
    for name, made in (("items", order_lines.items(events)), ("users", order_lines.users(events))):
        made_from = {"events": pin.content} | attributes.made_from(described[name])
        if described[name]:
            made_from |= watch.inputs
        with step(f"ingest: comparing {name} with the events"):
            held = tables.version(name) if tables.up_to_date(name, JOB, made_from) else None
        if held is None:
            if described[name]:
                limit, persons = settings.tables.quarantine_limit, erased.known(tables)
                made = attributes.add(tables, name, made, described[name], made_from, limit=limit, persons=persons)
            with step(f"writing {name}"):
                held = tables.write(name, made, mode="overwrite", job=JOB, inputs=made_from)
        versions[name] = held
        if described[name]:
            counted[name] = attributes.counts_of(tables, made_from)
    return versions, counted


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
        kinds = f". Kinds are mapped to none of ours: {_listed(unknown_kinds)}" if unknown_kinds else ""
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {raw_rows:,} rows of '{source}' are bad, over tables.quarantine_limit "
            f"{limit:g}: {listed}{kinds}. Correct the file or its columns, or raise the limit; nothing was written"
        )


def _refuse_other_rules(tables: Tables, inputs: Mapping[str, Any]) -> None:
    """Events that were kept under other rules cannot be told apart any more."""
    before = tables.made_from("events")
    changed = _changed(before, inputs) if before is not None else []
    if changed:
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


def _changed(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    """Names of rules that are others now: of one source against any, of several against those of the same name."""
    old, new = before.get("rules", {}), inputs["rules"]
    if "sources" not in old and "sources" not in new:
        return _differences(old, new)
    held, changed = _by_source(before), list[str]()
    for name, rules in _by_source(inputs):
        same = [others for other, others in held if other in (name, None)]
        if same and rules not in same:
            changed += _differences(same[0], rules)
    return sorted(set(changed))


def _by_source(inputs: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The rules of each source, with its name; None: of any, for an erasure keeps the rules alone."""
    rules = inputs.get("rules", {})
    return [(name, held) for name, held in rules["sources"]] if "sources" in rules else [(inputs.get("source"), rules)]


def _times_agree(tables: Tables, inputs: Mapping[str, Any]) -> bool:
    """Whether equal rows have equal times, whichever of the sources they lie in, now and before."""
    before = tables.made_from("events")
    if before is None or "rules" not in before:
        return False
    rules = [held for _, held in [*_by_source(before), *_by_source(inputs)]]
    return len({json.dumps(_reads_time(held), sort_keys=True) for held in rules}) == 1


def _reads_time(rules: Mapping[str, Any]) -> list[Any]:
    places = [rules.get(name, {}).get("time") for name in ("columns", "constants")]
    return [*places, rules.get("time_format"), rules.get("time_zone")]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _batch(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _held(tables: Tables, batch: str) -> dict[str, dict[str, int]]:
    """The rows of `dispositions` of a batch, by source."""
    held: dict[str, dict[str, int]] = {}
    for row in tables.read("dispositions").where(F.col("batch") == batch).orderBy("source").collect():
        held.setdefault(row["source"], {})[row["disposition"]] = row["rows"]
    return held


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
