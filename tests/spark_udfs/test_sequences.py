"""Stretches of customers' lines against a plain-Python account of what was known at each line's moment."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_udfs import features
from spark_udfs.histories import histories, queries
from spark_udfs.moments import DAY_US
from spark_udfs.newest import Cap
from spark_udfs.sequences import LINE_COLUMNS, with_stretches
from tests.spark_udfs.test_features import CUTS, LINES, START, day, days_of, of_user, some_lines

LENGTH = 5
NO_CUT = 2**60


@pytest.fixture(scope="module")
def raw() -> list[tuple[Any, ...]]:
    return some_lines(260)


@pytest.fixture(scope="module")
def known(spark: SparkSession, raw: list[Any]) -> DataFrame:
    lines = spark.createDataFrame(raw, LINES).withColumn("is_goal", F.lit(True))
    users = spark.createDataFrame([(number, f"u{number}") for number in range(1, 7)], "index bigint, id string")
    items = spark.createDataFrame([(number + 1, f"i{number}") for number in range(12)], "index bigint, id string")
    return features.indexed(lines, users, items)


@pytest.fixture(scope="module")
def rows(known: DataFrame) -> list[Row]:
    return features.sequences(known, CUTS, LENGTH).collect()


def targets_of(row: Row) -> list[tuple[tuple[float, int], list[tuple[float, int]]]]:
    """Of a row's targets: (day, item), and the lines that they are predicted from."""
    moment = days_of(row)
    lines = [(round(moment - age, 4), item) for age, item in zip(row["history_age"], row["history"], strict=True)]
    return [(line, lines[: int(count)]) for line, count in zip(lines, row["history_before"], strict=True) if count >= 0]


def test_each_line_is_a_target_once_and_sees_what_was_known(raw: list[Any], rows: list[Row]) -> None:
    """As long as not too much else was known between: all that a target sees was known, and what it misses is older."""
    compared = 0
    for user in range(1, 7):
        lines = of_user(raw, user)
        there = {line: arrived for line, arrived in lines.items() if line[0] < 30 and arrived <= 30}
        found = [target for row in rows if row["user"] == user for target in targets_of(row)]
        assert len(found) == len({line for line, _ in found})
        taught = {line: seen for line, seen in found if seen}
        for line in there:
            before = {other for other, arrived in there.items() if other[0] < line[0] and arrived <= line[0]}
            seen = set(taught.get((float(line[0]), line[1]), []))
            assert seen <= {(float(time), item) for time, item in before}
            assert bool(seen) == bool(before)
            compared += bool(seen)
    assert compared > 100


def test_a_stretch_is_of_one_side_of_the_validation_cut(raw: list[Any], rows: list[Row]) -> None:
    for row in rows:
        lines = of_user(raw, row["user"])
        is_early = {line[0] < 20 and lines[int(line[0]), line[1]] <= 20 for line, _ in targets_of(row)}
        assert len(is_early) == 1
        assert (days_of(row, "known_at") < 20) == is_early.pop()


def test_a_stretch_has_bounds_and_times_before_its_last(rows: list[Row]) -> None:
    for row in rows:
        assert len(targets_of(row)) <= LENGTH
        assert 1 < len(row["history"]) <= 2 * LENGTH + 1
        assert min(row["history_age"]) == 0
        assert row["history_weight"] == [1.0] * len(row["history"])


def test_ties_have_one_order(known: DataFrame, rows: list[Row]) -> None:
    again = features.sequences(known.repartition(5), CUTS, LENGTH).collect()
    assert sorted(map(str, again)) == sorted(map(str, rows))


def stretches(times: list[float], arrivals: list[float] | None = None, cut: int = NO_CUT) -> list[dict[str, Any]]:
    """Rows of one customer, whose lines have the items 1, 2, ... in the order in which they were known."""
    time = np.array([round(at * DAY_US) for at in times])
    known = time if arrivals is None else np.maximum(time, [round(at * DAY_US) - 1 for at in arrivals])
    order = np.lexsort((time, known))
    columns = [np.full(len(time), 7), time[order], known[order], np.arange(len(time)) + 1, np.ones(len(time))]
    batch = pa.RecordBatch.from_arrays([pa.array(values) for values in columns], list(LINE_COLUMNS))
    return [row for made in with_stretches([batch], LENGTH, cut) for row in made.to_pylist()]


