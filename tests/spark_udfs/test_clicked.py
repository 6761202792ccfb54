"""What was clicked last before a moment: as a loop over rows says it, however rows are cut into batches."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.clicked import clicked_before, with_clicked

Row = tuple[str, int, int | None]


def rows(seed: int) -> list[Row]:
    """Moments (no item) and clicks of five users, some of one time; one user has most of all, and one no click."""
    rng = random.Random(seed)
    drawn = [(rng.choice("aaaaabcd"), rng.randrange(60), rng.choice([None, rng.randrange(1, 9)])) for _ in range(300)]
    drawn += [("e", time, None) for time in range(3)]
    return sorted(dict.fromkeys(drawn), key=lambda row: (row[0], row[1], row[2] or 0))


def plainly(held: list[Row], length: int) -> list[tuple[str, int, list[int]]]:
    clicked: dict[str, list[int]] = {}
    found = []
    for user, time, item in held:
        if item is None:
            found.append((user, time, clicked.get(user, [])[-length:]))
        else:
            clicked.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
@pytest.mark.parametrize("length", [1, 3, 100])
def test_lists_are_those_of_a_loop_whatever_the_batches(size: int, length: int) -> None:
    held = rows(size)
    names = ["user_id", "clock", "item"]
    types = [pa.string(), pa.int64(), pa.int64()]
    batches = [
        pa.record_batch(
            [pa.array(values, kind) for values, kind in zip(zip(*part, strict=True), types, strict=True)], names
        )
        for part in (held[start : start + size] for start in range(0, len(held), size))
    ]
    empty = batches[0].slice(0, 0)
    found = pa.Table.from_batches(list(with_clicked([empty, *batches, empty], length))).to_pydict()
    times = [round(time.timestamp() * 1e6) for time in found["time"]]
    assert list(zip(found["user_id"], times, found["clicked"], strict=True)) == plainly(held, length)


def test_a_click_counts_after_it_is_known_and_moments_stand_once(spark: SparkSession) -> None:
    def at(minute: int) -> datetime:
        return datetime(2025, 1, 1, 0, minute, tzinfo=UTC)

    moments = spark.createDataFrame(
        [("u", at(5)), ("u", at(5)), ("u", at(6)), (None, at(6)), ("v", at(6))], "user_id string, time timestamp"
    )
    clicks = spark.createDataFrame(
        [("u", 3, at(1), at(5)), ("u", 4, at(0), at(2)), (None, 5, at(0), at(1))],
        "user_id string, item bigint, time timestamp, known_at timestamp",
    )
    found = clicked_before(moments, clicks, 5).select("user_id", F.minute("time"), "clicked").collect()
    assert sorted(map(tuple, found)) == [("u", 5, [4]), ("u", 6, [4, 3]), ("v", 6, [])]
