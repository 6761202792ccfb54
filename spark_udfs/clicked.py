"""What a customer clicked last before each moment: rows in order in, lists out; memory for a batch and a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.moments import starts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MOMENT_TYPE = "user_id string, time timestamp, clicked array<bigint>"


def clicked_before(moments: DataFrame, clicks: DataFrame, length: int) -> DataFrame:
    """The last items that each user had clicked before a moment.

    Args:
        moments: user_id, time; those without a user have no row.
        clicks: user_id, item (bigint: its index), known_at (from when on the click may be used), time.
        length: of a list at most.

    Returns:
        user_id, time (each of a user's moments once), clicked array<bigint>, oldest first. A user's rows are sorted by
        Spark, which spills to disk; a task holds one Arrow batch and the last `length` clicks before it, whatever a
        user has.
    """
    asked = moments.where("user_id IS NOT NULL").select("user_id", "time").distinct()
    none = F.lit(None).cast("bigint")
    rows = asked.select("user_id", F.unix_micros("time").alias("clock"), none.alias("item"), none.alias("at"))
    given = clicks.where("user_id IS NOT NULL").select(
        "user_id", F.unix_micros("known_at").alias("clock"), "item", F.unix_micros("time").alias("at")
    )
    # A click that comes to be known at a moment is not known before it: nulls, which are moments, sort first.
    both = rows.unionByName(given).repartition("user_id").sortWithinPartitions("user_id", "clock", "at", "item")

    def made(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return with_clicked(batches, length)

    return both.select("user_id", "clock", "item").mapInArrow(made, MOMENT_TYPE)


def with_clicked(batches: Iterable[pa.RecordBatch], length: int) -> Iterator[pa.RecordBatch]:
    """Rows of MOMENT_TYPE for those without an item.

    Args:
        batches: user_id, clock (microseconds), item (null: a moment), by user and in the order of time.
        length: of a list at most.
    """
    of, carried = "", np.zeros(0, np.int64)
    for batch in batches:
        if not batch.num_rows:
            continue
        users, clock, given = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        of_last = of == users[0]
        before = carried if of_last else carried[:0]
        is_click = np.concatenate([np.ones(len(before), np.bool_), ~np.isnan(given.astype(np.float64))])
        item = np.concatenate([before, np.where(is_click[len(before) :], given, 0).astype(np.int64)])
        user = np.concatenate([np.repeat(users[:1], len(before)), users])
        first = starts(user[1:] != user[:-1])
        had = np.cumsum(is_click)
        places, pool = np.flatnonzero(~is_click), item[is_click]
        ends = had[places]
        begins = np.maximum(had[first[places]] - is_click[first[places]], ends - length)
        counts = ends - begins
        offsets = np.concatenate([[0], np.cumsum(counts)])
        held = np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])
        if len(places):
            yield pa.record_batch(
                [
                    pa.array(user[places], pa.string()),
                    pa.array(clock[places - len(before)], pa.timestamp("us", tz="UTC")),
                    pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(pool[held])),
                ],
                ["user_id", "time", "clicked"],
            )
        of = str(users[-1])
        carried = item[first[-1] :][is_click[first[-1] :]][-length:]
