"""A batch of raw rows to events: read, sorted out, checked, written; what was brought before is left as it is."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import dispositions, incoming, ingest_inputs, ingest_rules, ingested, source_files, sources, time_ranges
from jobs.console import say, step
from jobs.dispositions import ODD_IDS, UNKNOWN_KIND
from jobs.erasure import erased
from jobs.ingest_inputs import Reading
from jobs.ingested import Known
from jobs.quality import gate
from jobs.sessions import persisted, session_settings
from spark_udfs import order_lines, sorted_lines
from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import BY_RULE, KEPT
from training.errors import DataError, TooManyBadRows

if TYPE_CHECKING:
    from jobs.erasure.erased import Watch
    from jobs.settings import Settings
    from jobs.tables import Tables
    from spark_udfs.erased import Erased

JOB = "ingest"
MOST_WORDS = 20
REMEDIES = {  # of what most of too many bad rows are
    "unknown_kind": "Map the words in kinds (null: set aside)",
    "unreadable_time": "Set time_format and time_zone to how times are written",
    "early_time": "See whether time_format counts in the unit that times have, or set ingest.earliest",
}
ROWS_PER_FILE = 250_000  # of `events`: each file is a range of time


class Batch(NamedTuple):
    """What one run brings in.

    Attributes:
        name: the same for the same rows; where nothing is to be read, that of the sources' last batch.
        readings: what is to be read.
        known: what was taken in before; None: nobody knows.
        whole: whether the sources are read whole, whatever they brought before.
        before: what the events are made from without it; None: nobody knows.
        inputs: what they are made from with it.
        number: of the batches, from 1.
        since: the version of `ingested` that it takes account of; -1: there is none.
    """

    name: str
    readings: Sequence[Reading]
    known: Known | None
    whole: bool
    before: Mapping[str, Any] | None
    inputs: Mapping[str, Any]
    number: int
    since: int


def planned(
    tables: Tables, readings: Sequence[Reading], inputs: Mapping[str, Any], persons: Mapping[str, int]
) -> Batch:
    """What of the sources is to be read.

    Args:
        tables: where the events lie.
        readings: the sources.
        inputs: what the events are to be made from.
        persons: what `inputs` have for the persons who were erased.

    Raises:
        DataError: the events were ingested under other rules.
    """
    since = tables.version(ingested.TABLE) if tables.exists(ingested.TABLE) else -1  # before its rows are asked
    known = ingested.known(tables, persons)
    before = known.made_from if known is not None else tables.made_from("events")
    ingest_inputs.refuse_other_rules(tables, before, inputs)
    names = list(dict.fromkeys(source.name for source, _ in readings))
    unread = [ingested.unread(tables, source, known) for source, _ in readings]
    whole = known is None or any(each.is_changed for each in unread)
    if not whole:
        readings = [
            Reading(left.source, rules)
            for left, (_, rules) in zip(unread, readings, strict=True)
            if left.source is not None
        ]
    number = 1 if known is None else known.number + 1
    of_batch = {**inputs, "number": number}
    name = hashlib.sha256(json.dumps(of_batch, sort_keys=True).encode()).hexdigest()[:12]
    if known is not None and not readings:
        name = known.last_batch(names)
    return Batch(name, readings, known, whole, before, of_batch, number, since)


def take_in(settings: Settings, tables: Tables, batch: Batch, watch: Watch) -> None:
    """Read, sort out, check, then write: quarantine, dispositions, what was taken in, and events, which are the proof.

    Raises:
        DataError: a source holds no rows or cannot be read, or the counts do not add up.
        SchemaError: a source lacks a column, or has it with another type than before.
        TooManyBadRows: the share of bad rows passed the limit.
        QualityError: it differs from good batches, and such a one is not to be written.
        TableError: another ingest wrote meanwhile.
    """
    with step("looking for who was erased"):
        persons = erased.known(tables)
    reading = session_settings(tables.spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS)
    with reading, ExitStack() as held:
        parts, raw_rows, taken = list[DataFrame](), Counter[str](), {}
        for source, rules in batch.readings:
            part, rows, columns = _read(tables, batch, Reading(source, rules), persons)
            parts.append(part)
            raw_rows[source.name] += rows
            taken[source.name] = (source, columns)
        sorted_out = held.enter_context(persisted(sorted_lines.together(parts)))
        with step("sorting out"), sources.readable(*(source for source, _ in batch.readings)):
            where = _where(batch, sorted_lines.events(sorted_out))
            marked = sorted_out
            if not batch.whole:
                marked = held.enter_context(persisted(_marked(tables, batch, sorted_out, where)))
            rows_of = sorted_lines.counts(marked).collect()
            odd = sorted_lines.oddities(marked).collect()[0]
            _tell_unsaid(batch, sorted_out)
        counts = {
            name: {row["disposition"]: row["rows"] for row in rows_of if row["source"] == name} for name in raw_rows
        }
        with step("checking the counts"):
            _check_all(settings, tables, batch, marked, counts, raw_rows, is_replaced=bool(odd["replaced"]))
        if odd["odd_ids"] and not settings.ingest.normalise_ids:
            counts[batch.readings[0].source.name][ODD_IDS] = odd["odd_ids"]
        gate.pass_through(tables, lambda: incoming.of_events(batch, marked, counts), settings.quality)
        aside = _aside(settings, batch, marked, persons)
        with step("writing events"):
            watch.before_writing()
            given: dict[str, Any] = {"job": JOB, "inputs": batch.inputs}
            of_batch = {**given, "where": f"held.batch = '{batch.name}'"}
            tables.merge_new("quarantine", aside, ["batch", "row"], **of_batch)
            tally = dispositions.tally(tables, batch.name, counts)
            tables.merge_new(dispositions.TABLE, tally, ["batch", "source", "disposition"], **of_batch)
            ingested.note(
                tables, taken, batch.known, batch.inputs,
                batch=batch.name, number=batch.number, since=batch.since, whole=batch.whole,
            )  # fmt: skip
            files = max(1, math.ceil(raw_rows.total() / ROWS_PER_FILE))
            kept = sorted_lines.events(marked)
            tables.append_new("events", kept, "event_id", order_by="time", files=files, where=where, **given)
            if not tables.up_to_date("events", JOB, batch.inputs):  # it had them all: no commit says so yet
                tables.note_nothing_new("events", JOB, batch.inputs)


def _read(tables: Tables, batch: Batch, reading: Reading, persons: Erased | None) -> tuple[DataFrame, int, str]:
    """The rows of one source, sorted out, how many there are, and the source's columns."""
    source, rules = reading
    with step(f"looking into {source.name}"):
        with sources.readable(source):
            raw = sources.read(tables.spark, source, rules.columns)
        if batch.known is not None and not batch.whole:
            ingested.refuse_other_columns(source, raw, batch.known.columns(source.name))
        names_no_zone = order_lines.names_no_zone(raw.rows, rules)
    if source.is_cut_down:
        say(f"{source.name}: {source.new or 'rows that were added'}; what it had before is known")
    if names_no_zone:
        say(f"times of {source.name} name no zone: taken as {rules.time_zone} ({source.place}.time_zone)")
    with step(f"reading {source.name}"), sources.readable(source):
        rows = raw.rows.count() if source.rows is None else source.rows
    part = order_lines.sort_out(raw.rows, rules, raw.malformed, persons, source=source.name)
    return part, rows, ingested.columns_of(raw)