def test_a_long_history_is_dealt_out_from_its_newest_line_on() -> None:
    found = [(row["history"], row["history_before"]) for row in stretches(list(range(12)))]
    assert found == [
        ([1, 2], [0, 1]),
        ([2, 3, 4, 5, 6, 7], [-1, 1, 2, 3, 4, 5]),
        ([7, 8, 9, 10, 11, 12], [-1, 1, 2, 3, 4, 5]),
    ]


def test_the_rest_of_a_history_stands_before_the_first_targets() -> None:
    found = [(row["history"], row["history_before"]) for row in stretches(list(range(10)), cut=8 * DAY_US)]
    assert found == [
        ([1, 2, 3], [0, 1, 2]),
        ([3, 4, 5, 6, 7, 8], [-1, 1, 2, 3, 4, 5]),
        ([5, 6, 7, 8, 9, 10], [-1, -1, -1, -1, 4, 5]),
    ]


def test_lines_of_a_moment_are_predicted_from_what_was_before_it() -> None:
    [row] = stretches([1, 2, 2, 2, 4])
    assert row["history_before"] == [0, 1, 1, 1, 4]
    assert row["history_age"] == [3, 2, 2, 2, 0]
    (older, newer) = stretches([1, *[2] * 8])
    assert (newer["history"], newer["history_before"]) == ([1, 2, 3, 4, 5, 6, 7, 8, 9], [-1, -1, -1, -1, *[1] * 5])
    assert (older["history"], older["history_before"]) == ([1, 2, 3, 4], [0, 1, 1, 1])


def test_a_line_is_seen_from_its_arrival_on() -> None:
    [row] = stretches([1, 2, 3, 6], [1, 5, 3, 6])  # the second one is known after the third
    assert row["history"] == [1, 2, 3, 4]
    assert row["history_age"] == [5, 3, 4, 0]
    assert row["history_before"] == [0, 1, 1, 3]


def test_who_bought_at_one_moment_alone_teaches_nothing() -> None:
    assert stretches([3]) == []
    assert stretches([3, 3]) == []


def test_many_customers_in_many_batches() -> None:
    """Batches that end within a customer's lines give what one batch of all gives."""
    rng = random.Random(3)
    lines = sorted((rng.randrange(1, 9), rng.randrange(30) * DAY_US) for _ in range(90))
    columns = [[user for user, _ in lines], *[[time for _, time in lines]] * 2, list(range(90)), [1.0] * 90]
    whole = pa.RecordBatch.from_arrays([pa.array(values) for values in columns], list(LINE_COLUMNS))
    wanted = [row for made in with_stretches([whole], LENGTH, NO_CUT) for row in made.to_pylist()]
    parts = [whole.slice(start, 7) for start in range(0, 90, 7)]
    assert [row for made in with_stretches(parts, LENGTH, NO_CUT) for row in made.to_pylist()] == wanted


def test_a_query_has_its_lines_in_the_order_of_those_that_are_learnt(spark: SparkSession) -> None:
    times = {1: (1, 1), 2: (3, 3), 3: (2, 4), 4: (5, 5)}  # the third happens before the second and arrives after it
    rows = [("u1", f"i{item}", day(time), day(arrival), 1.0, True) for item, (time, arrival) in times.items()]
    ids = spark.createDataFrame([(1, "u1")], "index bigint, id string")
    items = spark.createDataFrame([(item, f"i{item}") for item in times], "index bigint, id string")
    known = features.indexed(spark.createDataFrame(rows, f"{LINES}, is_goal boolean"), ids, items)
    [learnt] = features.sequences(known, CUTS, LENGTH).collect()
    held = histories(known, ids.toDF("user", "user_id"), CUTS.test, 2 * LENGTH)
    asked = (held, known.limit(0), known.select("item").limit(0), CUTS.test, None, LENGTH)
    assert queries(*asked, by_arrival=True).collect()[0]["history"] == learnt["history"] == [1, 2, 3, 4]
    assert queries(*asked).collect()[0]["history"] == [1, 3, 2, 4]


def test_of_a_customer_with_too_many_lines_the_newest_count(spark: SparkSession) -> None:
    rows = [(1, item, START, START, item, 1.0, True) for item in range(1, 4)]
    late = [(1, 9, CUTS.validation, CUTS.validation, 1, 1.0, True)]
    columns = (
        "user bigint, item bigint, time timestamp, arrival_time timestamp, tie bigint, weight double, is_goal boolean"
    )
    known = spark.createDataFrame(rows + late, columns)
    [row] = features.sequences(known, CUTS, LENGTH, Cap(2, known.select("user").distinct())).collect()
    assert row["history"] == [3, 9]
