"""Persons in the tables of several tasks below one root, and in the raw tables of a simulated shop."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import erase
from jobs.settings import Settings
from jobs.tables import Tables
from tests.jobs.test_erase import naming
from training.errors import DataError, SchemaError, SettingsError

pytestmark = pytest.mark.timeout(900)
GONE, MOVED, KEPT = "user 03", "user 17", "user 31"  # the newest cases have the second no more
AT = datetime(2025, 1, 1)
CASES = "case_id string, time timestamp, label boolean, ip_address string, user_id string"
SALES = "series_id string, time timestamp, quantity double, user_id string"


def shop(spark: SparkSession, folder: Path, **sections: Any) -> Settings:
    values = {"tables": {"root": str(folder / "tables")}, "run_dir": str(folder / "run")} | sections
    settings = Settings.model_validate(values)
    tables, raw = Tables(spark, settings.tables.root), Tables(spark, str(folder / "raw"))

    def write(
        name: str, rows: list[tuple[Any, ...]], schema: str, job: str, where: Tables = tables, **inputs: Any
    ) -> None:
        where.write(name, spark.createDataFrame(rows, schema).coalesce(1), mode="overwrite", job=job, inputs=inputs)

    persons = (GONE, MOVED, KEPT)
    cases = [(f"case {n}", AT + timedelta(days=n), True, "::1", user) for n, user in enumerate(persons)]
    write("cases", cases, CASES, "ingest")
    write("cases", [case for case in cases if case[-1] != MOVED], CASES, "ingest", source=2)
    scores = [(case[0], case[1], 0.5) for case in cases]
    write("fraud_scores", scores, "case_id string, time timestamp, p double", "score", tables={"cases": 0})
    write("sales", [("P1", AT, 2.0, user) for user in persons], SALES, "ingest")
    write("histories", [(user, ["item 1"]) for user in persons], "user_id string, items array<string>", "ingest")
    write(
        "order_lines", [(f" {user} ", "item 1") for user in persons], "user_id string, item_id string", "simulate", raw
    )
    write("reviews", [(user, "good") for user in persons], "user_id string, text string", "simulate", raw)
    write("messages", [(user, "good") for user in persons], "sender string, text string", "simulate", raw)
    return settings


SAID = {"cases": {"persons": ["user_id"]}, "sales": {"persons": ["user_id"]}}


@pytest.mark.slow
def test_all_tables_of_all_tasks_are_cleaned_whatever_task_is_set(spark: SparkSession, tmp_path: Path) -> None:
    settings = shop(spark, tmp_path, sources=SAID)
    with pytest.raises(DataError, match=r"do: .*/raw/messages/"):  # in a column that nobody has named
        erase.run(settings, [GONE, MOVED], spark)
    tables = Tables(spark, settings.tables.root)
    assert [row["case_id"] for row in tables.read("fraud_scores").collect()] == ["case 2"]
    for name in ("cases", "sales", "histories"):
        assert [row["user_id"] for row in tables.read(name).collect()] == [KEPT]
    assert [naming(tmp_path / "tables", user) for user in (GONE, MOVED)] == [[], []]
    assert naming(tmp_path / "raw" / "order_lines", GONE) == naming(tmp_path / "raw" / "reviews", GONE) == []


def test_what_nobody_has_said_is_asked_before_anything_is_touched(spark: SparkSession, tmp_path: Path) -> None:
    settings = shop(spark, tmp_path)
    with pytest.raises(
        SettingsError,
        match=r"sources.cases.persons must name the columns of 'cases' .*; it has case_id, .*; sources.sales.persons",
    ):
        erase.run(settings, [GONE], spark)
    wrong = settings.model_validate(settings.model_dump() | {"sources": SAID | {"cases": {"persons": ["email"]}}})
    with pytest.raises(SchemaError, match=r"'cases' at .* has no column 'email', .*run `millrace ingest`"):
        erase.run(wrong, [GONE], spark)
    said, tables = (
        settings.model_validate(settings.model_dump() | {"sources": SAID}),
        Tables(spark, settings.tables.root),
    )
    live = spark.createDataFrame([("case 9", "::1")], "case_id string, ip_address string")
    tables.write("fraud_live", live, mode="overwrite", job="stream", inputs={})
    with pytest.raises(SchemaError, match=r"'fraud_live' at .* has no column 'user_id', .*came before that was said"):
        erase.run(said, [GONE], spark)
    assert not tables.exists("erased")
