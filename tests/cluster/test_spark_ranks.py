"""Ranks as Spark tasks: the same answers and the same verdicts as local ranks."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from cluster import barrier, horovod_ranks
from cluster import launch as launching
from cluster.barrier import rank_order
from cluster.errors import LaunchError, RankLostError
from cluster.horovod_ranks import LEAVE_S, MET, TOLD, Lines, take_threads
from cluster.launch import launch
from tests.cluster import targets

HERE = "tests.cluster.targets"


def test_barrier_ranks_meet(spark: SparkSession) -> None:
    lines: list[str] = []
    result = launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="barrier", timeout_s=120, log=lines.append)
    assert (result["total"], result["size"]) == (3.0, 2)
    assert sorted(line for line in lines if "hello" in line) == ["[0] hello from rank 0", "[1] hello from rank 1"]


def test_a_stage_that_finds_no_slots_in_time_is_cancelled(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "_LATE_S", 1.0)
    with pytest.raises(LaunchError, match="within timeout_s=2; the barrier stage of 3 ranks waited for task slots"):
        launch(f"{HERE}:add_up", {"value": 1}, ranks=3, launcher="barrier", timeout_s=2)
    assert spark.range(3).count() == 3  # nothing of it is left in the way


@pytest.mark.alone
def test_barrier_ranks_that_take_too_long_are_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"within timeout_s=8; rank 0 of 2 still ran"):
        launch(f"{HERE}:wait_with_child", {"folder": str(tmp_path)}, ranks=2, launcher="barrier", timeout_s=8)


def test_the_rank_that_failed_first_is_named(spark: SparkSession) -> None:
    with pytest.raises(LaunchError) as caught:
        launch(f"{HERE}:fail_knowingly", {"rank": 1}, ranks=2, launcher="barrier", timeout_s=120)
    assert str(caught.value) == "rank 1 of 2 failed: column 'price' must not be negative; got -3; drop the row"


def test_a_silent_rank_is_stopped_and_named(spark: SparkSession) -> None:
    with pytest.raises(RankLostError, match=r"(?s)rank 1 of 2 did not answer; .*in sleeping.*'the planted sum'"):
        launch(f"{HERE}:sleeping", {"rank": 1}, ranks=2, launcher="barrier", stall_s=1.0, timeout_s=120)


def test_a_task_that_cannot_run_is_not_started_again(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "_rank_task", targets.task_without_package)
    with pytest.raises(LaunchError, match=r"failed: ModuleNotFoundError: No module named 'no_such_package'") as caught:
        launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="barrier", restarts=1, log=pytest.fail)
    assert not isinstance(caught.value, RankLostError)


def test_a_lost_python_worker_is_a_lost_rank(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "_rank_task", targets.task_killed)
    with pytest.raises(
        RankLostError, match=r"the barrier stage of 2 ranks failed: .*Python worker exited unexpectedly"
    ):
        launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="barrier")


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("SparkException: Job aborted: ExecutorLostFailure (executor 1 exited caused by one of the tasks)", True),
        ("SparkException: [SPARK-24942] Barrier execution mode does not support dynamic resource allocation", False),
        ("SparkException: Job 3 cancelled part of cancelled job tags", False),
        ("", False),
    ],
)
def test_only_a_lost_executor_is_a_lost_rank(text: str, lost: bool) -> None:
    error = barrier._stage_failure(3, RuntimeError(text))
    assert isinstance(error, RankLostError) == lost
    assert (text or "RuntimeError") in str(error)


@pytest.mark.slow
def test_horovod_spark_ranks_meet(spark: SparkSession) -> None:
    lines: list[str] = []
    result = launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="spark", log=lines.append)
    assert (result["total"], result["size"]) == (3.0, 2)
    assert sorted(line for line in lines if "hello" in line) == [
        "[0] hello from rank 0",
        "[1] hello from rank 1",
    ]


@pytest.mark.slow
def test_horovod_spark_ranks_that_take_too_long_are_stopped(spark: SparkSession, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"(?s)within timeout_s=30; the ranks still ran; their last lines:"):
        launch(f"{HERE}:wait_with_child", {"folder": str(tmp_path)}, ranks=2, launcher="spark", timeout_s=30)
    assert time.monotonic() - started < 30 + LEAVE_S, "Horovod's wait had to be left: it did not end by itself"
    assert signal.getsignal(signal.SIGINT) is before
    assert spark.range(3).count() == 3
    pids = [int(pid) for rank in (0, 1) for pid in (tmp_path / f"pids-{rank}").read_text().split()]
    assert not any(map(psutil.pid_exists, pids))


LEFT_BEHIND = """
import threading, time
from cluster import horovod_ranks
horovod_ranks.END_S = 0.3
threading.Thread(target=horovod_ranks.end_after_the_main_thread, daemon=True).start()
threading.Thread(target=time.sleep, args=(600,)).start()
print("result", flush=True)
"""


def test_a_thread_left_behind_does_not_hold_a_rank_of_horovod_spark() -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout == "result\n"
    assert ended.stderr == "this rank has given its result and does not end within 0.3 s; it is ended\n"


@pytest.mark.slow
def test_a_thread_left_behind_holds_no_result_of_horovod_spark_back(spark: SparkSession) -> None:
    lines: list[str] = []
    settings = {"ranks": 2, "launcher": "spark", "timeout_s": 120, "log": lines.append}
    assert launch(f"{HERE}:leaves_a_thread", {}, **settings) == {"value": 7}  # type: ignore[arg-type]
    assert sum("does not end within 30 s; it is ended" in line for line in lines) == 2


@pytest.mark.slow
def test_horovod_spark_ranks_leave_no_child(spark: SparkSession, tmp_path: Path) -> None:
    """Nor do they wait for it."""
    launch(f"{HERE}:leave_child", {"folder": str(tmp_path)}, ranks=2, launcher="spark", timeout_s=60)
    assert not any(psutil.pid_exists(int((tmp_path / f"pid-{rank}").read_text())) for rank in (0, 1))


def test_a_horovod_spark_that_does_not_end_its_ranks_is_left(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that hears the interrupt, as horovod.spark does, and waits on."""

    def hang(*given: object) -> list[object]:
        signal.signal(signal.SIGINT, lambda *_: None)
        for _ in range(600):
            time.sleep(0.1)
        return []

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr(launching, "_horovod_spark_run", hang)
    monkeypatch.setattr(horovod_ranks, "LEAVE_S", 1.0)
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"(?s)within timeout_s=1; the ranks still ran; their last lines: none"):
        launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="spark", timeout_s=1)
    assert time.monotonic() - started < 10
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGUSR2)) == before


