"""Jobs run in UTC whatever the zone of machine, JVM and session, and the session has its own zone back afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import ingest, ingest_feedback, score
from jobs.sessions import TIME_ZONE, in_utc
from jobs.settings import Settings
from jobs.tables import Tables
from tests.jobs.small_shop import small_shop

ZONE = "America/New_York"
COLUMNS = {name: name for name in ("order_id", "item_id", "user_id", "time", "quantity", "price")}


@pytest.fixture
def new_york(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[SparkSession]:
    """The session of a notebook in New York."""
    jvm_zone: Any = spark.sparkContext._jvm.java.util.TimeZone  # type: ignore[union-attr]
    before, session_zone = jvm_zone.getDefault(), spark.conf.get(TIME_ZONE)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", ZONE)
        time.tzset()
        jvm_zone.setDefault(jvm_zone.getTimeZone(ZONE))
        spark.conf.set(TIME_ZONE, ZONE)
        yield spark
    time.tzset()
    jvm_zone.setDefault(before)
    spark.conf.set(TIME_ZONE, session_zone)


def test_times_of_a_file_are_utc(new_york: SparkSession, tmp_path: Path) -> None:
    """Ten o'clock is ten o'clock, and 'now' lies an hour before the second line."""
    (tmp_path / "lines.csv").write_text(
        f"{','.join(COLUMNS)}\n1,i,u,2024-03-10 10:00:00,1,1\n2,i,u,2024-03-10 12:00:00,1,1\n"
    )
    section = {"path": str(tmp_path / "lines.csv"), "columns": COLUMNS, "now": "2024-03-10T11:00:00"}
    tables = {"root": str(tmp_path / "tables"), "quarantine_limit": 1}
    settings = Settings.model_validate({"tables": tables, "ingest": section})
    assert ingest.run(settings, new_york)["dispositions"] == {"sale": 1, "future_time": 1}
    held = Tables(new_york, settings.tables.root).read("events").select(F.unix_micros("time")).collect()
    assert [row[0] for row in held] == [1_710_064_800_000_000]
    assert new_york.conf.get(TIME_ZONE) == ZONE
    assert ingest.run(settings)["up_to_date"]  # the active session is taken, and left as it was
    assert new_york.conf.get(TIME_ZONE) == ZONE


@pytest.mark.slow
def test_a_moment_with_an_offset_is_that_moment(new_york: SparkSession, tmp_path: Path) -> None:
    """Scored twice, and asked for by feedback, in other words for the same point in time."""
    shop = small_shop(new_york, tmp_path, scoring={"k": 4, "moment": "2025-02-01T02:00:00+02:00"})
    summary = score.run(shop, new_york)
    assert summary["moment"] == "2025-02-01T00:00:00+00:00"
    other = shop.model_copy(update={"scoring": shop.scoring.model_copy(update={"k": 2})})
    assert score.run(other, new_york)["rows"] == summary["rows"] // 2
    held = Tables(new_york, shop.tables.root).read("recommendations").select(F.unix_seconds("moment")).distinct()
    assert [row[0] for row in held.collect()] == [1_738_368_000]
    asked = shop.feedback.model_copy(update={"moment": datetime.fromisoformat("2025-01-31T19:00:00-05:00")})
    answered = ingest_feedback.run(shop.model_copy(update={"feedback": asked}), new_york)
    assert (answered["moment"], answered["shown"]) == ("2025-02-01 00:00:00", summary["rows"] // 2)


def test_the_last_of_several_jobs_gives_the_zone_back(new_york: SparkSession) -> None:
    both, first_ended = Barrier(2), Event()

    @in_utc
    def short(spark: SparkSession) -> None:
        both.wait(10)

    @in_utc
    def long(spark: SparkSession) -> str | None:
        both.wait(10)
        assert first_ended.wait(10)
        return spark.conf.get(TIME_ZONE)

    with ThreadPoolExecutor(2) as pool:
        later = pool.submit(long, new_york)
        pool.submit(short, new_york).result(20)
        first_ended.set()
        assert later.result(20) == "UTC"
    assert new_york.conf.get(TIME_ZONE) == ZONE


def test_a_failed_job_gives_the_zone_back(new_york: SparkSession) -> None:
    @in_utc
    def fails(spark: SparkSession) -> None:
        raise ValueError(spark.conf.get(TIME_ZONE))

    with pytest.raises(ValueError, match="UTC"):
        fails(new_york)
    assert new_york.conf.get(TIME_ZONE) == ZONE
