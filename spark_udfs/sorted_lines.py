"""Raw rows that were sorted out (spark_udfs/order_lines.py) to events, to quarantine, and to counts.

sorted out --events----> the kept ones
           --set_aside-> the others, with their reason
           --counts----> rows by disposition
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs.order_lines import DUPLICATE, ERASED, EVENT_COLUMNS, IDS, KEPT, NUMBERS, REPLACED, TEXTS

ODD_ID = r"[\p{Cf}\p{Cc}\p{M}]|^\p{Z}|\p{Z}$"  # what two ids that look alike may differ in


def together(parts: Sequence[DataFrame]) -> DataFrame:
    """The rows of several sources, sorted out: one that an earlier source has too is a duplicate."""
    if len(parts) == 1:
        return parts[0]
    numbered = (part.withColumn("part", F.lit(number)) for number, part in enumerate(parts))
    rows = functools.reduce(DataFrame.unionByName, numbered)
    is_first = F.col("part") == F.min("part").over(Window.partitionBy("event_id"))
    is_again = ~is_first & (F.col("disposition") != "malformed_line")
    return rows.withColumn("disposition", F.when(is_again, DUPLICATE).otherwise(F.col("disposition"))).drop("part")


def unknown_kinds(sorted_out: DataFrame) -> DataFrame:
    """`kind` (a word of the source that is mapped to none of ours; null for none), `rows`: the most frequent first."""
    rows = sorted_out.where("disposition = 'unknown_kind'").groupBy(F.col("said_kind").alias("kind"))
    return rows.agg(F.count(F.lit(1)).alias("rows")).orderBy(F.desc("rows"), "kind")


def oddities(sorted_out: DataFrame) -> DataFrame:
    """One row: `replaced` (rows with a character that stands for lost bytes), `odd_ids` (kept rows, see ODD_ID)."""
    is_odd = F.greatest(*(F.coalesce(F.col(name).rlike(ODD_ID), F.lit(False)) for name in IDS))
    return sorted_out.agg(
        F.count_if(F.contains("row", F.lit(REPLACED))).alias("replaced"),
        F.count_if(is_odd & F.col("disposition").isin(*KEPT)).alias("odd_ids"),
    )


def said(sorted_out: DataFrame) -> DataFrame:
    """`source`, and by the name of a column whether any of its rows says something in it."""
    is_said = {name: F.col(name).isNotNull() for name in (*NUMBERS, *TEXTS)}
    is_said["time"] = F.col("time").isNotNull() | (F.col("disposition") == "unreadable_time")
    is_said["kind"] = F.col("said_kind").isNotNull()
    return sorted_out.groupBy("source").agg(*(F.max(said).alias(name) for name, said in is_said.items()))


def events(sorted_out: DataFrame) -> DataFrame:
    """The kept rows, as events: EVENT_COLUMNS, one row per event_id."""
    return sorted_out.where(F.col("disposition").isin(*KEPT)).select(*EVENT_COLUMNS)


def days(events: DataFrame) -> DataFrame:
    """`day`: the days on which there are events, each once."""
    return events.select(F.to_date("time").alias("day")).distinct()


def met_before(sorted_out: DataFrame, ids: DataFrame) -> DataFrame:
    """The rows; those that an earlier batch had are duplicates. Malformed lines count each.

    Args:
        sorted_out: the rows.
        ids: `event_id`, `is_event` (else an earlier batch set it aside; one that lay in the future then is kept now).
    """
    held = ids.groupBy("event_id").agg(F.max("is_event").alias("is_event"))
    marked = sorted_out.join(held, on="event_id", how="left")
    counts_again = ~F.col("disposition").isin("malformed_line", ERASED)
    is_again = F.col("is_event") | (F.col("is_event").isNotNull() & ~F.col("disposition").isin(*KEPT))
    disposition = F.when(is_again & counts_again, DUPLICATE).otherwise(F.col("disposition"))
    return marked.withColumn("disposition", disposition).drop("is_event")


def set_aside(sorted_out: DataFrame) -> DataFrame:
    """The rows that were not kept, but for those of erased persons: `reason`, `row` (JSON), `source`."""
    rows = sorted_out.where(~F.col("disposition").isin(*KEPT, ERASED, DUPLICATE))
    return rows.select(F.col("disposition").alias("reason"), "row", "source")


def counts(sorted_out: DataFrame) -> DataFrame:
    """`disposition`, `rows` (bigint), `source`: they add up to the raw rows; further copies count as duplicates."""
    is_malformed = F.col("disposition") == "malformed_line"
    rows = F.when(is_malformed, F.col("copies")).otherwise(1)
    first = sorted_out.select("disposition", rows.alias("rows"), "source")
    further = sorted_out.where(~is_malformed & (F.col("copies") > 1))
    further = further.select(F.lit(DUPLICATE).alias("disposition"), (F.col("copies") - 1).alias("rows"), "source")
    tallied = first.unionByName(further).groupBy("source", "disposition").agg(F.sum("rows").alias("rows"))
    return tallied.select("disposition", "rows", "source")