def test_a_horovod_spark_that_hangs_is_interrupted(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Spark's minute: a stand-in that waits as horovod.spark does, in the main thread."""

    def hang(*given: object) -> list[object]:
        time.sleep(60)
        return []

    monkeypatch.setattr(launching, "_horovod_spark_run", hang)
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"(?s)within timeout_s=1; the ranks still ran; their last lines: none"):
        launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="spark", timeout_s=1)
    assert time.monotonic() - started < 10


def launch_on(monkeypatch: pytest.MonkeyPatch, run: Callable[..., list[Any]], **settings: Any) -> dict[str, Any]:
    """Launch through a stand-in for `horovod.spark.run`, without Spark."""
    monkeypatch.setattr(horovod_ranks, "session", lambda: None)
    monkeypatch.setattr(launching, "_horovod_spark_run", run)
    return launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher="spark", **settings)


def test_a_rank_of_horovod_spark_takes_its_share_of_its_executors_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own share does not travel."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    given = dict[str, str]()

    def run(function: object, ranks: int, env: dict[str, str], *_: object) -> list[dict[str, Any]]:
        given.update(env)
        return [{"ok": {}}] * ranks

    launch_on(monkeypatch, run)
    assert "OMP_NUM_THREADS" not in given
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("HOROVOD_LOCAL_SIZE", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    take_threads()
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # Spark's, or a person's
    take_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_rank_of_a_barrier_takes_its_share_of_its_executors_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, str]()

    def start(rank: int, size: int, command: object, env: dict[str, str], *_: object) -> None:
        given.update(env)
        raise InterruptedError("planted: seen enough")

    monkeypatch.setattr(barrier, "Rank", start)
    monkeypatch.setattr(barrier, "Sender", lambda _: io.StringIO())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    plan = {"target": "a:b", "stall_s": 1.0, "env": {}, "spec": "{}", "lines": {"host": "", "port": 0, "secret": ""}}
    slot = {"HOROVOD_SIZE": "2", "HOROVOD_HOSTNAME": "nowhere"}
    with pytest.raises(InterruptedError):
        barrier._run_one(plan, 0, slot, 2, SimpleNamespace())  # type: ignore[arg-type]
    assert given["OMP_NUM_THREADS"] == "4"


