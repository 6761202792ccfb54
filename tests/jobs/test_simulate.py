"""The simulated shop's raw table: made once, read by ingest under its own rules, dirt counted where it was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import ingest, simulate
from jobs.demo import PIPELINES
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from spark_udfs.simulated import shop
from spark_udfs.simulated.demand import PRODUCT_DAYS
from spark_udfs.simulated.fraud import PAYMENTS
from spark_udfs.simulated.planted import Planted
from training.errors import TableError


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("simulate") / "tables"
    size = {"users": 120, "items": 60, "days": 60, "orders_per_user": 5.0, "tastes": 4}
    return Settings.model_validate({"tables": {"root": str(root)}, "shop": size})


@pytest.fixture(scope="module")
def simulated(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    return simulate.run(settings, spark)


def test_a_second_run_changes_nothing(spark: SparkSession, settings: Settings, simulated: dict[str, Any]) -> None:
    assert simulated["path"] == str(Path(settings.tables.root).parent / "raw" / "order_lines")
    assert simulate.run(settings, spark) == simulated | {"up_to_date": True}


def test_ingest_finds_what_was_planted(spark: SparkSession, settings: Settings, simulated: dict[str, Any]) -> None:
    found = ingest.run(settings, spark)["dispositions"]
    assert sum(found.values()) == simulated["rows"]
    users = spark.range(settings.shop.users).withColumnRenamed("id", "user")
    planted = shop.planted_lines(users, settings.shop).groupBy("dirt").count().collect()
    dirt = {row["dirt"]: row["count"] for row in planted}
    reasons = {
        "negative_quantity": "quantity_not_positive",
        "future": "future_time",
        "bad_price": "unreadable_price",
        "no_item": "missing_item_id",
    }
    for name, reason in reasons.items():
        assert found.get(reason, 0) == dirt.get(name, 0), name
    assert found["return"] == dirt["cancelled"] // 2
    # A customer may order one item twice in an order, in rows that are equal by chance.
    assert found["duplicate"] >= dirt["duplicate"] // 2
    assert Tables(spark, settings.tables.root).read("events").where("arrival_time > time").count() > 0


def test_ingest_says_what_to_run_first(spark: SparkSession, tmp_path: Path) -> None:
    settings = Settings.model_validate({"tables": {"root": str(tmp_path / "tables")}})
    with pytest.raises(TableError, match=r"'order_lines' does not exist .* run `millrace simulate` first"):
        ingest.run(settings, spark)


def test_scenes_are_made_when_they_are_asked_for(spark: SparkSession, settings: Settings) -> None:
    raw = simulate.raw_tables(settings, spark)
    assert not raw.exists("payments")
    asked = Settings.model_validate(settings.model_dump() | {"simulate": {"scenes": ["fraud", "fraud"]}})
    first, again = (simulate.run(asked, spark)["tables"] for _ in range(2))
    assert list(first) == ["registrations", "payments"]
    assert first["registrations"]["rows"] == settings.shop.users
    assert raw.read("payments").count() == first["payments"]["rows"] > 0
    assert again == {name: summary | {"up_to_date": True} for name, summary in first.items()}


@pytest.mark.parametrize("table", [PAYMENTS, PRODUCT_DAYS], ids=lambda table: table.name)
def test_the_truth_is_that_of_the_rows_that_were_made(spark: SparkSession, settings: Settings, table: Planted) -> None:
    asked = Settings.model_validate(
        settings.model_dump(exclude_unset=True) | {"simulate": {"scenes": ["fraud", "demand"]}}
    )
    simulate.run(asked, spark)
    key = {"payments": ("order_id",), "product_days": ("item_id", "day")}[table.name]
    truth = simulate.truth(asked, spark, table)
    assert truth is not None
    made = simulate.raw_tables(asked, spark).read(table.name)
    told = truth.select(*key, *(field.name for field in table.truth))
    assert made.join(told, on=list(key), how="inner").count() == made.count() == truth.count() > 0
    other = asked.model_copy(update={"shop": asked.shop.model_copy(update={"seed": 7})})
    assert simulate.truth(other, spark, table) is None


def test_the_truth_is_asked_for_by_the_ids_that_a_task_takes(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "truth", lambda *_: "the truth")
    task = load_settings(PIPELINES / "fraud_shop.yaml", [])
    ids = {"case_id": "order_id"}
    assert simulate.truth_of_source(task, spark, "cases", ids, PAYMENTS) == "the truth"
    assert simulate.truth_of_source(task, spark, "cases", {"case_id": "payment_id"}, PAYMENTS) is None
    assert simulate.truth_of_source(settings, spark, "cases", ids, PAYMENTS) is None
    sources = {"cases": task.sources["cases"].model_copy(update={"path": "own.csv"})}
    own = task.model_copy(update={"sources": sources})
    assert simulate.truth_of_source(own, spark, "cases", ids, PAYMENTS) is None
