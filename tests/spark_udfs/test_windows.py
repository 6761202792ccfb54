"""What was known of an entity at each row's moment, against a plain-Python account of random rows."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs import windows

START = datetime(2025, 1, 1, tzinfo=UTC)
COLUMNS = (
    "case_id string, time timestamp, arrival_time timestamp, fraud double, label_time timestamp, address string, "
    "device string, amount double"
)
DAY = timedelta(days=1)
NAMES = (*windows.KNOWN, *windows.means_of(["amount"]))


def some_cases(count: int) -> list[tuple[Any, ...]]:
    """Equal times, late arrivals, labels that come late or never or before their row, rows without an entity."""
    rng, cases = random.Random(3), []
    for number in range(count):
        time = START + rng.choice([timedelta(days=rng.randrange(50)), rng.random() * 50 * DAY])
        arrival = time + rng.choice([0, 0, 0, 3.5]) * DAY
        fraud = rng.choice([None, 0.0, 0.0, 1.0])
        label = time + rng.choice([-1, 0, 7, 7, 20]) * DAY if rng.random() < 0.9 else None
        address, device = rng.choice(["a", "a", "a", "b", "c", None]), rng.choice(["a", "d", f"own {number}"])
        amount = rng.choice([None, math.nan, -3.5, *(round(rng.random() * 100, 4) for _ in range(5))])
        cases.append((f"case {number}", time, arrival, fraud, label, address, device, amount))
    return cases


def plain(cases: list[tuple[Any, ...]], case: tuple[Any, ...], column: int) -> dict[str, Any]:
    """By the rules, row against row."""
    now = case[1]
    known = [
        other
        for other in cases
        if case[column] is not None and other[column] == case[column] and other[1] < now and other[2] <= now
    ]
    # Known since: just after its own moment, or when it arrived.
    since = [max(other[1] + timedelta(microseconds=1), other[2]) for other in known]
    labels = [other[3] for other in known if other[3] is not None and other[4] is not None and other[4] <= now]
    recent = {f"rows_{days}d": sum(when > now - days * DAY for when in since) for days in windows.RECENT_DAYS}
    frauds = [
        max(when, other[4])
        for when, other in zip(since, known, strict=True)
        if other[3] == 1 and other[4] is not None and other[4] <= now
    ]
    last = max((other[1] for other in known), default=None)
    means = {}
    for days in windows.RECENT_DAYS:
        amounts = [other[7] for when, other in zip(since, known, strict=True) if when > now - days * DAY]
        said = [amount for amount in amounts if amount is not None and not math.isnan(amount)]
        means[f"amount_mean_{days}d"] = pytest.approx(sum(said) / len(said)) if said else None
    return {
        "rows": len(known),
        **recent,
        "labels": len(labels),
        "frauds": int(sum(labels)),
        **{f"frauds_{days}d": sum(when > now - days * DAY for when in frauds) for days in windows.FRAUD_DAYS},
        "days_since_fraud": None if not frauds else pytest.approx((now - max(frauds)) / DAY),
        "days_since": None if last is None else pytest.approx((now - last) / DAY),
        **means,
    }


def found(rows: DataFrame, heavy: int = windows.HEAVY) -> dict[str, dict[str, Any]]:
    held = windows.as_of(rows, "case_id", ["address", "device"], ["amount"], heavy=heavy).collect()
    return {row["case_id"]: row.asDict() for row in held}


@pytest.mark.parametrize(("heavy", "partitions"), [(windows.HEAVY, 1), (20, 7)])
def test_each_row_knows_what_a_plain_account_says(spark: SparkSession, heavy: int, partitions: int) -> None:
    """However rows are partitioned, and whether or not an entity's line is cut into hours."""
    cases = some_cases(240)
    rows = found(spark.createDataFrame(cases, COLUMNS).repartition(partitions), heavy)
    assert len(rows) == len(cases)
    for case in cases:
        for entity, column in (("address", 5), ("device", 6)):
            wanted = plain(cases, case, column)
            assert {name: rows[case[0]][f"{entity}_{name}"] for name in NAMES} == wanted, case
    assert max(row["address_frauds"] for row in rows.values()) > 10