def test_a_barrier_rank_that_has_its_result_is_not_lost_though_another_ended_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other's note was seen first; this one's result has its own time to end."""
    started = time.monotonic()

    class Late:
        rank, size, joined, exit_code, state, tail = 0, 2, True, None, "sleeping", ()
        say = signal = staticmethod(lambda _: None)
        ended = {"ok": {}}  # noqa: RUF012
        has_result = property(lambda _: time.monotonic() - started > 0.3)

    monkeypatch.setattr(barrier, "END_S", 0.6)
    monkeypatch.setattr(barrier, "POLL_S", 0.02)
    board = SimpleNamespace(has=lambda note: note == barrier.ENDED)
    assert barrier._watch(Late(), board, barrier.Limit()) is None  # type: ignore[arg-type]
    assert time.monotonic() - started > 0.8


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'horovod'"), ""),
        (RuntimeError("one or more processes exited"), "ModuleNotFoundError: No module named 'horovod'"),
    ],
)
def test_a_missing_package_is_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def run(function: object, ranks: int, env: object, start_s: int, lines: Lines) -> list[Any]:
        lines.write(f"[1]<stderr>:{said}\n")
        raise error

    named = (
        r"horovod.spark could not run 2 ranks to their end: ModuleNotFoundError: No module named 'horovod'\. It needs"
    )
    with pytest.raises(LaunchError, match=named) as caught:
        launch_on(monkeypatch, run, restarts=1, log=lambda _: None)
    assert not isinstance(caught.value, RankLostError)


@pytest.mark.parametrize("begun", ["met", "told"])
def test_what_a_rank_went_on_without_hides_no_lost_rank(monkeypatch: pytest.MonkeyPatch, begun: str) -> None:
    """An optional package is missing, and then a rank is killed."""
    error = {"kind": "", "message": "PeerLostError: gave up", "traceback": "", "lost_peer": True}
    lines: list[str] = []

    def run(function: object, ranks: int, env: object, start_s: int, stream: Lines) -> list[Any]:
        said = MET if begun == "met" else f"{TOLD}{json.dumps([0, error])}"
        for line in (said, "ModuleNotFoundError: No module named 'triton'", "going on without it"):
            stream.write(f"[0]<stderr>:{line}\n")
        raise RuntimeError("Horovod detected that one or more processes exited with non-zero status")

    with pytest.raises(RankLostError, match=r"to their end: Horovod detected"):
        launch_on(monkeypatch, run, log=lines.append)
    assert not any(MET in line for line in lines)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_package_that_sparks_job_misses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Horovod asks Spark in a thread, and says no more than that it failed."""

    def fail() -> None:
        raise RuntimeError("Py4J:\nTraceback\nModuleNotFoundError: No module named 'cluster'\n\tat org.apache.spark")

    def run(*_: object) -> list[Any]:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        raise RuntimeError("Spark job has failed, see the error above.")

    hook = threading.excepthook
    with pytest.raises(LaunchError, match=r"to their end: ModuleNotFoundError: No module named 'cluster'\. It needs"):
        launch_on(monkeypatch, run, restarts=1, log=pytest.fail)
    assert threading.excepthook is hook


