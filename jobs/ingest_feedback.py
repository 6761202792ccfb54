"""Ingest feedback: what was shown against what then happened, into a table that the next examples are built with.

    python -m jobs.ingest_feedback --settings shop.yaml feedback.window_days=14

What was shown is the recommendations of one moment (the latest, if none is named). What happened is the shop's events
after it, or rows given as such. spark_udfs/outcomes.py states the rule by which one is attributed to the other. A
second run on the same tables changes nothing; a later one, with more events, replaces that moment's rows.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.artefacts import FEEDBACK, read_json, write_json
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure import erased
from jobs.erasure.erased import Watch
from jobs.sessions import in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs import features, order_lines
from spark_udfs.lists import require_columns
from spark_udfs.outcomes import OUTCOMES, Checked, attribute, check, from_events, unmatched
from training.errors import DataError, TableError, TooManyBadRows

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

JOB = "ingest_feedback"
COUNTED = ("ignored", "viewed", "purchased")


@in_utc
def run(settings: Settings, spark: SparkSession | None = None, outcomes: DataFrame | None = None) -> dict[str, Any]:
    """Attribute outcomes to the recommendations of one moment, and write their feedback.

    Args:
        settings: the pipeline's; section `feedback`.
        spark: a session, or None to start one.
        outcomes: rows that say what happened (user_id, item_id, outcome, outcome_time, optionally bundle); None takes
            purchases and views from the events.

    Returns:
        moment, shown, ignored, viewed, purchased, unmatched, quarantined (by reason), version, inputs (what decided
        the rows), up_to_date.

    Raises:
        TableError: no recommendations, or none of the moment named.
        SchemaError: `outcomes` lacks columns.
        TooManyBadRows: more rows of `outcomes` are bad than tables.quarantine_limit allows.
        DataError: `outcomes` has no row, or persons were erased meanwhile.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    watch = Watch(tables, JOB, "feedback")
    recommended = tables.pin("recommendations")
    every = tables.read("recommendations", recommended.version)
    moment = _moment(settings, tables, every)
    inputs: dict[str, Any] = {
        "recommendations": recommended.content,
        "moment": moment,
        "window_days": settings.feedback.window_days,
        "ids": tables.ids(["recommendations"] if outcomes is not None else ["recommendations", "events"]),
        **watch.inputs,
    }
    if outcomes is not None:
        require_columns(outcomes, "outcomes", OUTCOMES)
        inputs["outcomes"] = _digest(outcomes)
        happened = _of_others(settings, tables, outcomes)
    else:
        events = tables.pin("events")
        inputs["outcomes"] = f"events at version {events.content}"
        happened = _happened(settings, tables.read("events", events.version), moment)
    known = tables.up_to_date("feedback", JOB, inputs)
    before: dict[str, Any] | None = read_json(settings.run_dir, FEEDBACK)
    if known and before is not None and before.get("inputs") == inputs:
        say(f"feedback on what was shown at {moment} is up to date")
        return before | {"up_to_date": True}
    shown = _shown(every, moment, settings.feedback.window_days).persist()
    of_moment = shown.where(F.col("shown_at") <= _at(moment))
    checked = check(happened, of_moment, of_moment if outcomes is None else every)
    with step(f"feedback on what was shown at {moment}"):
        watch.before_writing()
        bad = _quarantine(settings, tables, checked, inputs, outcomes)
        # A run that was killed before it told of its commit has left nothing but that to do.
        held = tables.version("feedback") if known else _write(settings, tables, shown, checked.good, moment, inputs)
        watch.after_writing(["feedback"], _batch(inputs) if bad else None)
        lost = unmatched(shown, checked.good, window_days=settings.feedback.window_days)
    shown.unpersist()
    summary = _summary(tables, held, moment, bad, lost) | {"inputs": inputs}
    write_json(settings.run_dir, FEEDBACK, summary)
    counts = {name: summary[name] for name in ("shown", *COUNTED, "unmatched")}
    counts |= {f"quarantined: {reason}": rows for reason, rows in bad.items()}
    show_counts(f"Feedback on what was shown at {moment}", counts)
    return summary | {"up_to_date": known}


def _at(moment: str) -> Column:
    """A moment, written in UTC as all jobs run, as a timestamp."""
    return F.lit(moment).cast("timestamp")


def _days(days: float) -> Column:
    return F.make_dt_interval(secs=F.lit(days * 86_400))


