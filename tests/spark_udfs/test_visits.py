"""A click stream as visits: what each step knew, where visits end, and what earlier ones said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import Row, SparkSession

from spark_udfs import visits

START = datetime(2025, 3, 1, 12, tzinfo=UTC)  # a Saturday
IDLE = 30 * 60 * 1_000_000
SCHEMA = (
    "session_id string, user_id string, item_id string, time timestamp, arrival_time timestamp, page string, n string"
)
PAGES = {"item": ["item", "zoom"], "cart": ["cart"]}


def step(session: str, minutes: float, page: str, item: str | None = None, *, late: float = 0) -> tuple[Any, ...]:
    time = START + timedelta(minutes=minutes)
    return (session, f"user of {session[0]}", item, time, time + timedelta(minutes=late), page, f"{session} {minutes}")


STREAM = [
    step("a", 0, "list"),
    step("a", 1, "item", "shoe"),
    step("a", 3, "zoom", "shoe"),
    step("a", 3, "item", "hat"),  # of one time: in the order of what they are, whatever they lie like
    step("a", 10, "paid"),
    step("a", 11, "item", "hat"),  # after a purchase nothing is asked
    step("a", 11 + 30, "cart"),
    step("a", 11 + 30 + 31, "list"),  # another visit
    step("a", 80, "item", "hat", late=31),  # nobody knew it while the visit went on
    step("a2", 75, "list"),  # the first visit is over, the second is not
    step("b", 0, "list"),
]


def told(spark: SparkSession, partitions: int) -> dict[tuple[str, int, int], Row]:
    steps = spark.createDataFrame(STREAM, SCHEMA).repartition(partitions)
    found = visits.so_far(steps, idle_us=IDLE, pages=PAGES, orders=["paid"], items=True)
    every = visits.each_once(steps, idle_us=IDLE, orders=["paid"])
    user = visits.with_earlier(found, every)
    return {(row["session_id"], row["visit"], row["steps"]): row for row in user.collect()}


def test_a_step_knows_its_visit_so_far(spark: SparkSession) -> None:
    found = told(spark, 1)
    assert found == told(spark, 3)
    assert {*found} == {("a", 0, n) for n in (1, 2, 3, 4)} | {("a", 1, 1), ("a2", 0, 1), ("b", 0, 1)}
    fourth = found["a", 0, 4]
    assert (fourth["page"], fourth["item_id"], fourth["seconds"], fourth["gap_seconds"]) == ("zoom", "shoe", 180, 0)
    assert (fourth["item_steps"], fourth["cart_steps"], fourth["items"], fourth["items_again"]) == (3, 0, 2, 1)
    assert (fourth["hour"], fourth["is_weekend"], fourth["to_come"]) == (12, 1, 3)
    assert fourth["over"].replace(tzinfo=UTC) == START + timedelta(minutes=11 + 30 + 30)
    assert [found["a", 0, n]["label"] for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    first = found["a", 1, 1]  # of the second visit
    assert (first["label"], first["seconds"], first["gap_seconds"], first["items"], first["to_come"]) == (0, 0, 0, 0, 0)


def test_earlier_visits_count_and_their_orders_once_they_are_over(spark: SparkSession) -> None:
    found = told(spark, 2)
    known = {
        key: (row["user_visits"], row["user_orders"], round(row["user_days_since"] * 1_440, 2))
        for key, row in found.items()
        if key[2] == 1
    }
    never = visits.NEVER * 1_440
    assert known == {
        ("a", 0, 1): (0, 0, never),
        ("a", 1, 1): (1, 1, 72),
        ("a2", 0, 1): (2, 1, 3),
        ("b", 0, 1): (0, 0, never),
    }
    assert found["a", 0, 1]["user_days_since_order"] == visits.NEVER
    assert round(found["a", 1, 1]["user_days_since_order"] * 1_440, 2) == 1
