"""Examples, queries and catalogue against a plain-Python account of what was known at each moment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from spark_udfs import features
from spark_udfs.catalogue import catalogue
from spark_udfs.features import Cuts
from spark_udfs.histories import histories, queries
from spark_udfs.newest import Cap, cap_at, over
from spark_udfs.pieces import FIRST, Pieces

START = datetime(2024, 1, 1, tzinfo=UTC)
CUTS = Cuts(validation=START + timedelta(days=20), test=START + timedelta(days=30))
LINES = "user_id string, item_id string, time timestamp, arrival_time timestamp, weight double"
MAX_HISTORY = 4


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def days_of(row: Row, name: str = "time") -> float:
    """A collected timestamp (local, without a zone) in days from the start."""
    return (row[name].astimezone(UTC) - START) / timedelta(days=1)


def some_lines(count: int) -> list[tuple[str | None, str, datetime, datetime, float]]:
    """Random lines with equal times, repeated items, late arrivals and lines without a customer."""
    rng = random.Random(5)
    lines = []
    for _ in range(count):
        user = rng.choice([None, "u1", "u2", "u3", "u4", "u5", "u6"])
        when = rng.randrange(40)
        late = rng.choice([0.0, 0.0, 0.0, 2.5])
        lines.append((user, f"i{rng.randrange(12)}", day(when), day(when + late), 1.0))
    return lines


@pytest.fixture(scope="module")
def raw() -> list[tuple[str | None, str, datetime, datetime, float]]:
    return some_lines(260)


@pytest.fixture(scope="module")
def lines(spark: SparkSession, raw: list[Any]) -> DataFrame:
    return spark.createDataFrame(raw, LINES).withColumn("is_goal", F.lit(True))


@pytest.fixture(scope="module")
def users(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([(number, f"u{number}") for number in range(1, 7)], "index bigint, id string")


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([(number + 1, f"i{number}") for number in range(12)], "index bigint, id string")


@pytest.fixture(scope="module")
def known(lines: DataFrame, users: DataFrame, items: DataFrame) -> Iterator[DataFrame]:
    kept = features.indexed(lines, users, items).persist()
    yield kept
    kept.unpersist()


@pytest.fixture(scope="module")
def examples(known: DataFrame) -> list[Row]:
    return features.examples(known, CUTS, MAX_HISTORY).collect()


def of_user(raw: list[Any], user: int) -> dict[tuple[float, int], float]:
    """(day, item) -> day of arrival, of one user's lines."""
    found: dict[tuple[float, int], float] = {}
    for user_id, item_id, time, arrival, _ in raw:
        if user_id == f"u{user}":
            key = ((time - START).days, int(item_id[1:]) + 1)
            arrived = (arrival - START) / timedelta(days=1)
            found[key] = min(arrived, found.get(key, arrived))
    return found


def split_of(row: Row) -> str:
    known = row["known_at"].astimezone(UTC)
    pieces = Pieces((CUTS.validation,)).of_splits(CUTS)
    assert pieces == {"train": [FIRST], "validation": ["2024-01-21"]}
    return "train" if known < CUTS.validation else "validation"


def test_one_row_for_every_moment_and_target(raw: list[Any], examples: list[Row]) -> None:
    for user in range(1, 7):
        wanted = {
            (float(time), item): "train" if time < 20 and arrived <= 20 else "validation"
            for (time, item), arrived in of_user(raw, user).items()
            if time < 30 and arrived <= 30
        }
        rows = [row for row in examples if row["user"] == user]
        assert len(rows) == len(wanted)
        assert {(days_of(row), row["target"]): split_of(row) for row in rows} == wanted


def test_histories_hold_what_was_known_and_nothing_else(raw: list[Any], examples: list[Row]) -> None:
    """Strictly before the moment by event time, arrived by then, the most recent, oldest first."""
    compared = 0
    for row in examples:
        moment = days_of(row)
        before = [
            (time, item)
            for (time, item), arrived in of_user(raw, row["user"]).items()
            if time < moment and arrived <= moment
        ]
        history = [(moment - age, item) for age, item in zip(row["history_age"], row["history"], strict=True)]
        times = [time for time, _ in history]
        assert times == sorted(times)
        assert set(history) <= {(float(time), item) for time, item in before}
        assert times == [float(time) for time in sorted(time for time, _ in before)[-MAX_HISTORY:]]
        compared += bool(history)
    assert compared > 50


def test_new_is_as_of_the_moment_and_weight(raw: list[Any], examples: list[Row]) -> None:
    for row in examples:
        earlier = [
            time
            for (time, item), arrived in of_user(raw, row["user"]).items()
            if item == row["target"] and time < days_of(row) and arrived <= days_of(row)
        ]
        assert row["new"] == float(not earlier)
        assert row["weight"] == 1.0


def test_ties_have_one_order(known: DataFrame, examples: list[Row]) -> None:
    again = features.examples(known.repartition(5), CUTS, MAX_HISTORY).collect()
    assert sorted(map(str, again)) == sorted(map(str, examples))