def _moment(settings: Settings, tables: Tables, every: DataFrame) -> str:
    """The moment asked for, or the latest that was scored.

    Raises:
        TableError: nothing was recommended then, or ever.
    """
    asked, place = settings.feedback.moment, tables.path("recommendations")
    if asked is None:
        latest = every.agg(F.max("moment").cast("string")).collect()[0][0]
        if latest is None:
            raise TableError(f"table 'recommendations' at {place} is empty; run `millrace score`")
        return str(latest)
    moment = str(features.utc(asked).replace(tzinfo=None))
    if every.where(F.col("moment") == _at(moment)).isEmpty():
        held = [row[0] for row in every.select(F.col("moment").cast("string")).distinct().orderBy("moment").tail(5)]
        raise TableError(
            f"table 'recommendations' at {place} has no rows of feedback.moment {asked}; "
            f"it has (the last five): {', '.join(held)}"
        )
    return moment


def _shown(every: DataFrame, moment: str, window_days: float) -> DataFrame:
    """What was shown at the moment, and so shortly before or after it that an outcome may belong to that instead."""
    near = (F.col("moment") < _at(moment) + _days(window_days)) & (F.col("moment") > _at(moment) - _days(window_days))
    return every.where(near).select("user_id", "item_id", "rank", "bundle", F.col("moment").alias("shown_at"))


def _happened(settings: Settings, events: DataFrame, moment: str) -> DataFrame:
    """The shop's own events while what was shown could have led to them."""
    end = _at(moment) + _days(settings.feedback.window_days)
    return from_events(events, start=_at(moment), end=end)


def _of_others(settings: Settings, tables: Tables, outcomes: DataFrame) -> DataFrame:
    """Without those of persons who were erased."""
    persons = erased.known(tables)
    user_id = order_lines.cleaned(F.col("user_id"), normalise=settings.ingest.normalise_ids)
    return outcomes if persons is None else persons.without(outcomes, user_id)


def _quarantine(
    settings: Settings, tables: Tables, checked: Checked, inputs: dict[str, Any], outcomes: DataFrame | None
) -> dict[str, int]:
    """Set the bad rows aside; events have been checked when they were ingested.

    Raises:
        TooManyBadRows: their share is past the limit.
    """
    if outcomes is None:
        return {}
    counts = {row["reason"]: row["count"] for row in checked.bad.groupBy("reason").count().orderBy("reason").collect()}
    bad, limit = sum(counts.values()), settings.tables.quarantine_limit
    rows = bad + checked.good.count()
    if bad > limit * rows:
        listed = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items())
        raise TooManyBadRows(
            f"{bad:,} of {rows:,} outcomes are bad, over tables.quarantine_limit {limit:g}: {listed}. "
            "Correct them, or raise the limit; nothing was written"
        )
    if bad:
        row = F.to_json(F.struct(*[name for name in checked.bad.columns if name != "reason"]))
        source, of_batch = F.lit("outcomes").alias("source"), F.lit(_batch(inputs)).alias("batch")
        aside = checked.bad.select(source, "reason", row.alias("row"), of_batch)
        tables.merge_new("quarantine", aside.distinct(), ["batch", "row"], job=JOB, inputs=inputs)
    return counts


def _batch(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _write(
    settings: Settings, tables: Tables, shown: DataFrame, good: DataFrame, moment: str, inputs: dict[str, Any]
) -> int:
    """Replace the moment's feedback; returns its version."""
    window = settings.feedback.window_days
    feedback = attribute(shown, good, window_days=window).where(F.col("shown_at") == _at(moment))
    rows = feedback.withColumn("window_days", F.lit(window).cast("double"))
    where = f"shown_at = TIMESTAMP '{moment}'"
    return tables.write("feedback", rows, mode="overwrite", job=JOB, inputs=inputs, where=where)


def _summary(tables: Tables, version: int, moment: str, bad: dict[str, int], lost: int) -> dict[str, Any]:
    rows = tables.read("feedback", version).where(F.col("shown_at") == _at(moment)).groupBy("outcome").count().collect()
    counts = {row["outcome"]: row["count"] for row in rows}
    return {
        "moment": moment,
        "shown": sum(counts.values()),
        **{name: counts.get(name, 0) for name in COUNTED},
        "unmatched": lost,
        "quarantined": bad,
        "version": version,
    }


def _digest(outcomes: DataFrame) -> str:
    """What tells given rows apart, whatever their order."""
    hashed = F.sum(F.xxhash64(*outcomes.columns).cast("decimal(38,0)"))
    rows, digest = outcomes.agg(F.count(F.lit(1)), hashed).collect()[0]
    if not rows:
        raise DataError("outcomes must hold at least one row; got 0. Leave them out to take purchases from the events")
    return f"{rows} rows, {digest}"


if __name__ == "__main__":
    main_of(run)
