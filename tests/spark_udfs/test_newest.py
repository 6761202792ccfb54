"""Customers' newest lines by sums, against all lines in order."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.newest import Cap, cap_at, in_short, newest, over

CAP = 12
START = datetime(1969, 12, 31, 20, tzinfo=UTC)  # hours before and after the one from which Spark counts
COLUMNS = "user bigint, item bigint, time timestamp, arrival_time timestamp, tie bigint, weight double"
Key = tuple[datetime, int, int]


def drawn() -> dict[tuple[int, int, datetime], tuple[datetime, int]]:
    """(user, item, time) -> (arrival_time, tie): of users with fewer lines than count, as many, and more."""
    rng, lines = random.Random(3), dict[tuple[int, int, datetime], tuple[datetime, int]]()
    for user, count, minutes in [
        (1, CAP - 1, 5),
        (2, CAP, 60),
        (3, 90, 500),
        (4, 60, 2),
        (5, CAP + 1, 900),
        (6, 90, 90),
    ]:
        while sum(key[0] == user for key in lines) < count:
            time = START + timedelta(minutes=rng.randrange(minutes) * 1.0)
            late = timedelta(minutes=rng.choice([0, 0, 700]))
            lines[user, rng.randrange(40), time] = (time + late, rng.randrange(-2, 2))
    return lines


@pytest.mark.parametrize("are_few", [True, False])
def test_the_newest_lines_are_found_by_sums(spark: SparkSession, are_few: bool) -> None:
    lines = drawn()
    of_user = defaultdict[int, list[Key]](list)
    for (user, item, time), (_, tie) in lines.items():
        of_user[user].append((time, tie, item))
    wanted = {user: set(sorted(found)[-CAP:]) for user, found in of_user.items()}
    rows = spark.createDataFrame([(*key, *value, 1.0) for key, value in lines.items()], COLUMNS).repartition(3)
    cap, beyond = cap_at(over(rows, CAP).persist(), CAP)
    assert beyond == sum(max(0, len(found) - CAP) for found in of_user.values())
    assert cap.users is not None
    assert {row["user"] for row in cap.users.collect()} == {3, 4, 5, 6}
    users = cap.users if are_few else rows.select("user").distinct()  # of more users than have too many
    found = defaultdict[int, set[Key]](set)
    short = in_short(rows, Cap(CAP, users, are_few)).collect()
    for row in (row for row in short if row["counts"]):
        found[row["user"]].add((row["time"].astimezone(UTC), row["tie"], row["item"]))
        assert row["weight"] == 1.0
    assert found == wanted
    # Of the others, what they say of their items: the first arrival, before any line that counts.
    others = defaultdict[tuple[int, int], list[tuple[datetime, datetime]]](list)
    for (user, item, time), (arrival, tie) in lines.items():
        if (time, tie, item) not in wanted[user]:
            others[user, item].append((arrival, time))
    told = {
        (row["user"], row["item"]): (row["arrival_time"].astimezone(UTC), row["time"].astimezone(UTC))
        for row in short
        if not row["counts"]
    }
    assert told == {key: (min(a for a, _ in seen), max(t for _, t in seen)) for key, seen in others.items()}
    if are_few:
        kept = newest(rows, Cap(CAP, users, are_few)).withColumn("counts", F.lit(True))
        assert sorted(map(str, kept.collect())) == sorted(str(row) for row in short if row["counts"])


def test_where_nobody_has_more_lines_stay_as_they_are(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1, 2, START, START, 0, 1.0)], COLUMNS)
    for cap in (None, Cap(CAP)):
        assert newest(rows, cap) is rows
        assert in_short(rows, cap).where("counts").drop("counts").collect() == rows.collect()