def test_planted_leaks_change_no_row_before_them(spark: SparkSession) -> None:
    """A fraud that happens, arrives or is labelled later is no business of an earlier row, nor of one of its time."""
    cases = some_cases(60)
    before = found(spark.createDataFrame(cases, COLUMNS))
    cut = START + 25 * DAY
    leaks = [
        ("happens then", cut, cut, 1.0, cut, "a", "d", 1.0),
        ("arrives then", START, cut, 1.0, START, "a", "d", 1.0),
        ("labelled then", START, START, 1.0, cut, "a", "d", 1.0),
    ]
    after = found(spark.createDataFrame(cases + leaks, COLUMNS))
    earlier = [case[0] for case in cases if case[1] < cut]
    frauds = {name: [rows[name]["address_frauds"] for name in earlier] for name, rows in (("b", before), ("a", after))}
    assert frauds["a"] == frauds["b"]
    # The third one happened and arrived long ago: its row counts, its label does not yet.
    assert sum(after[name]["address_rows"] - before[name]["address_rows"] for name in earlier) == sum(
        case[5] == "a" and START < case[1] < cut for case in cases
    )
    later = next(case[0] for case in cases if case[1] > cut + 2 * DAY and case[5] == "a")
    assert after[later]["address_frauds"] == before[later]["address_frauds"] + 3


def test_what_came_before_may_be_kept_as_facts_and_sums(spark: SparkSession) -> None:
    """Of rows after a moment the same is known, where the rows before are what `facts` and `settled` say of them."""
    cases, entities = some_cases(240), ["address", "device"]
    expected = found(spark.createDataFrame(cases, COLUMNS))
    cut = START + 40 * DAY
    now = F.lit(round(cut.timestamp() * 1e6))
    before, after = (
        spark.createDataFrame([case for case in cases if (case[1] < cut) == is_before], COLUMNS)
        for is_before in (True, False)
    )
    facts = windows.facts(before, "case_id", entities, ["amount"])
    done = windows.is_settled(now)
    halves = [windows.settled(facts.where(done & (F.col("kind") == kind)), ["amount"]) for kind in entities]
    past = windows.Past(facts.where(~done), windows.added(*halves))
    assert past.sums.count() > 3
    held = windows.as_of(after, "case_id", entities, ["amount"], past=past, heavy=None).collect()
    assert len(held) > 30
    for row in held:
        for name in [f"{entity}_{name}" for entity in entities for name in NAMES]:
            assert row[name] == expected[row["case_id"]][name], (row["case_id"], name)


def test_rate_is_smoothed_towards_the_prior(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(0, 0), (3, 4)], "a_frauds int, a_labels int")
    assert [row[0] for row in rows.select(windows.rate("a", 0.9)).collect()] == pytest.approx([0.9, 3.9 / 5])


def output_rows(made: DataFrame) -> int:
    """What all operators of a plan put out together, as Spark itself counts."""
    made.collect()
    of_java: Any = made
    nodes, total = [of_java._jdf.queryExecution().executedPlan()], 0
    while nodes:
        node = nodes.pop()
        kind = node.getClass().getSimpleName()
        if kind == "AdaptiveSparkPlanExec":
            nodes.append(node.executedPlan())
        elif kind.endswith("QueryStageExec"):
            nodes.append(node.plan())
        else:
            if node.metrics().contains("numOutputRows"):
                total += node.metrics().apply("numOutputRows").value()
            nodes += [node.children().apply(place) for place in range(node.children().size())]
    return total


@pytest.mark.parametrize("heavy", [windows.HEAVY, 100])
def test_rows_of_one_entity_are_no_more_work_than_rows_of_many(spark: SparkSession, heavy: int) -> None:
    """Nor do four times as many rows make more than four times the work; each against each would make sixteen, and of
    1,600 rows 20 times what all operators put out here."""

    def work(count: int, entities: int) -> int:
        cases = [
            (f"case {n}", START + n * timedelta(hours=1), START + n * timedelta(hours=1), float(n % 9 == 0),
             START + n * timedelta(hours=1) + 7 * DAY, f"a {n % entities}", None, None)
            for n in range(count)
        ]  # fmt: skip
        return output_rows(windows.as_of(spark.createDataFrame(cases, COLUMNS), "case_id", ["address"], heavy=heavy))

    one, four = work(400, 1), work(1_600, 1)
    assert four < 4.4 * one
    assert four < 4 * work(1_600, 1_600)  # a line that is cut is read twice, and its parts are added up
