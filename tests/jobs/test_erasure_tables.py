"""Removing persons from one table: what its folder and its log hold afterwards, and what stays readable."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.erasure import log as erasure_log
from jobs.erasure import removal as erasure_tables
from jobs.erasure.removal import Gone
from jobs.store_files import File
from jobs.tables import Tables
from tests.jobs.test_erase import naming
from training.errors import TableError

pytestmark = pytest.mark.timeout(900)
GONE, KEPT = "user 3", "user 31"
V2 = {"delta.checkpointPolicy": "v2", "delta.checkpointInterval": "1", "delta.appendOnly": "false"}


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    return Tables(spark, str(tmp_path / "tables"))


def users(tables: Tables, *names: str) -> DataFrame:
    return tables.spark.createDataFrame([(name,) for name in names], "user_id string").coalesce(1)


def ingested(tables: Tables, *names: str) -> None:
    tables.write("events", users(tables, *names), mode="append", job="ingest", inputs={"rules": names})


def cleaned(tables: Tables, horizon_hours: float = 0) -> None:
    gone = Gone("events", "user_id", users(tables, GONE).withColumnRenamed("user_id", "value"))
    held = erasure_tables.properties(tables, "events")
    erasure_tables.clean(tables, [gone], rows=1, horizon_hours=horizon_hours, held=held)


@pytest.mark.slow
def test_sidecars_and_leftovers_go_and_what_was_set_or_done_by_hand_stays(tables: Tables, tmp_path: Path) -> None:
    tables.write("events", users(tables, GONE, KEPT), mode="append", job="ingest", inputs={"rules": 1}, properties=V2)
    tables.spark.sql(f"DELETE FROM delta.`{tables.path('events')}` WHERE user_id = 'nobody'")
    ingested(tables, "user 32")
    tables.spark.sql(f"DELETE FROM delta.`{tables.path('events')}` WHERE user_id = 'user 32'")
    place = tmp_path / "tables" / "events"
    assert list((place / "_delta_log" / "_sidecars").glob("*.parquet"))
    (place / "_temporary" / "0").mkdir(parents=True)
    for name in ("_temporary/0/part-0.parquet", ".part-0.parquet.inprogress"):
        shutil.copy(next(place.glob("*.parquet")), place / name)
    assert erasure_tables.tidy(tables, "events", 1) == 0
    assert erasure_tables.tidy(tables, "events", 0) == 2
    assert tables.made_from("events") is None
    cleaned(tables)
    assert naming(tmp_path, GONE) == []
    assert [row["user_id"] for row in tables.read("events").collect()] == [KEPT]
    assert (tables.made_by("events"), tables.made_from("events")) == (None, None)
    assert erasure_tables.properties(tables, "events") == {name: V2[name] for name in erasure_tables.SET_ASIDE}
    cleaned(tables)
    assert [row["user_id"] for row in tables.read("events").collect()] == [KEPT]


def test_a_row_of_two_columns_counts_once(tables: Tables) -> None:
    rows = tables.spark.createDataFrame([(GONE, GONE), (KEPT, GONE), (KEPT, KEPT)], "user_id string, payer string")
    tables.write("cases", rows, mode="overwrite", job="ingest", inputs={})
    values = users(tables, GONE).withColumnRenamed("user_id", "value")
    gone = [Gone("cases", column, values) for column in ("user_id", "payer")]
    assert erasure_tables.count(tables, gone) == 2


def test_a_table_may_have_a_column_value(tables: Tables) -> None:
    """As `user_sums` of ingest has, and as an attribute may be called."""
    rows = tables.spark.createDataFrame(
        [(GONE, "UK", " x "), (KEPT, GONE, GONE)], "user_id string, value string, `a.b` string"
    )
    tables.write("sums", rows, mode="overwrite", job="ingest", inputs={})
    values = users(tables, GONE).withColumnRenamed("user_id", "value")
    gone = [Gone("sums", column, values, is_raw=column == "a.b") for column in ("user_id", "value", "a.b")]
    assert [
        erasure_tables.count(tables, gone[:1]),
        erasure_tables.count(tables, gone[2:]),
        erasure_tables.count(tables, gone),
    ] == [1, 1, 2]


@pytest.mark.slow
def test_versions_within_the_horizon_can_be_read(tables: Tables, tmp_path: Path) -> None:
    for name in (GONE, KEPT, "user 32"):
        ingested(tables, name)
    log = tmp_path / "tables" / "events" / "_delta_log"
    for path in log.glob("0*0.*"):
        os.utime(path, (time.time() - 48 * 3600,) * 2)
    cleaned(tables, 24)
    assert [tables.read("events", version).count() for version in (1, 2)] == [2, 3]
    assert {row["user_id"] for row in tables.read("events").collect()} == {KEPT, "user 32"}
    cleaned(tables)
    assert naming(tmp_path, GONE) == []


def test_the_log_stays_without_a_checkpoint_and_lost_files_are_named(tables: Tables, tmp_path: Path) -> None:
    ingested(tables, KEPT)
    ingested(tables, "user 32")
    with pytest.raises(TableError, match=r"'events' at .* must have a checkpoint of version 0 or later .* is of None"):
        erasure_log.cut(tables, "events", 0)
    erasure_tables._refuse_lost_files(tables, "events")
    next((tmp_path / "tables" / "events").glob("*.parquet")).unlink()
    with pytest.raises(TableError, match=r"all 2 files of table 'events' .* must be there; 1 are gone, e.g. file:"):
        erasure_tables._refuse_lost_files(tables, "events")


def logged(*names: str, modified: int = 0) -> list[File]:
    return [File(f"file:/t/{name}", name, modified) for name in names]


def test_a_log_is_needed_from_the_checkpoint_on_which_the_oldest_young_commit_stands() -> None:
    files = logged(*(f"{version:020}.json" for version in range(5)))
    files += logged(*(f"{version:020}.json" for version in range(5, 10)), modified=7)
    files += logged(*(f"{version:020}.checkpoint.parquet" for version in (2, 8)), modified=7)
    files += logged(f"{4:020}.checkpoint.0000000001.0000000002.parquet")
    assert erasure_log.checkpoints(files) == [2, 8]
    assert erasure_log.first_needed(files, 5) == 2
    assert erasure_log.first_needed(files, float("inf")) == 8
    whole = [*files, *logged(f"{4:020}.checkpoint.0000000002.0000000002.parquet")]
    assert erasure_log.first_needed(whole, 5) == 4
    assert erasure_log.first_needed([file for file in files if f"{2:020}.c" not in file.name], 5) == 0
    assert erasure_log.checkpoints(logged(f"{3:020}.checkpoint.4a268afb-a140-4081-abb0-ac0dd3814f54.json")) == [3]


def test_what_a_killed_writer_left_in_a_log_is_past() -> None:
    names = (f"{3:020}.json", f".{9:020}.json.tmp", f"{4:020}.json", "_last_checkpoint")
    assert [erasure_log.is_past(name, 4) for name in names] == [True, True, False, False]