def _where(batch: Batch, kept: DataFrame) -> str | None:
    """A condition that all events meet which may be one of these: an id is of the whole row, its time included."""
    if not ingest_inputs.times_agree(batch.before, batch.inputs):
        return None
    return time_ranges.within(row["day"] for row in sorted_lines.days(kept).collect()) or "false"


def _marked(tables: Tables, batch: Batch, sorted_out: DataFrame, where: str | None) -> DataFrame:
    """The rows; those that earlier batches had are duplicates."""
    events = tables.read("events")
    ids = (events if where is None else events.where(where)).select("event_id", F.lit(True).alias("is_event"))
    if batch.known is not None and not sorted_lines.set_aside(sorted_out).isEmpty():
        of_batches = batch.known.rows.select("batch").distinct()
        aside = tables.read("quarantine").join(of_batches, on="batch", how="left_semi")
        ids = ids.union(aside.select(order_lines.event_id(F.col("row")), F.lit(False)))
    return sorted_lines.met_before(sorted_out, ids)


def _tell_unsaid(batch: Batch, sorted_out: DataFrame) -> None:
    """Name the fields of JSON that no line has; a file that is new may lack some."""
    if not any(source.asked.format == "json" and not source.is_cut_down for source, _ in batch.readings):
        return
    said = {row["source"]: row.asDict() for row in sorted_lines.said(sorted_out).collect()}
    for source, rules in batch.readings:
        if source.name in said:
            held = {"arrival_time", *(name for name, is_said in said[source.name].items() if is_said)}
            source_files.tell_unsaid(source, rules.columns, held)