def asked_at(
    known: DataFrame, users: DataFrame, cut: datetime, until: datetime | None, cap: Cap | None = None
) -> DataFrame:
    ids = users.toDF("user", "user_id")
    held = histories(known, ids, cut, features.LOOKED_AT * MAX_HISTORY, cap)
    met = known.where(features.known_before(cut)).select("item").distinct()
    return queries(held, known, met, cut, until, MAX_HISTORY, cap)


def test_queries(raw: list[Any], known: DataFrame, users: DataFrame) -> None:
    rows = asked_at(known, users, CUTS.test, None).collect()
    per_user = {user: of_user(raw, user) for user in range(1, 7)}
    past = {user: {key for key, at in found.items() if key[0] < 30 and at <= 30} for user, found in per_user.items()}
    met = {item for found in past.values() for _, item in found}
    assert {row["user"] for row in rows} == {user for user, found in past.items() if found}
    for row in rows:
        found = past[row["user"]]
        assert row["user_id"] == f"u{row['user']}"
        assert row["seen"] == sorted({item for _, item in found})
        assert sorted(30 - age for age in row["history_age"]) == sorted(time for time, _ in found)[-MAX_HISTORY:]
        later = {item for time, item in per_user[row["user"]] if time >= 30}
        assert row["truth"] == sorted(later & met)


def test_validation_queries_end_at_the_test_cut(raw: list[Any], known: DataFrame, users: DataFrame) -> None:
    rows = asked_at(known, users, CUTS.validation, CUTS.test).collect()
    for row in rows:
        held = of_user(raw, row["user"]).items()
        assert row["truth"] == sorted({item for (time, item), at in held if 20 <= time < 30 and at <= 30})


def test_catalogue(raw: list[Any], spark: SparkSession, lines: DataFrame, items: DataFrame) -> None:
    names = spark.createDataFrame([("i0", "cup")], "item_id string, name string")
    unsold = items.union(spark.createDataFrame([(13, "i99")], items.schema))
    rows = {row["item_id"]: row for row in catalogue(lines, unsold, names, CUTS.test, 7).collect()}
    assert len(rows) == 13
    assert (rows["i0"]["name"], rows["i1"]["name"]) == ("cup", "i1")
    assert (rows["i99"]["count"], rows["i99"]["recent_count"], rows["i99"]["first_sold"]) == (0, 0, None)
    for number in range(12):
        sold = [
            (user, time) for user, item, time, at, _ in raw if item == f"i{number}" and time < day(30) and at <= day(30)
        ]
        row = rows[f"i{number}"]
        assert row["count"] == len(sold)
        assert row["user_count"] == sum(user is not None for user, _ in sold)
        assert row["recent_count"] == sum(user is not None and time >= day(23) for user, time in sold)
        assert days_of(row, "first_sold") == (min(time for _, time in sold) - START).days


def test_purchases_take_sales_and_bought_feedback_alone(spark: SparkSession) -> None:
    events = spark.createDataFrame(
        [("e1", "u1", "i1", "purchase", day(1), day(1)), ("e2", "u1", "i1", "return", day(2), day(2))],
        "event_id string, user_id string, item_id string, kind string, time timestamp, arrival_time timestamp",
    )
    feedback = spark.createDataFrame(
        [
            ("u1", "i2", "purchased", day(3), 0.5),
            ("u1", "i3", "viewed", day(3), 1.0),
            ("u1", "i4", "ignored", None, 1.0),
        ],
        "user_id string, item_id string, outcome string, outcome_time timestamp, weight double",
    )
    rows = features.purchases(events, feedback).collect()
    assert sorted((row["item_id"], days_of(row), row["weight"]) for row in rows) == [("i1", 1.0, 1.0), ("i2", 3.0, 0.5)]
    unweighted = features.purchases(events, feedback.drop("weight")).collect()
    assert {row["weight"] for row in unweighted} == {1.0}


def test_a_purchase_that_the_events_have_is_counted_once_and_known_when_they_were(spark: SparkSession) -> None:
    """Feedback drawn from the events names purchases that are lines already, late ones among them."""
    events = spark.createDataFrame(
        [
            ("u1", "i1", "purchase", day(3), day(6)),  # arrived after the cut
            ("u2", "i1", "purchase", day(2), day(2)),
            ("u2", "i1", "purchase", day(2), day(2)),  # two lines of one order
            (None, "i1", "purchase", day(3), day(3)),
        ],
        "user_id string, item_id string, kind string, time timestamp, arrival_time timestamp",
    )
    feedback = spark.createDataFrame(
        [
            ("u1", "i1", "purchased", day(3), 2.0),
            ("u2", "i1", "purchased", day(2), 0.5),
            ("u3", "i1", "purchased", day(1), 3.0),  # the events lack it; two bundles claim it
            ("u3", "i1", "purchased", day(1), 1.0),
        ],
        "user_id string, item_id string, outcome string, outcome_time timestamp, weight double",
    )
    lines = features.purchases(events, feedback)
    found = sorted((str(r["user_id"]), days_of(r), days_of(r, "arrival_time"), r["weight"]) for r in lines.collect())
    u2 = ("u2", 2.0, 2.0, 1.0)
    assert found == [("None", 3.0, 3.0, 1.0), ("u1", 3.0, 6.0, 2.0), u2, u2, ("u3", 1.0, 1.0, 3.0)]
    items = spark.createDataFrame([(1, "i1")], "index bigint, id string")
    names = spark.createDataFrame([("i1", "cup")], "item_id string, name string")
    sold = catalogue(lines, items, names, day(5), 7).collect()[0]
    assert (sold["count"], sold["user_count"], sold["customers"]) == (4, 3, 2)


