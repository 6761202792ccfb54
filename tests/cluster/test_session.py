"""The session: whose JVM it is, where that one writes, and what its Python workers must have."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from cluster import session
from cluster.errors import EnvironmentProblem
from cluster.session import check_workers

BUSY = """
import sys, time
from pathlib import Path
from pyspark import SparkContext
from cluster.session import build_session
spark = build_session(master="local[1]", driver_memory="512m")
if sys.argv[2] == "stopped":
    import os, signal
    os.kill(SparkContext._gateway.proc.pid, signal.SIGSTOP)
Path(sys.argv[1]).write_text(str(SparkContext._gateway.proc.pid))
time.sleep(600)
"""


def _wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_a_killed_drivers_jvm_ends_and_leaves_no_log(tmp_path: Path) -> None:
    """Even one that cannot see that its driver is gone: it stands still."""
    note, temporary = tmp_path / "pid", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-c", BUSY, str(note), "stopped"]
    driver = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)})
    try:
        _wait_until(lambda: note.exists() and note.read_text(), 300.0)
        (log,) = temporary.glob("millrace-jvm-*/stderr.log")
        assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
        assert psutil.pid_exists(int(note.read_text()))
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    _wait_until(lambda: not psutil.pid_exists(int(note.read_text())), 15.0)
    _wait_until(lambda: not list(temporary.glob("millrace-jvm-*")), 5.0)


@pytest.mark.slow
def test_no_warehouse_is_left_in_the_working_folder(tmp_path: Path) -> None:
    """Unless the user has said where it is to be."""
    code = "from cluster.session import build_session; spark = build_session(master='local[1]', driver_memory='512m');"
    code += "spark.sql('SHOW TABLES').collect(); print('in', spark.conf.get('spark.sql.warehouse.dir'))"
    said, places = tmp_path / "conf", list[str]()
    said.mkdir()
    for text in ("# spark.sql.warehouse.dir x", f"spark.sql.warehouse.dir {tmp_path}/mine"):
        (said / "spark-defaults.conf").write_text(text)
        env = {**os.environ, "SPARK_CONF_DIR": str(said), "PYTHONPATH": str(Path(session.__file__).parents[1])}
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True)
        places.append(ran.stdout.decode().rpartition("in ")[2].strip())
    assert "/millrace-jvm-" in places[0]
    assert places[1].endswith(f"{tmp_path}/mine")
    assert {path.name for path in tmp_path.iterdir()} <= {"conf", "mine"}


def test_who_waits_for_the_jvm_is_still_told(tmp_path: Path) -> None:
    """What a child says goes to the file, what this process says where it went before."""
    code = """
import subprocess, sys
from pathlib import Path
from cluster.jvm import _stderr_to
with _stderr_to(Path(sys.argv[1])):
    subprocess.run("echo chatter >&2", shell=True, check=True)
    print("30 s so far", file=sys.stderr)
print("started", file=sys.stderr)
"""
    log = tmp_path / "stderr.log"
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["30 s so far", "started"]
    assert log.read_text() == "chatter\n"


def test_a_jvm_finds_paths_beyond_ascii() -> None:
    """LC_ALL=C is what cron and build servers set; Python reads names as UTF-8 there, Java does not."""
    code = """
import os, subprocess, sys
from cluster.jvm import _in_utf8
child = [sys.executable, "-c", "import locale; print(locale.getencoding().lower())"]
with _in_utf8():
    subprocess.run(child, check=True)
print(os.environ["LC_ALL"], flush=True)
"""
    env = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["utf-8", "C"]


def test_jvms_of_a_user_start_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that fetched Delta's jars into one empty Ivy folder at once would both fail."""
    from cluster.jvm import _in_turn

    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path))
    entered = threading.Event()

    def enter() -> None:
        with _in_turn():
            entered.set()

    other = threading.Thread(target=enter)
    with _in_turn():
        other.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    other.join()
    monkeypatch.setenv("MILLRACE_CACHE", "/dev/null/no-folder")
    with _in_turn():
        pass


@pytest.fixture
def unchecked(spark: SparkSession) -> Iterator[SparkSession]:
    """The session as a stranger to us, with its own Python put back at the end."""
    python = spark.sparkContext.pythonExec
    session._found_on.pop(spark, None)
    yield spark
    spark.sparkContext.pythonExec = python


def test_a_client_alone_names_what_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyspark-client has no SparkContext, so `cluster.jvm` cannot be imported there."""
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    monkeypatch.setitem(sys.modules, "cluster.jvm", None)
    with pytest.raises(EnvironmentProblem, match=r"client of Spark Connect alone .*; name a server in SPARK_REMOTE or"):
        session.build_session()


def test_a_session_is_checked_once_for_what_a_job_needs(
    unchecked: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that scores nothing runs where nothing to score with is."""
    monkeypatch.setattr(session, "NEEDED", ("numpy",))
    for _ in range(2):
        check_workers(unchecked)
        with pytest.raises(
            EnvironmentProblem,
            match=r"have no_such_package; .*python.* \(3\.\d+\.\d+\) lacks no_such_package; start the session with",
        ):
            check_workers(unchecked, ("no_such_package",))
    check_workers(unchecked, ("json",))
    monkeypatch.setattr(session, "_probe", pytest.fail)
    check_workers(unchecked, ("json",))


def test_workers_of_a_python_that_cannot_run_are_named(unchecked: SparkSession) -> None:
    unchecked.sparkContext.pythonExec = "/no/such/python"
    with pytest.raises(
        EnvironmentProblem, match=r"must run Python functions, and do not: .*/no/such/python.*PYSPARK_PYTHON"
    ):
        check_workers(unchecked)