def _aside(settings: Settings, batch: Batch, marked: DataFrame, persons: Erased | None) -> DataFrame:
    """The rows that go to quarantine."""
    aside = sorted_lines.set_aside(marked)
    if persons is not None:
        clean = order_lines.normalised if settings.ingest.normalise_ids else trimmed
        of_nobody = frozenset.intersection(*(order_lines.of_no_person(rules.columns) for _, rules in batch.readings))
        aside = persons.unmentioned(aside, "row", of_nobody, clean).distinct()
    return aside.select("source", "reason", "row", F.lit(batch.name).alias("batch"))


def _check_all(
    settings: Settings,
    tables: Tables,
    batch: Batch,
    marked: DataFrame,
    counts: dict[str, dict[str, int]],
    raw_rows: Mapping[str, int],
    *,
    is_replaced: bool,
) -> None:
    """Check the counts of each source, and note in them which words were unknown."""
    for source, _ in batch.readings:
        if is_replaced:
            source_files.refuse_undecodable(tables.spark, source)
    cut_down = {source.name for source, _ in batch.readings if source.is_cut_down}
    for name, of_source in counts.items():
        unknown = dict[str, int]()
        if "unknown_kind" in of_source:
            of_kind = sorted_lines.unknown_kinds(marked.where(F.col("source") == name))
            unknown = {row["kind"] or "(none)": row["rows"] for row in of_kind.limit(MOST_WORDS).collect()}
        if raw_rows[name] or name not in cut_down:  # a new file may be empty; a source may not
            _check(of_source, raw_rows[name], name, settings.tables.quarantine_limit, unknown)
        of_source |= {f"{UNKNOWN_KIND}{word}": count for word, count in unknown.items()}


def _check(
    counts: Mapping[str, int], raw_rows: int, source: str, limit: float, unknown_kinds: Mapping[str, int] | None = None
) -> None:
    if not raw_rows:
        raise DataError(f"'{source}' holds a header but no rows, or not even that; name files that hold order lines")
    if sum(counts.values()) != raw_rows:
        raise DataError(
            f"dispositions of '{source}' must add up to its {raw_rows:,} rows, they add up to "
            f"{sum(counts.values()):,}: the source changed while it was read; run ingest again"
        )
    bad = {name: count for name, count in counts.items() if name not in KEPT + BY_RULE}
    if sum(bad.values()) > limit * raw_rows:
        listed = ", ".join(f"{name}: {count:,}" for name, count in sorted(bad.items(), key=lambda item: -item[1]))
        kinds = f". Kinds are mapped to none of ours: {dispositions.listed(unknown_kinds)}" if unknown_kinds else ""
        remedy = REMEDIES.get(max(bad, key=bad.__getitem__), "Correct the file or its columns")
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {raw_rows:,} rows of '{source}' are bad, over tables.quarantine_limit "
            f"{limit:g}: {listed}{kinds}. {remedy}, or raise the limit; nothing was written"
        )