def test_of_a_customer_with_too_many_lines_the_newest_count(
    lines: DataFrame, users: DataFrame, items: DataFrame
) -> None:
    known = features.indexed(lines, users, items)
    before = known.where(features.known_before(CUTS.test))
    counts = {row["user"]: row["count"] for row in before.groupBy("user").count().collect()}
    most = sorted(counts.values())[3]
    cap, beyond = cap_at(over(known, most, features.known_before(CUTS.test)), most)
    assert beyond == sum(max(0, count - most) for count in counts.values()) > 0
    every = known.count()
    assert cap_at(over(known, every), every) == (Cap(every, None, are_few=True), 0)

    def rows(df: DataFrame) -> set[str]:
        return set(df.select(F.to_json(F.struct("*"))).toPandas().iloc[:, 0])

    whole, capped = (features.examples(known, CUTS, MAX_HISTORY, at).persist() for at in (None, cap))
    small = [user for user, count in counts.items() if count <= most]
    assert rows(capped.where(F.col("user").isin(small))) == rows(whole.where(F.col("user").isin(small)))
    assert {row["user"]: row["count"] for row in capped.groupBy("user").count().collect()} == {
        user: min(most, count) for user, count in counts.items()
    }
    # What was met in lines that do not count is not new.
    told = ("user", "time", "target", "new")
    assert rows(capped.select(*told)) < rows(whole.select(*told))
    # The newest moments are as they were: their histories reach no further back than what is kept.
    last = whole.groupBy("user").agg(F.max("time").alias("time"))
    assert rows(capped.join(last, on=["user", "time"])) == rows(whole.join(last, on=["user", "time"]))
    asked = asked_at(known, users, CUTS.test, None, cap)
    uncapped = asked_at(known, users, CUTS.test, None)
    assert rows(asked.select("user", "history")) == rows(uncapped.select("user", "history"))
    # What happens after the cut changes nothing before it.
    later = lines.where(F.col("time") < F.lit(CUTS.test))
    again = features.examples(features.indexed(later, users, items), CUTS, MAX_HISTORY, cap)
    assert rows(again) == rows(capped)


def test_kinds_are_worth_their_weights_and_lists_are_judged_by_the_heaviest(spark: SparkSession) -> None:
    rows = [
        ("u1", "i1", "view", day(1)),
        ("u1", "i1", "purchase", day(2)),
        ("u1", "i2", "view", day(3)),
        ("u1", "i3", "cart", day(4)),
        ("u1", "i2", "view", day(31)),
        ("u1", "i3", "purchase", day(32)),
    ]
    events = spark.createDataFrame(
        [(*row, row[3]) for row in rows],
        "user_id string, item_id string, kind string, time timestamp, arrival_time timestamp",
    )
    lines = features.purchases(features.weighed(events, {"purchase": 1.0, "view": 0.25}))
    assert sorted((days_of(row), row["weight"], row["is_goal"]) for row in lines.collect()) == [
        (1.0, 0.25, False), (2.0, 1.0, True), (3.0, 0.25, False), (31.0, 0.25, False), (32.0, 1.0, True),
    ]  # fmt: skip
    users = spark.createDataFrame([(1, "u1")], "index bigint, id string")
    items = spark.createDataFrame([(n, f"i{n}") for n in (1, 2, 3)], "index bigint, id string")
    known = features.indexed(lines, users, items)
    (asked,) = asked_at(known, users, CUTS.test, None).collect()
    assert asked["history_weight"] == [0.25, 1.0, 0.25]
    assert (asked["history"], asked["seen"], asked["truth"]) == ([1, 1, 2], [1], [])  # nobody had met i3 before
    examples = features.examples(known, CUTS, MAX_HISTORY).collect()
    columns = ("target", "history", "history_weight", "weight")
    assert [tuple(row[name] for name in columns) for row in sorted(examples, key=days_of)] == [
        (1, [], [], 0.25), (1, [1], [0.25], 1.0), (2, [1, 1], [0.25, 1.0], 0.25),
    ]  # fmt: skip
