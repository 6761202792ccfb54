"""Build examples: tables that fit together, laid out as asked, unchanged by a second run, indices that stay."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_cuts, build_examples, build_tables, builds, moved_builds
from jobs.erasure import erased
from jobs.erasure.removal import ANY_AGE, few_tasks
from jobs.sessions import session_settings
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs.catalogue import SALES
from tests.jobs.silences import silences
from tests.jobs.small_shop import small_shop
from training.data.snapshot import open_snapshot
from training.errors import DataError, SchemaError, TableError
from training.schema import Schema

START = datetime(2024, 1, 1, tzinfo=UTC)
EVENTS = (
    "event_id string, order_id string, user_id string, item_id string, kind string, time timestamp, "
    "arrival_time timestamp, quantity bigint, price double"
)


def event(number: int, user: str | None, item: str, day: float, kind: str = "purchase") -> tuple[Any, ...]:
    time = START + timedelta(days=day)
    return (f"e{number}", f"o{number}", user, item, kind, time, time, 1, 1.0)


# Ten customers buy an item every third day for ninety days; one item a round, so that all know all.
BASE = [
    event(user * 100 + round_, f"u{user}", f"i{(user + round_) % 12}", round_ * 3 + user / 10)
    for user in range(10)
    for round_ in range(30)
]
EXTRA = [event(5_000, None, "i0", 5), event(5_001, "u1", "i1", 6, "return"), event(5_002, "u1", "i3", 7, "view")]


def write_events(tables: Tables, events: Sequence[tuple[Any, ...]]) -> None:
    """As ingest would leave them."""
    frame = tables.spark.createDataFrame(list(events), EVENTS)
    inputs = {"rows": len(events)}
    tables.write("events", frame, mode="overwrite", job="ingest", inputs=inputs)
    names = frame.selectExpr("item_id", "concat('the ', item_id) AS name").distinct()
    tables.write("items", names, mode="overwrite", job="ingest", inputs=inputs)


def settings_for(root: Path, **examples: Any) -> Settings:
    section = {"test_from": "2024-03-16", "validation_days": 15, "rows_per_group": 100, "max_history": 8, **examples}
    return Settings.model_validate({"tables": {"root": str(root)}, "examples": section})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(tmp_path_factory.mktemp("build") / "tables")


@pytest.fixture(scope="module")
def tables(spark: SparkSession, settings: Settings) -> Tables:
    tables = Tables(spark, settings.tables.root)
    write_events(tables, BASE + EXTRA)
    return tables


@pytest.fixture(scope="module")
def built(spark: SparkSession, settings: Settings, tables: Tables) -> dict[str, Any]:
    return build_examples.run(settings, spark)


def test_counts_and_cuts(built: dict[str, Any]) -> None:
    assert built["cuts"] == {"validation": "2024-03-01T00:00:00+00:00", "test": "2024-03-16T00:00:00+00:00"}
    # Rounds 0 to 19 fall in the first sixty days, 20 to 24 in the next fifteen, 25 to 29 are held out.
    assert built["counts"] == {
        "training_lines": 250,
        "training_users": 10,
        "training_items": 12,
        "held_out_lines": 50,
        "examples_train": 200,
        "examples_validation": 50,
    }
    sizes = Schema.from_json(built["schema"]).vocabularies()
    assert sizes == {"users": 11, "items": 13}


def test_tables_have_their_columns(tables: Tables, built: dict[str, Any]) -> None:
    ids, floats = "array<bigint>", "array<float>"
    examples = {"user": "bigint", "history": ids, "history_age": floats, "target": "bigint", "new": "float"}
    examples |= {"history_weight": floats}
    examples |= {"weight": "float", "time": "timestamp", "known_at": "timestamp", "piece": "string"}
    queries = {"user": "bigint", "user_id": "string", "history": ids, "history_age": floats, "seen": ids, "truth": ids}
    catalogue = {"item": "bigint", "item_id": "string", "name": "string", "first_sold": "timestamp", "split": "string"}
    catalogue |= dict.fromkeys(SALES, "bigint")
    for name, columns in (("examples", examples), ("queries", queries), ("catalogue", catalogue)):
        tables.require(tables.read(name), name, columns)


def test_returns_views_and_strangers_change_no_history(tables: Tables, built: dict[str, Any]) -> None:
    rows = {(row["item_id"], row["split"]): row for row in tables.read("catalogue").collect()}
    assert len(rows) == 24
    first = rows["i0", "test"]
    assert (first["name"], first["count"] - first["user_count"]) == ("the i0", 1)
    assert rows["i1", "test"]["count"] == rows["i1", "test"]["user_count"]
    assert tables.read("queries").where("split = 'test' AND size(history) = 8").count() == 10


def test_files_are_laid_out_for_streaming(settings: Settings, built: dict[str, Any]) -> None:
    files = list((Path(settings.tables.root) / "examples" / "piece=0001-01-01").glob("*.zstd.parquet"))
    assert len(files) == 1
    metadata = pq.ParquetFile(files[0]).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [100, 100]
    # Microseconds since 1970, not the INT96 that readers outside Spark take for nanoseconds.
    stored = {
        metadata.schema.column(number).path: metadata.schema.column(number) for number in range(metadata.num_columns)
    }
    assert stored["time"].physical_type == "INT64"


def test_a_second_run_changes_nothing(spark: SparkSession, settings: Settings, built: dict[str, Any]) -> None:
    tables = Tables(spark, settings.tables.root)
    names = ("examples", "queries", "catalogue", "vocabulary_users", "vocabulary_items")
    versions = {name: tables.version(name) for name in names}
    assert build_examples.run(settings, spark) == built | {"up_to_date": True}
    assert versions == {name: tables.version(name) for name in names}


@pytest.mark.slow
def test_it_reads_nothing_in_silence(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_shop(spark, tmp_path, examples={"validation_days": 9})
    found = silences(spark, monkeypatch)
    assert not build_examples.run(settings, spark)["up_to_date"]
    assert found == []


@pytest.mark.slow
def test_indices_stay_when_ids_are_added(
    spark: SparkSession, settings: Settings, built: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(settings.tables.root, tmp_path / "tables")
    tables, settings = Tables(spark, str(tmp_path / "tables")), settings_for(tmp_path / "tables")
    before = {row["id"]: row["index"] for row in tables.read("vocabulary_items").collect()}
    # A new item, one that is first bought after the cut, and feedback that led to a purchase.
    write_events(tables, [*BASE, event(6_000, "u3", "a new one", 40), event(6_001, "u3", "too late", 80)])
    shown = START + timedelta(days=50, hours=1)
    feedback = spark.createDataFrame(
        [("u3", "i0", "purchased", shown, 2.0), ("u3", "i5", "ignored", None, 1.0)],
        "user_id string, item_id string, outcome string, outcome_time timestamp, weight double",
    )
    tables.write("feedback", feedback, mode="append", job="ingest_feedback", inputs={})
    summary = build_examples.run(settings, spark)
    assert not summary["up_to_date"]
    after = {row["id"]: row["index"] for row in tables.read("vocabulary_items").collect()}
    assert after == before | {"a new one": 13}
    assert summary["counts"]["training_lines"] == 252
    weighted = tables.read("examples").where("weight = 2").collect()
    assert [(row["target"], row["time"].astimezone(UTC)) for row in weighted] == [(after["i0"], shown)]


def vacuum(tables: Tables, name: str) -> None:
    """Remove the files that are no part of the table any more."""
    with few_tasks(tables, name), session_settings(tables.spark, ANY_AGE):
        tables.spark.sql(f"VACUUM delta.`{tables.path(name)}` RETAIN 0 HOURS")


@pytest.mark.slow
def test_examples_that_vacuum_took_are_published_where_housekeeping_has_put_them(
    spark: SparkSession,
    settings: Settings,
    built: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(settings.tables.root, tmp_path / "tables")
    tables, settings = Tables(spark, str(tmp_path / "tables")), settings_for(tmp_path / "tables")
    place = tables.path("examples")
    spark.sql(f"OPTIMIZE delta.`{place}` ZORDER BY (user)")
    assert build_examples.run(settings, spark) == built | {"up_to_date": True}  # its files are still there
    vacuum(tables, "examples")
    moved = built["versions"] | {"examples": tables.version("examples")}
    again = build_examples.run(settings, spark)
    assert again == built | {"versions": moved, "up_to_date": False}
    assert open_snapshot(place, again["versions"]["examples"]).rows == 250
    assert build_examples.run(settings, spark) == again | {"up_to_date": True}
    # The newest rows are others, and VACUUM takes those of the build: only building them again brings them back.
    spark.sql(f"DELETE FROM delta.`{place}` WHERE user = 1")
    assert moved_builds.readable(tables, builds.published(tables)) is not None
    vacuum(tables, "examples")
    assert moved_builds.readable(tables, builds.published(tables)) is None
    for gone in ("examples", "queries"):
        shutil.rmtree(tables.path(gone))
        assert moved_builds.readable(tables, builds.published(tables)) is None

    def begins(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(build_examples, "lines_of", begins)
    with pytest.raises(InterruptedError):
        build_examples.run(settings, spark)


def test_bad_events(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "tables")
    tables = Tables(spark, settings.tables.root)
    with pytest.raises(TableError, match=r"'events' does not exist .* run `millrace ingest` first"):
        build_examples.run(settings, spark)
    write_events(tables, [])
    with pytest.raises(TableError, match=r"'events' at .* is empty"):
        build_examples.run(settings, spark)
    write_events(tables, [event(1, None, "i1", 1)])
    with pytest.raises(DataError, match=r"no purchase in table 'events' at .* has user_id and item_id"):
        build_examples.run(settings, spark)
    write_events(tables, BASE)
    with pytest.raises(DataError, match=r"before 2023-12-31 .* the first one is of 2024-01-01"):
        build_examples.run(settings_for(tmp_path / "tables", test_from="2024-01-15"), spark)
    wrong = tables.read("events").withColumn("time", F.col("time").cast("string")).drop("kind")
    tables.write("events", wrong, mode="overwrite", job="ingest", inputs={"wrong": 1})
    with pytest.raises(SchemaError, match=r"'kind' must be string, it is missing; column 'time' must be timestamp, it"):
        build_examples.run(settings, spark)


@pytest.mark.slow
def test_what_was_built_while_persons_were_erased_is_not_published(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    tables = Tables(spark, settings.tables.root)
    write_events(tables, BASE)

    def write(*args: Any) -> dict[str, int]:
        erased.remember(tables, ["u1"])
        return {"examples": 0}

    monkeypatch.setattr(build_tables, "write", write)
    tables.write("examples", tables.read("events").selectExpr("'x' AS piece"), mode="overwrite", job="x", inputs={})
    with pytest.raises(DataError, match=r"while `millrace build-examples` made tables .* Run `millrace erase` again"):
        build_examples.run(settings, spark)
    assert builds.newest(tables).manifest is None


def test_a_damaged_vocabulary_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "tables")
    tables = Tables(spark, settings.tables.root)
    write_events(tables, BASE)
    damaged = spark.createDataFrame([(1, "u1"), (1, "u2")], "index bigint, id string")
    tables.write("vocabulary_users", damaged, mode="append", job="build_examples", inputs={})
    with pytest.raises(DataError, match=r"'vocabulary_users' .* once each; it has 1 indices that stand twice"):
        build_examples.run(settings, spark)


def test_the_default_cut_is_the_last_tenth(spark: SparkSession) -> None:
    rows = [("u", "i", START), ("u", "i", START + timedelta(days=100)), (None, "i", START + timedelta(days=900))]
    lines = spark.createDataFrame(rows, "user_id string, item_id string, time timestamp")
    settings = Settings.model_validate({"examples": {"validation_days": 20}})
    span = build_cuts.span_of(lines.where("user_id IS NOT NULL"))
    cuts = build_cuts.cuts_of(span, TASKS["recommend"], settings, Tables(spark, "here"))
    assert (cuts.test - START, cuts.validation - START) == (timedelta(days=90), timedelta(days=70))


def test_a_cut_after_the_last_line_is_said(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped month leaves nothing to judge."""
    tables, days = Tables(spark, "here"), [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 30, tzinfo=UTC)]
    span: list[int | None] = [round(day.timestamp() * 1e6) for day in days]
    for test_from, said in (("2024-03-30", False), ("2024-12-24", True)):
        settings = Settings.model_validate({"examples": {"test_from": test_from, "validation_days": 20}})
        build_cuts.cuts_of(span, TASKS["recommend"], settings, tables)
        told = " ".join(capsys.readouterr().err.split())
        assert ("2024-12-24 is after the last purchase, of 2024-03-30: nothing is held out" in told) is said
