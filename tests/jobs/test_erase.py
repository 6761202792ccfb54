"""Erasing persons from a whole shop: rows, old files, logs, pages, caches; and that they do not come back."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, builds, erase, ingest, score
from jobs.artefacts import ERASURE, EVALUATION, read_json, write_json
from jobs.erasure import erased
from jobs.erasure import ids as erasure_ids
from jobs.erasure import log as erasure_log
from jobs.erasure.removal import Cleaned
from jobs.settings import Settings
from jobs.settings_sources import IngestSettings
from jobs.staged import Staged
from jobs.tables import Tables
from jobs.tasks import TASKS
from tests.jobs.small_shop import USERS, small_shop
from tests.jobs.test_ingest import CLEAN, DIRTY, settings_for, write_lines
from training.data.snapshot import open_snapshot
from training.errors import CheckpointError, DataError, TableError
from training.state.lock import only_writer

pytestmark = pytest.mark.timeout(900)
GONE, KEPT = ("user 3", "user 17"), "user 31"
UNKNOWN = "nobody 99"
OF_THE_LOOP, OF_OTHERS = "-loop-0123456789ab", "-loop-ba9876543210"
JOBS = {OF_THE_LOOP: "feedback_round", OF_OTHERS: "build_examples"}
BUILD: dict[str, Any] = dict.fromkeys(builds.FIELDS) | {"inputs": {}}


def plant(spark: SparkSession, settings: Settings) -> None:
    """What a shop that has run for a while holds of a person, beside what small_shop makes."""
    tables, run_dir = Tables(spark, settings.tables.root), Path(settings.run_dir)
    rows = [(json.dumps({"Customer": user, "Price": "?"}), "unreadable_price") for user in (GONE[0], KEPT)]
    rows += [(json.dumps({"_malformed_line": f"7,mug,{GONE[1]}"}), "malformed_line")]
    aside = spark.createDataFrame(rows, "row string, reason string").select(
        F.lit("lines.csv").alias("source"), "reason", "row", F.lit("b").alias("batch")
    )
    tables.merge_new("quarantine", aside, ["batch", "row"], job="ingest", inputs={})
    shown = spark.createDataFrame([(user, "item 1") for user in (*GONE, KEPT)], "user_id string, item_id string")
    outcome = shown.withColumn("outcome", F.lit("ignored")).withColumn("outcome_time", F.lit(None).cast("timestamp"))
    tables.write("feedback", outcome, mode="overwrite", job="ingest_feedback", inputs={})
    looks = {"bundle": "b", "protocols": {}, "examples": [{"user_id": GONE[0]}]}
    write_json(run_dir, EVALUATION, looks)
    (run_dir / "report.html").write_text(f"<td>{GONE[0]}</td>")
    for place in ("checkpoints/x/step-1", "trials/y-0"):
        (run_dir / place).mkdir(parents=True)
        (run_dir / place / "tensors.safetensors").write_bytes(b"x")
    for name in (OF_THE_LOOP, OF_OTHERS):
        builds.publish(Tables(spark, f"{settings.tables.root}{name}"), BUILD, job=JOBS[name], since=-1)
    Path(f"{settings.tables.root}-loop-prod").mkdir()
    Staged(tables, TASKS["recommend"], {"bundle": "b"}, 2).add(0, shown)


def texts(file: Path) -> str:
    """All text of a file, decoded by other means than those of the erasure."""
    if file.suffix == ".parquet":
        return json.dumps(pq.ParquetFile(file).read().to_pylist(), default=str)
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return data.decode("utf-8", errors="replace")


def naming(folder: Path, user: str) -> list[Path]:
    """Files that hold a user's id, between quotes, commas or tags."""
    around = [f"{begin}{user}{end}" for begin, end in (('"', '"'), ('\\"', '\\"'), (",", '"'), (">", "<"), ("'", "'"))]
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".crc")
    held = ((path, texts(path)) for path in files)
    return [path for path, text in held if any(form in text for form in around)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def settings(spark: SparkSession, folder: Path) -> Settings:
    settings = small_shop(spark, folder, ingest={"path": "lines.csv", "columns": {"user_id": "Customer"}})
    score.run(settings, spark)
    plant(spark, settings)
    return settings


@pytest.fixture(scope="module")
def said(spark: SparkSession, settings: Settings, folder: Path) -> dict[str, Any]:
    assert naming(folder, GONE[0])
    return erase.run(settings, [*GONE, f" {GONE[0]} ", UNKNOWN], spark)


@pytest.mark.slow
def test_no_file_names_them_and_others_stay(said: dict[str, Any], folder: Path, settings: Settings) -> None:
    assert [naming(folder, user) for user in GONE] == [[], []]
    assert naming(folder, KEPT)
    assert not (folder / "run" / "checkpoints").exists()
    assert not (folder / "run" / "report.html").exists()
    kept = {path.name for path in folder.iterdir() if "-loop-" in path.name}
    assert kept == {f"tables{OF_OTHERS}", "tables-loop-prod"}


@pytest.mark.slow
def test_the_certificate_says_what_was_done(said: dict[str, Any], settings: Settings) -> None:
    certificate = json.loads(Path(said["path"]).read_text())
    assert (certificate["persons"], certificate["in_rows"], certificate["not_in_rows"]) == (3, 2, 1)
    assert (certificate["places_left"], certificate["old_files_left"]) == (0, 0)
    rows = {name: table["rows"] for name, table in certificate["tables"].items()}
    assert rows["users"] == rows["vocabulary_users"] == rows["feedback"] == rows["quarantine"] == 2
    assert rows["recommendations"] == 8
    assert rows["events"] == 24
    assert rows["examples"] > 0
    assert certificate["run_folder"] == {
        "checkpoints": 1,
        "trials": 1,
        "baselines": 1,
        "replay": 0,
        "cached": 0,
        "pages": 3,
    }
    (bundle,) = certificate["bundles"]
    assert bundle["anew"].startswith("millrace build-examples --settings FILE && millrace train")
    assert not any(user in Path(said["path"]).read_text() for user in (*GONE, UNKNOWN))
    assert read_json(settings.run_dir, ERASURE) is None
    assert [name.rpartition("_")[0] for name in certificate["staged"]] == ["staged_recommendations"]


@pytest.mark.slow
def test_the_build_in_force_names_clean_versions(said: dict[str, Any], spark: SparkSession, settings: Settings) -> None:
    tables = Tables(spark, settings.tables.root)
    build = builds.published(tables)
    for name, version in (build["versions"] | build["read"]).items():
        assert open_snapshot(tables.path(name), version).rows == tables.read(name, version).count()
    vocabulary = tables.read("vocabulary_users", build["versions"]["vocabulary_users"])
    assert vocabulary.where("id IS NULL").count() == len(GONE)
    erased_indices = {row["index"] for row in vocabulary.where("id IS NULL").collect()}
    users = {row["user"] for row in tables.read("examples", build["versions"]["examples"]).collect()}
    assert len(users) > USERS - 4
    assert not users & erased_indices
    properties = spark.sql(f"DESCRIBE DETAIL delta.`{tables.path('vocabulary_users')}`").collect()[0]["properties"]
    assert properties["delta.appendOnly"] == "true"
    assert "delta.checkpointInterval" not in properties
    with pytest.raises(TableError, match="has no version 0 any more"):
        tables.read("events", 0)


@pytest.mark.slow
def test_the_next_jobs_go_on(said: dict[str, Any], spark: SparkSession, settings: Settings) -> None:
    assert not build_examples.run(settings, spark)["up_to_date"]
    summary = score.run(settings, spark)
    assert summary["users"] == USERS  # with the looker and the newcomer, without two
    again = erase.run(settings, GONE, spark)
    assert (again["in_rows"], again["tables"]) == (0, {})
    assert [bundle["path"] for bundle in again["bundles"]] == [bundle["path"] for bundle in said["bundles"]]


def little(spark: SparkSession, folder: Path, **sections: Any) -> Settings:
    """Nothing but events, and a version of them that has been overwritten."""
    settings = Settings(
        tables={"root": str(folder / "tables")}, run_dir=str(folder / "run"), ingest={"path": "lines.csv"}, **sections
    )
    tables = Tables(spark, settings.tables.root)
    if not tables.exists("events"):
        rows = spark.createDataFrame([(user,) for user in (*GONE, KEPT)], "user_id string")
        tables.write("events", rows, mode="overwrite", job="ingest", inputs={"rules": {"now": None}, "source": GONE[0]})
    return settings


@pytest.mark.slow
def test_an_erasure_that_was_stopped_goes_on(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = little(spark, tmp_path)

    def stop(*args: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(erasure_log, "cut", stop)
        with pytest.raises(InterruptedError):
            erase.run(settings, GONE, spark)
    assert naming(tmp_path / "tables" / "events" / "_delta_log", GONE[0])
    said = erase.run(settings, GONE, spark)
    assert (said["in_rows"], said["not_in_rows"], said["tables"]["events"]["rows"]) == (2, 0, 2)
    assert [naming(tmp_path, user) for user in GONE] == [[], []]
    tables = Tables(spark, settings.tables.root)
    assert (tables.made_by("events"), tables.made_from("events")) == ("erase", {"rules": {"now": None}})
    assert [row["user_id"] for row in tables.read("events").collect()] == [KEPT]


@pytest.mark.slow
def test_old_files_stay_within_the_horizon(spark: SparkSession, tmp_path: Path) -> None:
    said = erase.run(little(spark, tmp_path, erasure={"horizon_hours": 24}), GONE, spark)
    assert said["places_left"] >= said["old_files_left"] > 0
    assert said["old_files_until"] > said["ended"]
    settings = little(spark, tmp_path)
    tables = Tables(spark, settings.tables.root)
    assert tables.read("events", 0).count() == 3
    assert tables.read("events").count() == 1
    said = erase.run(settings, GONE, spark)
    assert (said["in_rows"], said["places_left"], said["old_files_left"], said["old_files_until"]) == (0, 0, 0, None)
    assert [naming(tmp_path, user) for user in GONE] == [[], []]


@pytest.mark.slow
def test_a_file_that_still_names_a_person_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    settings = little(spark, tmp_path)
    torn = (tmp_path / "tables" / "events" / "part-killed.parquet", tmp_path / "tables" / "items" / "part.parquet")
    for path in torn:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"PAR1" + GONE[0].encode())
    (tmp_path / "tables" / "notes").mkdir()
    (tmp_path / "tables" / "notes" / "list.txt").write_text(f"call {GONE[0]} back")
    (tmp_path / "tables" / "list.csv").write_text('{"user_id": "user 3"}')
    (tmp_path / "tables" / "notes" / ".kept").mkdir()
    for name in (".list.txt", ".kept/list.txt"):
        shutil.copy(tmp_path / "tables" / "notes" / "list.txt", tmp_path / "tables" / "notes" / name)
    files = (
        r"items/part.parquet \(cannot.*/list.csv \(2 .*/.kept/list.txt \(1 .*/.list.txt \(1 .*/list.txt \(1 places\)"
    )
    with pytest.raises(DataError, match=f"5 do: .*{files}"):
        erase.run(settings, GONE, spark)
    assert [path.exists() for path in torn] == [False, True]


@pytest.mark.slow
def test_rows_go_whatever_their_files_are_called_and_wherever_they_lie(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "users"  # as a table is called
    settings = Settings(tables={"root": str(folder / "tables")}, run_dir=str(folder / "run"))
    tables, elsewhere = Tables(spark, settings.tables.root), Tables(spark, str(tmp_path / "elsewhere"))
    rows = spark.createDataFrame([(user,) for user in ("17850", "10000")], "user_id string").coalesce(1)
    made: dict[str, Any] = {"mode": "overwrite", "job": "ingest", "inputs": {}}
    tables.write("events", rows, properties={"delta.columnMapping.mode": "name"}, **made)
    elsewhere.write("feedback", rows, **made)
    elsewhere.clone("feedback", tables.root)
    with monkeypatch.context() as patched:
        patched.setattr(erase, "clean", lambda *_, **__: Cleaned(0, 0))
        with pytest.raises(
            DataError, match=r"do: .*/tables/events \(1 .*/tables/feedback \(1 places\); file:.*/events/_delta_log"
        ):
            erase.run(settings, ["17850"], spark)
    said = erase.run(settings, ["17850"], spark)
    assert {name: table["rows"] for name, table in said["tables"].items()} == {"events": 1, "feedback": 1}
    assert [tables.read(name).collect()[0]["user_id"] for name in said["tables"]] == ["10000", "10000"]
    assert naming(folder, "17850") == []


@pytest.mark.slow
def test_the_next_ingest_drops_them_again(spark: SparkSession, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines.csv", *CLEAN, DIRTY["malformed_line"], "9,10001,mug,1,never,1,7,UK")
    settings = settings_for(tmp_path, lines).model_copy(update={"run_dir": str(tmp_path / "run")})
    before = ingest.run(settings, spark)["dispositions"]
    said = erase.run(settings, ["7"], spark)
    assert {name: table["rows"] for name, table in said["tables"].items()} == {
        "events": 3, "users": 1, "user_sums": 2, "quarantine": 2
    }  # fmt: skip
    after = ingest.run(settings, spark)
    assert not after["up_to_date"]
    assert after["raw_rows"] == sum(before.values())
    assert after["dispositions"] == {"sale": 2, "sale_without_customer": 1, "erased": 4, "malformed_line": 1}
    tables = Tables(spark, settings.tables.root)
    assert {row["user_id"] for row in tables.read("events").collect()} == {"8", None}
    assert [row["user_id"] for row in tables.read("users").collect()] == ["8"]
    with pytest.raises(DataError, match=r"ingested under other rules \(changed: item_pattern\)"):
        ingest.run(settings_for(tmp_path, lines, item_pattern="^1"), spark)
    columns = [pq.read_table(path, columns=["user_id"]) for path in (tmp_path / "tables" / "events").glob("*.parquet")]
    assert "7" not in {user for table in columns for user in table["user_id"].to_pylist()}


def test_the_ids_are_checked_before_anything_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    with pytest.raises(DataError, match=r"ids.txt' must be a file with a user id a line: No such file"):
        erasure_ids.read_ids(path)
    path.write_bytes(b"user 1\n\xff\n")
    with pytest.raises(DataError, match=r"must be UTF-8; byte 7 is none"):
        erasure_ids.read_ids(path)
    path.write_text("\n \n")
    with pytest.raises(DataError, match=r"must hold a user id a line; it has 0"):
        erasure_ids.read_ids(path)
    path.write_text("\ufeffuser 1\r\n\n user 2 \n", encoding="utf-8")
    assert erasure_ids.checked(erasure_ids.read_ids(path), Settings()) == ["user 1", "user 2"]
    with pytest.raises(DataError, match=r"1,000 characters at most; one of the ids has 1,001: give"):
        erasure_ids.checked(["x" * 1001], Settings())
    with pytest.raises(DataError, match="'Kunde' is the name of their column: take the header out"):
        erasure_ids.checked(["Kunde", "1"], Settings(ingest={"columns": {"user_id": "Kunde"}}))
    with pytest.raises(DataError, match="at least one user id; got 0"):
        erasure_ids.checked([" "], Settings())


def test_one_at_a_time(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.state.lock.WAIT_S", 0.0)
    settings = little(spark, tmp_path)
    with (
        only_writer(tmp_path / "tables", print, name=".erase.lock"),
        pytest.raises(CheckpointError, match="one erasure at a time may write into tables' root"),
    ):
        erase.run(settings, ["user 1"], spark)
    assert not erased.known(Tables(spark, settings.tables.root))


def test_another_erasure_waits_for_one_that_was_stopped(spark: SparkSession, tmp_path: Path) -> None:
    settings = little(spark, tmp_path)
    log = {"ids": "f", "started": "2025-01-01", "persons": 2, "in_rows": 2, "unclean": [], "tables": {}}
    write_json(settings.run_dir, ERASURE, log | {"bundles": [], "run_folder": {}, "loops": []})
    with pytest.raises(DataError, match=r"erasure of 2 ids that began at 2025-01-01 has not ended"):
        erase.run(settings, ["user 1"], spark)
    shutil.rmtree(settings.run_dir)
    said = erase.run(settings, ["user 1"], spark)
    assert (said["persons"], said["not_in_rows"], said["tables"]) == (1, 1, {})


def test_a_root_without_tables_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = Settings(tables={"root": str(tmp_path / "other")}, run_dir=str(tmp_path / "run"))
    with pytest.raises(
        TableError, match=r"tables.root '.*/other' must hold a table in which persons may stand \(events"
    ):
        erase.run(settings, ["user 1"], spark)
    assert not (tmp_path / "other").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.lock"], "no log, no certificate"


@pytest.mark.slow
def test_a_source_below_the_root_is_the_shops_own(spark: SparkSession, tmp_path: Path) -> None:
    settings = little(spark, tmp_path)
    source = tmp_path / "tables" / "order_lines"
    rows = spark.createDataFrame([(user,) for user in GONE], "user_id string")
    rows.coalesce(1).write.format("delta").save(str(source))
    ingested = {"path": str(source), "format": "delta"}
    said = erase.run(settings.model_copy(update={"ingest": IngestSettings(**ingested)}), GONE, spark)
    assert list(said["tables"]) == ["events"]
    assert naming(source, GONE[0])
    with pytest.raises(DataError, match=r"do: .*tables/order_lines/"):
        erase.run(settings, GONE, spark)
    assert spark.read.format("delta").load(str(source)).count() == len(GONE)


@pytest.mark.slow
def test_another_run_folder_is_cleared_in_its_turn_and_old_examples_go_after_the_horizon(
    spark: SparkSession, tmp_path: Path
) -> None:
    first = little(spark, tmp_path, erasure={"horizon_hours": 24})
    second = little(spark, tmp_path).model_copy(update={"run_dir": str(tmp_path / "run B")})
    tables = Tables(spark, first.tables.root)
    named = spark.createDataFrame([(1, KEPT), (2, GONE[0])], "index bigint, id string").coalesce(1)
    rows = spark.createDataFrame([(1, 9), (2, 7)], "user bigint, target bigint").coalesce(1)
    for name, df in (("vocabulary_users", named), ("examples", rows)):
        tables.write(name, df, mode="overwrite", job="build_examples", inputs={})
    for run_dir in (first.run_dir, second.run_dir):
        (Path(run_dir) / "checkpoints" / "x").mkdir(parents=True)
        (Path(run_dir) / "bundles" / "b").mkdir(parents=True)
        (Path(run_dir) / "bundles" / "b" / "bundle.json").write_text(
            '{"schema": [{"name": "user", "vocabulary": "users", "size": 3}]}'
        )
    erase.run(first, [GONE[0]], spark)
    said = erase.run(second, [GONE[0]], spark)
    assert not (tmp_path / "run B" / "checkpoints").exists()
    assert [bundle["path"] for bundle in said["bundles"]] == [str(tmp_path / "run B" / "bundles" / "b")]
    held = [pq.read_table(path)["user"].to_pylist() for path in (tmp_path / "tables" / "examples").glob("*.parquet")]
    assert held == [[1]]
