"""Customers on a planted world: most keep to a rhythm, some have stopped, and some spend ten times as much."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import build_examples, evaluate, score, train
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import customers, customers_on_spark
from jobs.tasks.customers_on_spark import CLASSIC, TABLES
from jobs.tasks.customers_scored import SPEND_BETWEEN, WEEKDAYS
from spark_udfs import segments
from spark_udfs.customer_habits import habits
from training.errors import SettingsError
from training.models import value_mlp
from training.tables.sharded import Tables as ShardedTables

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CUT, HORIZON, LAST = START + 100 * DAY, 10, 115
USERS = 120
KINDS: dict[str, Callable[[Any], bool]] = {
    "stopped": lambda row: row["recency_days"] > 30,
    "ordering": lambda row: row["recency_days"] < 5,
    "much": lambda row: row["value"] > 1000,
}
EVENTS = (
    "event_id string, user_id string, item_id string, kind string, time timestamp, arrival_time timestamp, "
    "quantity bigint, price double"
)


def planted() -> list[tuple[Any, ...]]:
    """A customer orders every five days or so until a day on which a third of them stop; one in four pays much."""
    rng, rows = random.Random(4), []
    for user in range(USERS):
        at, stops = 20 * rng.random(), rng.uniform(30, LAST) if user % 3 == 0 else LAST
        while at < stops:
            time = START + at * DAY
            price = (100.0 if user % 4 == 0 else 10.0) * rng.uniform(0.8, 1.2)
            rows.append((f"user {user}", f"item {user % 7}", "purchase", time, time, 1, price))
            at += rng.uniform(3, 7)
    rows.append(("looker", "item 1", "view", START, START, 1, 1.0))
    rows.append((None, "item 1", "purchase", START + LAST * DAY, START + LAST * DAY, 1, 1.0))
    return [(f"e{number}", *row) for number, row in enumerate(rows)]


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "customers",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {"horizon_days": HORIZON, "moments": 10, "every_days": 5},
        "examples": {"test_from": CUT, "validation_days": 12, "rows_per_group": 100},
        "model": {"hidden": [16]},
        "training": {"ranks": 1, "epochs": 6, "batch_size": 64, "learning_rate": 0.01},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("customers"))
    tables = Tables(spark, settings.tables.root)
    rows = spark.createDataFrame(planted(), EVENTS).repartition(3)
    tables.write("events", rows, mode="overwrite", job="ingest", inputs={})
    items = spark.range(7).selectExpr("concat('item ', id) AS item_id", "concat('category ', id % 2) AS category")
    tables.write("items", items, mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    train.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def result(trained: Settings, spark: SparkSession) -> dict[str, Any]:
    return evaluate.run(trained, spark)


@pytest.fixture(scope="module")
def scored(trained: Settings, spark: SparkSession) -> dict[str, Any]:
    return score.run(as_of_later(trained), spark)


def as_of_later(trained: Settings) -> Settings:
    return settings_in(Path(trained.run_dir).parent, scoring={"moment": CUT + 5.5 * DAY})


def ordered(first: datetime, end: datetime) -> set[str]:
    """Who ordered from one time on and before another."""
    return {row[1] for row in planted() if row[1] and row[3] == "purchase" and first <= row[4] < end}


def test_moments_are_learnt_from_whose_horizon_is_over(trained: Settings, spark: SparkSession) -> None:
    tables = Tables(spark, trained.tables.root)
    last = CUT - HORIZON * DAY
    moments = {row[0].timestamp() for row in tables.read("examples").select("time").distinct().collect()}
    assert moments == {(last - 5 * place * DAY).timestamp() for place in range(10)}
    held = {
        split: {row["user_id"]: row for row in tables.read("queries").where(f"split = '{split}'").collect()}
        for split in ("validation", "test")
    }
    assert {row["time"].timestamp() for row in held["validation"].values()} == {last.timestamp()}
    assert held["test"].keys() == ordered(START, CUT)
    for moment, rows in ((last, held["validation"]), (CUT, held["test"])):
        assert {user for user, row in rows.items() if row["buys"]} == ordered(
            moment, moment + HORIZON * DAY
        ) & rows.keys()


def test_who_has_stopped_is_found(result: dict[str, Any]) -> None:
    judged = result["protocols"]["next"]
    assert judged["users"] == len(ordered(START, CUT))
    assert list(judged["models"])[:4] == [OURS, *TABLES, CLASSIC]
    ours = judged["models"][OURS]
    assert ours["auc"]["value"] > 0.9  # who stops after the cut cannot be told
    assert 0.85 < ours["predicted_to_actual"]["value"] < 1.15
    assert 0.8 < judged["models"]["recency"]["auc"]["value"] < 1
    assert ours["spend_gini"]["value"] > 0.9 > judged["models"]["recency"]["spend_gini"]["value"]
    assert abs(ours["spend_bias"]["value"]) < 0.2
    said = ours["spend_within_said"]["value"]
    assert 0.8 < said < 1
    assert abs(ours["spend_within"]["value"] - said) < 0.15
    assert "spend_within" not in judged["models"][CLASSIC]
    assert abs(ours["order_days_bias"]["value"]) < 0.2
    assert ours["order_days_mae"]["value"] < judged["models"]["recency"]["order_days_mae"]["value"] + 0.1
    assert [curve["title"] for curve in result["curves"]] == ["Precision over recall", "Predicted and actual"]
    assert len(result["drawn"]["rows"]) == 10


def test_everybody_is_scored_and_a_second_run_changes_nothing(
    trained: Settings, scored: dict[str, Any], spark: SparkSession
) -> None:
    asked = as_of_later(trained)
    rows = {row["user_id"]: row for row in Tables(spark, asked.tables.root).read("customer_scores").collect()}
    assert rows.keys() == ordered(START, CUT + 5.5 * DAY)
    assert scored["customers"] == len(rows)
    assert {row["until"].timestamp() for row in rows.values()} == {(CUT + (5.5 + HORIZON) * DAY).timestamp()}
    assert all(row["p_buys"] + row["churn"] == pytest.approx(1) for row in rows.values())
    gone = [row["p_buys"] for row in rows.values() if row["recency_days"] > 20]
    lately = [row["p_buys"] for row in rows.values() if row["recency_days"] < 5]
    assert sum(gone) / len(gone) < 0.2 < 0.8 < sum(lately) / len(lately)
    sure = [row for row in rows.values() if row["p_buys"] > 0.8]  # two orders in ten days, of 10 or 100 each
    assert 1.3 < sum(row["expected_order_days"] for row in sure) / len(sure) < 2.7
    much = [row["expected_spend"] for row in sure if int(row["user_id"].split()[1]) % 4 == 0]
    little = [row["expected_spend"] for row in sure if int(row["user_id"].split()[1]) % 4]
    assert min(much) > 3 * max(little)
    assert score.run(asked, spark)["up_to_date"]
    assert all(0 <= row["spend_low"] <= row["spend_high"] for row in rows.values())
    assert all(row["spend_high"] > 0 for row in rows.values() if row["p_buys"] > 0.5)


@pytest.mark.usefixtures("scored")
def test_customers_have_segments_and_habits(trained: Settings, spark: SparkSession) -> None:
    table = Tables(spark, trained.tables.root).read("customer_scores")
    rows = {row["user_id"]: row for row in table.collect()}
    held = {name: {row["segment"] for row in rows.values() if of(row)} for name, of in KINDS.items()}
    assert all("long ago" in name for name in held["stopped"])
    assert all("long ago" not in name for name in held["ordering"])
    assert all("much spent" in name for name in held["much"])
    assert 3 <= len({row["segment"] for row in rows.values()}) <= 6
    for user, row in rows.items():
        theirs = [line for line in planted() if line[1] == user and line[4] < CUT + 5.5 * DAY]
        assert row["mean_price"] == pytest.approx(sum(line[7] for line in theirs) / len(theirs))
        days = [line[4].weekday() for line in theirs]
        assert days.count(WEEKDAYS.index(row["weekday"])) == max(map(days.count, days))
        hours = [line[4].hour for line in theirs]
        assert row["hour"] == min(hour for hour in hours if hours.count(hour) == max(map(hours.count, hours)))
        assert row["favourites"] == [f"category {int(user.split()[1]) % 7 % 2}"]
    dear = {user for user in rows if user != "looker" and int(user.split()[1]) % 4 == 0}
    assert min(rows[user]["price_level"] for user in dear) >= max(
        rows[user]["price_level"] for user in rows.keys() - dear
    )
    said = {field.name: field.metadata.get("comment") for field in table.schema.fields}
    assert {name: said[name] for name in customers.SCORED} == customers.SCORED


def test_the_interval_is_the_models_own() -> None:
    assert SPEND_BETWEEN == value_mlp.BETWEEN


def test_customers_who_are_all_alike_are_one_segment(spark: SparkSession) -> None:
    row = ["'user ' || id AS user_id", "1D AS order_days", "2D AS recency_days", "3D AS value"]
    for count in (1, 3):
        found = segments.fit(spark.range(count).selectExpr(*row), 6, 100)
        assert [(one.name, one.share, one.middle) for one in found.all] == [
            ("few orders, lately, little spent", 1, (1, 2, 3))
        ]
    assert segments.fit(spark.range(0).selectExpr(*row), 6, 100).all == ()


def test_without_prices_favourites_are_of_most_lines(spark: SparkSession) -> None:
    bought = [("u", item, START, False, 0.0, 0.0) for item in ("z", "z", "a")]
    columns = "user_id string, item_id string, time timestamp, is_return boolean, value double, pieces double"
    items = spark.createDataFrame([("z", "Zebra"), ("a", "Apple")], "item_id string, category string")
    (row,) = habits(spark.createDataFrame(bought, columns), items, 1).collect()
    assert (row["favourites"], row["mean_price"]) == (["Zebra"], None)


def test_a_model_of_whether_alone_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, model={"name": "multi_task"})
    columns = customers.schema({}, settings)
    with pytest.raises(SettingsError, match=r"model\.name must be value_mlp, .* got 'multi_task'"):
        customers._model({"model": settings.model}, columns, ShardedTables())


def test_a_validation_that_ends_before_its_horizon_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, examples={"test_from": CUT, "validation_days": 9})
    with pytest.raises(SettingsError, match=r"must be options\.horizon_days, 10, or more.*; got 9; set it to 10"):
        customers_on_spark._refuse_short_validation(settings)
