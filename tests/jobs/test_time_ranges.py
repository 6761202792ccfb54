"""Batches of events lie in ranges of time: other files of the events are not read."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import ingest, ingest_batch
from jobs.tables import Tables
from jobs.time_ranges import MOST_RANGES, within
from tests.jobs.test_ingest import settings_for, write_lines
from training.errors import TableError

DAYS = 60


def test_days_side_by_side_are_one_range_and_too_many_are_one_too() -> None:
    days = [date(2024, 3, 2), date(2024, 2, 29), date(2024, 3, 1), date(2024, 3, 1), date(2024, 5, 1)]
    first, second = (within(days) or "").split(" OR ")
    assert first == "(time >= TIMESTAMP '2024-02-29 00:00:00Z' AND time < TIMESTAMP '2024-03-03 00:00:00Z')"
    assert "'2024-05-01 00:00:00Z' AND" in second
    assert within([date.max]) == "(time >= TIMESTAMP '9999-12-31 00:00:00Z')"
    far = [date(2000, 1, 1) + timedelta(days=10 * n) for n in range(MOST_RANGES + 1)]
    assert (within(far) or "").count("TIMESTAMP") == 2
    assert within([]) is None


def scanned(rows: DataFrame) -> tuple[int, int]:
    """Files and rows that a query has read, by Spark's own metrics."""
    rows.collect()
    leaves = rows._jdf.queryExecution().executedPlan().collectLeaves()
    metrics = [leaves.apply(n).metrics() for n in range(leaves.size())]
    return (
        sum(each.apply("numFiles").value() for each in metrics if each.contains("numFiles")),
        sum(each.apply("numOutputRows").value() for each in metrics),
    )


def lines_of(day: int) -> list[str]:
    at = datetime(2024, 1, 1, 10) + timedelta(days=day)
    return [f"{day}-{n},10001,mug,1,{at + timedelta(minutes=n)},1.75,8,FR" for n in range(10)]


def test_one_day_more_reads_the_files_of_that_day_alone(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 days in 20 files: a day that is brought in again, with one row more, is compared with two files at most."""
    monkeypatch.setattr(ingest_batch, "ROWS_PER_FILE", 10 * DAYS // 20)
    all_lines = [line for day in range(DAYS) for line in lines_of(day)]
    ingest.run(settings_for(tmp_path, write_lines(tmp_path / "all.csv", *all_lines)), spark)
    tables, found = Tables(spark, str(tmp_path / "tables")), list[str]()
    before = set(tables.read("events").inputFiles())
    append_new = Tables.append_new

    def watched(self: Tables, *args: Any, where: str, **kwargs: Any) -> int:
        found.append(where)
        return append_new(self, *args, where=where, **kwargs)

    monkeypatch.setattr(Tables, "append_new", watched)
    more = write_lines(tmp_path / "more.csv", *lines_of(30), "new,10001,mug,1,2024-01-31 23:59:59,1.75,8,FR")
    ingest.run(settings_for(tmp_path, more), spark)
    files, rows = scanned(tables.read("events", 1).where(found[0]).select("event_id"))
    assert len(before) > 15
    assert 1 <= files <= 2
    assert 10 <= rows <= 80
    after = set(tables.read("events").inputFiles())
    assert before < after
    assert len(after) == len(before) + 1
    assert tables.read("events").count() == 10 * DAYS + 1


def test_of_two_that_add_on_top_of_one_version_one_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    tables, other = Tables(spark, str(tmp_path)), Tables(spark, str(tmp_path))
    rows = spark.sql("SELECT 'a' event_id, timestamp'2024-01-01' time")
    given: dict[str, Any] = {"order_by": "time", "files": 1, "job": "ingest"}
    tables.append_new("events", rows, "event_id", inputs={"n": 1}, **given)
    version, held = tables.version("events"), tables.read("events")
    other.version = lambda _: version  # type: ignore[method-assign]  # as if it had looked before the first wrote
    more = rows.selectExpr("'b' event_id", "time")
    tables.append_new("events", more, "event_id", inputs={"n": 2}, **given)
    with pytest.raises(TableError, match=r"'events' .* was changed by another writer while `ingest` wrote"):
        other.append_new("events", more, "event_id", inputs={"n": 3}, **given)
    assert held.count() == 1
    assert sorted(row["event_id"] for row in tables.read("events").collect()) == ["a", "b"]