def test_a_rank_of_horovod_spark_that_failed_is_named_though_others_were_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that waits for it is ended, for which Horovod throws all results away."""
    lines: list[str] = []

    def run(function: object, ranks: int, env: object, start_s: int, stream: Lines) -> list[Any]:
        error = {"kind": "", "message": "DataError: got -3", "traceback": "", "lost_peer": False}
        stream.write(f"[1]<stderr>:{TOLD}{json.dumps([1, error])}\n")
        raise RuntimeError("Horovod detected that one or more processes exited with non-zero status")

    with pytest.raises(LaunchError, match=r"^rank 1 of 2 failed: DataError: got -3$") as caught:
        launch_on(monkeypatch, run, restarts=1, log=lines.append)
    assert not isinstance(caught.value, RankLostError)
    assert lines == ["[1] DataError: got -3"]


def test_a_rank_of_horovod_spark_that_is_gone_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peer has noticed, and did nothing wrong."""

    def run(function: object, ranks: int, env: object, start_s: int, stream: Lines) -> list[Any]:
        error = {"kind": "", "message": "PeerLostError: gave up", "traceback": "", "lost_peer": True}
        stream.write(f"[0]<stderr>:{TOLD}{json.dumps([0, error])}\n")
        raise RuntimeError("Horovod detected that one or more processes exited with non-zero status")

    with pytest.raises(
        RankLostError, match=r"(?s)to their end: Horovod detected .*last lines:\n    \[0\] PeerLostError"
    ):
        launch_on(monkeypatch, run, log=lambda _: None)


@pytest.mark.slow
def test_horovod_spark_ranks_fail_with_their_own_error(spark: SparkSession) -> None:
    """Though another sleeps, and has to be ended."""
    with pytest.raises(LaunchError, match=r"^rank 0 of 2 failed: .*must be of two words; got 1") as caught:
        launch(f"{HERE}:fail_beside_a_sleeper", {}, ranks=2, launcher="spark", restarts=1, timeout_s=120)
    assert not isinstance(caught.value, RankLostError)


def test_no_session_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    for launcher in ("barrier", "spark"):
        with pytest.raises(LaunchError, match="needs an active session; there is none"):
            launch(f"{HERE}:add_up", {"value": 1}, ranks=2, launcher=launcher)  # type: ignore[arg-type]


def test_a_hosts_ranks_follow_each_other() -> None:
    order, hosts = rank_order(["b", "a", "b", "c", "a"])
    assert order == [0, 2, 1, 4, 3]
    assert hosts == [("b", 2), ("a", 2), ("c", 1)]


@pytest.mark.parametrize("torn", ['[1, {"kind": "", "mess[2026] shut down', "7", "[1, 7]", '[1, {"kind": ""}]'])
def test_a_torn_error_is_a_line_like_others(torn: str) -> None:
    passed: list[str] = []
    lines = Lines(passed.append)
    lines.write(f"[1]<stderr>:{TOLD}{torn}\n[1]<stderr>:on\n")
    assert (lines.failed, passed) == ({}, [f"[1] {TOLD}{torn}", "[1] on"])


def test_lines_are_passed_on_whole() -> None:
    passed: list[str] = []
    lines = Lines(passed.append)
    for text in ("[0]<stdout>:he", "llo\n[1]<stdout>:", "you\n"):
        lines.write(text)
    assert passed == ["[0] hello", "[1] you"]
