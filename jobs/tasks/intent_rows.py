"""Sessions as rows: those of a table as they are, or those of a click stream as of moments within their visits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.ground import Ground
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.intent_options import IntentOptions, ids_of, numbers_of, options_of
from spark_udfs import features, visits

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MINUTE_US = 60_000_000


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Sessions, or steps, with an id and a time. What does not say when it arrived was there at once; sessions without
    ids that are equal in all but their label are one."""
    held = read["steps"] if "steps" in read else probabilities.with_ids(read["sessions"], "session_id")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in held.columns else F.col("time")
    # An id that is null is a value of its own: a line without one would number no other id.
    texts = [
        name for name, kind in held.dtypes if kind == "string" and name not in ("session_id", "user_id", "item_id")
    ]
    told = held.withColumns({name: F.coalesce(name, F.lit("")) for name in texts})
    return told.where("session_id IS NOT NULL AND time IS NOT NULL").withColumn("arrival_time", arrival)


def rows(ground: Ground) -> DataFrame:
    """All that can be learnt from or judged: row_id, session_id, time, arrival_time, label (float; null: not known),
    label_time (when it was known), an index of each id (0: unknown), and the numbers (float)."""
    return ground.keep("sessions with features", lambda: _all(ground))


def _all(ground: Ground) -> DataFrame:
    options, held = options_of(ground.settings), ground.read["lines"]
    if options.of == "steps":
        ground.counts["late_steps"] = held.where(visits.is_late(_idle(options))).count()
        return _finished(ground, _in_visits(held, options, F.col("steps").isin(*options.after_steps)))
    if "session_id" in options.has:
        probabilities.refuse_repeated(held, "session_id", "sessions", "session")
    return _finished(ground, _of_table(held))


def _of_table(sessions: DataFrame) -> DataFrame:
    return sessions.withColumn("row_id", F.col("session_id")).withColumn("label_time", F.col("arrival_time"))


def _in_visits(steps: DataFrame, options: IntentOptions, asked: Column) -> DataFrame:
    """Visits as of those of their steps that are asked for, with the columns of `rows`."""
    idle = _idle(options)
    told = visits.so_far(
        steps, idle_us=idle, pages=options.pages, orders=options.orders, items="item_id" in options.has
    ).where(asked)
    if "user_id" in options.has:
        told = visits.with_earlier(told, visits.each_once(steps, idle_us=idle, orders=options.orders))
    named = F.to_json(F.array("session_id", F.col("visit").cast("string"), F.col("steps").cast("string")))
    return told.withColumn("row_id", named).withColumn("label_time", F.col("over"))


def open_at(ground: Ground, moment: datetime) -> DataFrame:
    """Each visit that is not over at a moment and has had no purchase, as of its newest step; as `rows`."""
    options = options_of(ground.settings)
    known = ground.read["lines"].where(features.known_before(moment))
    is_open = F.col("over") > F.lit(features.utc(moment))
    return _finished(ground, _in_visits(known, options, is_open & (F.col("to_come") == 0)))


def _idle(options: IntentOptions) -> int:
    return round(options.idle_minutes * MINUTE_US)


def _finished(ground: Ground, told: DataFrame) -> DataFrame:
    options = options_of(ground.settings)
    for name in ids_of(options):
        held = ground.read[f"vocabulary_{name}"].where("id IS NOT NULL")
        numbered = held.select(F.col("id").alias(name), F.col("index").alias(f"{name}_index"))
        told = told.join(numbered, on=name, how="left")
    return told.select(
        "row_id",
        "session_id",
        "time",
        "arrival_time",
        F.col("label").cast("float").alias("label"),
        "label_time",
        *(F.coalesce(f"{name}_index", F.lit(0)).alias(name) for name in ids_of(options)),
        *(F.col(name).cast("float").alias(name) for name in numbers_of(options)),
    )
