"""Doctor: a healthy machine passes, and each ailment is found with its value and a remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from cluster.errors import EnvironmentProblem, LaunchError
from jobs import builds, doctor
from jobs.artefacts import DOCTOR, read_json
from jobs.checks import machine as doctor_machine
from jobs.checks import pipeline as doctor_checks
from jobs.checks import rest as doctor_rest
from jobs.checks.findings import Finding
from jobs.command import EXIT_REFUSED
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from training.errors import TableError
from training.world import World

HEALTHY = Settings()
COLUMNS = "ingest.columns={order_id: a, item_id: b, user_id: c, time: d, quantity: e, price: f}"
ROOT = Path(doctor.__file__).parents[1]
EXAMPLE = (
    "user bigint, history array<bigint>, history_age array<float>, target bigint, new float, age float, weight float"
)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Settings:
    """A table of examples as build_examples leaves it, with vocabularies of 1,001 users and 501 items."""
    tables = Tables(spark, str(tmp_path / "tables"))
    rows = spark.createDataFrame([(1, [2], [1.0], 3, 1.0, 0.0, 1.0)], EXAMPLE)
    rows = rows.selectExpr("*", "timestamp'2025-01-01' AS time", "'train' AS split")
    version = tables.write("examples", rows, mode="overwrite", job="build_examples", inputs={}, partition_by=("split",))
    publish(tables, version)
    return settings(tmp_path)


def publish(tables: Tables, version: int) -> None:
    """Put a version of the examples in force."""
    schema = TASKS["recommend"].schema({"users": 1_001, "items": 501}).to_json()
    build = {key: {} for key in builds.FIELDS} | {"schema": schema, "versions": {"examples": version}}
    builds.publish(tables, build, job="build_examples", since=builds.newest(tables).version)


def settings(tmp_path: Path, *flags: str) -> Settings:
    return load_settings(None, [f"tables.root={tmp_path}/tables", f"run_dir={tmp_path}/run", *flags])


def test_a_healthy_machine_passes(shop: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tuple(check for check in doctor_rest.ALONE if check is not doctor_machine.horovod)
    monkeypatch.setattr(doctor_rest, "ALONE", alone)
    summary = doctor.run(shop, spark)
    assert summary["counts"]["fail"] == 0
    found = {finding["check"]: finding for finding in summary["findings"]}
    assert found["examples"]["what"] == "version 0: 1 rows in 1 files, all readable"
    assert found["tables"]["level"] == "ok"
    assert "2 ranks take about" in found["memory"]["what"]
    assert read_json(shop.run_dir, DOCTOR) == summary


def test_what_would_fail_is_raised_with_its_remedy(tmp_path: Path, spark: SparkSession) -> None:
    sick = settings(tmp_path, "ingest.path=/nowhere/lines.csv", COLUMNS, "training.ranks=1")
    with pytest.raises(
        EnvironmentProblem, match=r"1 thing\(s\) would fail:\n  - data: .*'/nowhere/lines\.csv' matches no"
    ):
        doctor.run(sick, spark)
    held = read_json(sick.run_dir, DOCTOR)
    assert held["counts"]["fail"] == 1
    missing = next(finding for finding in held["findings"] if finding["check"] == "tables")
    assert missing["level"] == "warn"
    assert "millrace ingest, millrace build-examples" in missing["remedy"]


def test_the_tables_that_are_missed_are_the_tasks_own(tmp_path: Path, spark: SparkSession) -> None:
    other = settings(tmp_path, "task=fraud")
    (missing,) = doctor_checks.tables(other, spark)
    assert missing.what.endswith(f"not at {tmp_path}/tables yet: cases, examples, builds")
    assert missing.remedy == "run millrace ingest, millrace build-examples"


@pytest.mark.parametrize("why", [EnvironmentProblem("Spark did not start (no jars)"), ImportError("no jars: no delta")])
def test_without_spark_the_rest_is_still_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    def no_session(*_: Any, **__: Any) -> None:
        raise why

    monkeypatch.setattr(doctor, "FIRST", ())
    monkeypatch.setattr(doctor_rest, "ALONE", ())
    monkeypatch.setattr(doctor_rest, "open_session", no_session)
    found = list(doctor.examine(settings(tmp_path)))
    assert [finding.check for finding in found] == ["spark", "disk"]
    assert found[0].level == "fail"
    assert "no jars" in found[0].what


@pytest.mark.parametrize("missing", ["deltalake", "pyarrow", "torch"])
def test_a_package_that_is_missing_is_a_finding(tmp_path: Path, missing: str) -> None:
    """In a Python of its own, as the command does it."""
    code = f"import sys; sys.modules[{missing!r}] = None; from jobs.main import main; main()"
    command = [sys.executable, "-c", code, "doctor", f"run_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_REFUSED, done.stderr
    assert "Traceback" not in done.stderr
    found = {finding["check"]: finding for finding in read_json(str(tmp_path), DOCTOR)["findings"]}
    assert list(found) == ["python", "packages", "imports"]
    assert found["imports"]["level"] == "fail"
    assert missing in found["imports"]["what"]


def test_two_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor_machine.horovod(HEALTHY)).level == "ok"

    def broken(*args: object, **options: object) -> dict[str, Any]:
        raise LaunchError("rank 0 of 2 failed: libhorovod.so: undefined symbol")

    monkeypatch.setattr(doctor_machine, "launch", broken)
    found = only(doctor_machine.horovod(HEALTHY))
    assert (found.level, "undefined symbol" in found.what, "build.sh" in found.remedy) == ("fail", True, True)
    monkeypatch.setattr(doctor_machine, "launch", lambda *_, **__: {"sum": 1})
    assert "added 1 and 2 to 1" in only(doctor_machine.horovod(HEALTHY)).what
    alone = load_settings(None, ["training.ranks=1"])
    assert only(doctor_machine.horovod(alone)).level == "ok"
    assert doctor_machine.add_up({"first": 1}, World()) == {"sum": 1}


@pytest.mark.parametrize(
    ("script", "level", "what"),
    [
        ("echo 'openjdk version \"17.0.1\"' >&2", "ok", "17"),
        ("echo 'java version \"1.8.0_402\"' >&2", "fail", "version 1; 17 and 21 work"),
        ("echo hello >&2", "fail", "'hello'"),
    ],
)
def test_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, level: str, what: str) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    found = only(doctor_machine.java_version(HEALTHY))
    assert (found.level, what in found.what) == (level, True), found


def test_no_java_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    found = only(doctor_machine.java_version(HEALTHY))
    assert (found.level, f"there is no '{tmp_path}/bin/java'" in found.what) == ("fail", True)
    assert "apt-get install" in found.remedy
    remote = Settings(spark={"master": "sc://spark.shop"})
    assert only(doctor_machine.java_version(remote)).level == "ok"


def test_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor_machine.loopback(HEALTHY)).level == "ok"

    def closed(address: object, **options: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(doctor_machine.socket, "create_connection", closed)
    assert "unreachable" in only(doctor_machine.loopback(HEALTHY)).what


def test_bf16_of_a_processor_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = load_settings(None, ["training.precision=bf16", "training.device=cpu"])
    assert doctor_machine.bf16(HEALTHY) == []
    for fast, level in ((True, "ok"), (False, "warn")):
        monkeypatch.setattr("training.step.device.fast_bf16", lambda _, fast=fast: fast)
        assert only(doctor_machine.bf16(asked)).level == level
    found = only(doctor_machine.bf16(asked))
    assert "training.precision is bf16, and this CPU has neither AVX512_BF16 nor AMX" in found.what
    assert found.remedy == "training.precision=fp32"


def test_settings_that_do_not_fit_each_other() -> None:
    sick = load_settings(
        None,
        [
            "training.ranks=3",
            "training.batch_size=1000",
            "training.launcher=spark",
            "tuning.space={model.nope: {low: 1, high: 2}}",
        ],
    )
    found = {finding.check: finding for finding in doctor_checks.fit_settings(sick)}
    assert {finding.level for finding in found.values()} == {"fail"}
    assert "multiple of ranks x accumulate = 3 x 1; got 1000" in found["batch"].what
    assert "model.nope" in found["search space"].what
    assert "training.launcher=spark" in found["study storage"].what


def test_examples_that_cannot_be_trained_on(shop: Settings, spark: SparkSession) -> None:
    folder = Path(shop.tables.root) / "examples"
    tables = Tables(spark, shop.tables.root)
    for file in folder.glob("split=train/*.parquet"):
        file.unlink()
    found = {finding.check: finding for finding in doctor_checks.tables(shop, spark)}
    assert found["examples"].level == "fail"
    assert "parquet" in found["examples"].what
    rows = spark.createDataFrame([(1,)], "user bigint")
    publish(tables, tables.write("examples", rows, mode="overwrite", job="build_examples", inputs={"now": 1}))
    found = {finding.check: finding for finding in doctor_checks.tables(shop, spark)}
    assert "has no column 'history'" in found["examples"].what


def test_examples_that_no_build_published(tmp_path: Path, spark: SparkSession) -> None:
    Tables(spark, f"{tmp_path}/tables").write("examples", spark.range(1), mode="append", job="mine", inputs={})
    with pytest.raises(TableError, match=r"no build is published at .*tables/builds; run `millrace build-examples`"):
        doctor_checks.examples_schema(settings(tmp_path))


def test_empty_examples(shop: Settings, spark: SparkSession) -> None:
    spark.sql(f"DELETE FROM delta.`{shop.tables.root}/examples`")
    publish(Tables(spark, shop.tables.root), 1)
    found = {finding.check: finding for finding in doctor_checks.tables(shop, spark)}
    assert (found["examples"].level, "has no row" in found["examples"].what) == ("fail", True)


def test_memory_and_disk_that_do_not_suffice(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    held = doctor_checks.model_bytes(shop)
    assert held == (1_001 + 501) * (shop.model["dim"] + 1) * 4  # rowwise Adagrad keeps one number a row
    monkeypatch.setattr(doctor_checks, "_free_memory", lambda: 1e9)
    found = only(doctor_checks.memory(shop))
    assert (found.level, "2 ranks take about 1.4 GB" in found.what) == ("fail", True)
    monkeypatch.setattr(doctor_checks, "_free_memory", lambda: 1.6e9)
    assert only(doctor_checks.memory(shop)).level == "warn"
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    assert only(doctor_checks.disk(shop)).level == "fail"


def test_a_run_folder_that_cannot_be_written(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks.os, "access", lambda _place, _how: False)
    monkeypatch.setattr(doctor_rest, "ALONE", ())
    with pytest.raises(EnvironmentProblem, match=r"disk: run_dir '.*/run' cannot be written\. set run_dir elsewhere"):
        doctor.run(settings(tmp_path, "training.ranks=1"), spark)


def test_a_glob_and_a_url_are_data(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    assert only(doctor_checks.data_source(settings(tmp_path, f"ingest.path={tmp_path}/*.csv", COLUMNS))).level == "ok"
    assert only(doctor_checks.data_source(settings(tmp_path, "ingest.path=s3://bucket/a.csv", COLUMNS))).level == "ok"


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("4.2.0", ("ok", "4.2.0 with Delta's jars")),
        ("4.2.1-vendor", ("ok", "4.2.1-vendor with Delta's jars")),
        ("4.0.1", ("warn", "PySpark 4.2.0 with a session of Spark 4.0.1")),
    ],
)
def test_a_server_of_another_version_is_told(
    monkeypatch: pytest.MonkeyPatch, server: str, found: tuple[str, str]
) -> None:
    monkeypatch.setattr("pyspark.__version__", "4.2.0")
    session: Any = SimpleNamespace(version=server)
    finding = doctor_checks.versions(session)
    assert (finding.level, finding.what) == found


def test_ranks_and_slots(tmp_path: Path) -> None:
    def session(places: int, dynamic: str = "false") -> Any:
        conf = SimpleNamespace(get=lambda _key, _default: dynamic)
        return SimpleNamespace(sparkContext=SimpleNamespace(defaultParallelism=places), conf=conf)

    away = settings(tmp_path, "training.launcher=barrier", "training.ranks=8")
    assert only(doctor_checks.slots(away, session(8))).level == "ok"
    assert "8 ranks need as many slots at once; Spark has 4" in only(doctor_checks.slots(away, session(4))).what
    assert "dynamic allocation is on" in only(doctor_checks.slots(away, session(8, "true"))).what
    many = settings(tmp_path, "training.ranks=512")
    assert only(doctor_checks.slots(many, session(1))).level == "warn"
    assert doctor_checks.memory(away) == []
