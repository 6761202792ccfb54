"""Every job on a Spark Connect server: one is started here, and asked from a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest
from delta import configure_spark_with_delta_pip
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from cluster import session
from cluster.errors import EnvironmentProblem
from tests.conftest import AS_THEY_STAND

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(pyspark.__file__).parent
SERVER_S, CLIENT_S = 240.0, 600.0  # on a busy machine
NEEDED = ("grpc", "grpc_status", "google.rpc")

pytestmark = pytest.mark.timeout(SERVER_S + CLIENT_S)


def environment(**variables: str) -> dict[str, str]:
    """This process's, with this checkout to import from."""
    path = os.pathsep.join(entry for entry in (str(ROOT), os.environ.get("PYTHONPATH")) if entry)
    return {**os.environ, "PYTHONPATH": path, **variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def submit(port: int) -> list[str]:
    """The command that starts a server as small as the tests' own session."""
    builder: Any = configure_spark_with_delta_pip(SparkSession.builder)
    conf = {
        "spark.jars.packages": builder._options["spark.jars.packages"],
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",  # it lives shortly
        "spark.sql.extensions": session.DELTA_EXTENSION,
        "spark.sql.catalog.spark_catalog": session.DELTA_CATALOG,
        "spark.sql.shuffle.partitions": 2,
        "spark.databricks.delta.snapshotPartitions": 2,
        "spark.sql.session.timeZone": "America/New_York",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        **AS_THEY_STAND,
    }
    pairs = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    name = "org.apache.spark.sql.connect.service.SparkConnectServer"
    return [str(HOME / "bin" / "spark-submit"), "--master", "local[2]", "--driver-memory", "2g", *pairs,
            "--class", name, "spark-internal"]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server whose Python workers are this Python."""
    for package in NEEDED:
        pytest.importorskip(package, reason="Spark Connect's client needs pyspark[connect]")
    if not list((HOME / "jars").glob("spark-connect_*.jar")):
        pytest.skip(f"PySpark {pyspark.__version__} brings no Spark Connect server; those of 4.0 and later do")
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    env = environment(PYSPARK_PYTHON=sys.executable, OMP_NUM_THREADS="1", SPARK_HOME=str(HOME))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(submit(port), env=env, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for(process, port, folder / "log")
            yield f"sc://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + SERVER_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shop lies."""
    return tmp_path_factory.mktemp("shop")


def told(server: str, folder: Path, *stages: str) -> dict[str, dict[str, Any]]:
    """What each stage gives, by its name."""
    command = [sys.executable, "-m", "tests.jobs.connect_client", server, str(folder), *stages]
    done = subprocess.run(
        command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=CLIENT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"stage"')]
    return {line["stage"]: line for line in lines}


@pytest.fixture(scope="module")
def begun(server: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The shop with its events."""
    return told(server, folder, "session", "tables", "simulate", "ingest", "mistaken")


@pytest.mark.slow
def test_tables_are_what_they_are_elsewhere(begun: dict[str, dict[str, Any]]) -> None:
    found = begun["tables"]
    assert (found["ids"], found["removed"], found["up_to_date"]) == ([0, 1], 1, [False, False, True, True])
    assert found["size"] > 0
    missing, unseen, gone = found["refused"]
    assert missing.startswith("NoTableError: table 't' does not exist at ")
    assert "was changed by another writer while `j` wrote to it" in unseen
    assert "has no version 7 any more (newest: 2)" in gone


@pytest.mark.slow
def test_raw_lines_come_to_tables(begun: dict[str, dict[str, Any]]) -> None:
    found = [begun["session"][name] for name in ("class", "parallelism", "zone")]
    assert found == ["pyspark.sql.connect.session", 2, "UTC"]
    assert begun["ingest"]["raw_rows"] == begun["simulate"]["rows"] > 0
    assert begun["ingest"]["dispositions"]["sale"] > 0
    assert begun["mistaken"]["path"].endswith("nowhere.csv' does not exist; name a file, a folder or a glob")


@pytest.mark.slow
def test_a_client_that_has_ended_leaves_no_session(begun: dict[str, dict[str, Any]], server: str) -> None:
    """The server would keep it for an hour, with what it holds."""
    from pyspark.sql.connect.client import SparkConnectClient

    late = SparkConnectClient(f"{server}/;session_id={begun['session']['id']}")
    with pytest.raises(PySparkException, match="SESSION_CLOSED"):
        late.get_configs("spark.sql.session.timeZone")
    late.close()


@pytest.mark.slow
def test_every_other_job_runs_or_says_why_not(begun: dict[str, dict[str, Any]], server: str, folder: Path) -> None:
    stages = ("build_examples", "tune", "train", "evaluate", "score", "ingest_feedback")
    found = told(server, folder, *stages, "verify_epoch", "doctor", "report", "refused")
    assert found["train"]["rows"] > 0
    assert found["tune"]["counts"] == {"complete": 1}
    assert {"millrace", "als"} <= set(found["evaluate"]["protocols"]["new"]["models"])
    assert found["score"]["rows"] > 0
    assert found["ingest_feedback"]["shown"] == found["score"]["rows"]
    assert found["verify_epoch"]["correct"]
    assert [found["doctor"][name] for name in ("spark", "tables", "examples", "ranks")] == ["ok"] * 4
    assert Path(found["report"]["path"]).is_file()
    assert "LaunchError: training.launcher=spark needs a classic session" in found["refused"]["launcher"]
    assert "EnvironmentProblem: erase needs a classic session" in found["refused"]["erase"]


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a proxy."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)


@pytest.mark.usefixtures("no_session")
def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: Spark's own client would try for ten minutes."""
    url = f"sc://127.0.0.1:{free_port()}/;token=secret"
    monkeypatch.setenv("SPARK_REMOTE", url)
    with pytest.raises(EnvironmentProblem, match=r"Connect server 'sc://127.*refused.*pyspark\[connect\]") as caught:
        session.build_session()
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("no_session")
def test_another_service_at_that_port_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc", reason="Spark Connect's client needs pyspark[connect]")
    monkeypatch.setattr(session, "REACHED_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"sc://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(EnvironmentProblem, match=r"nobody there speaks its protocol within 0\.5 s"):
            session.build_session(master=url)
