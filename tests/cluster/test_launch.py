"""Launching ranks: what comes back, and what is said when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import supervision
from cluster.errors import LaunchError, RankLostError
from cluster.failures import Failure
from cluster.launch import launch
from cluster.rank import run_rank
from cluster.sizes import table_bytes, threads_per_rank
from tests.cluster import targets
from training.errors import DataError

HERE = "tests.cluster.targets"


def test_ranks_meet_and_their_lines_say_who_wrote_them() -> None:
    lines: list[str] = []
    env = {"OMP_NUM_THREADS": "1"}
    result = launch(f"{HERE}:add_up", {"value": 1}, ranks=4, timeout_s=120, log=lines.append, env=env)
    assert (result["total"], result["size"], result["threads"]) == (10.0, 4, 1)
    assert result["pid"] != os.getpid()
    assert sorted(line for line in lines if "hello" in line) == [f"[{n}] hello from rank {n}" for n in range(4)]


def test_one_rank_runs_in_a_process_of_its_own() -> None:
    """With the variables of the launch, and its lines as they are."""
    lines: list[str] = []
    result = launch(f"{HERE}:add_up", {"value": 1}, ranks=1, env={"OMP_NUM_THREADS": "1"}, log=lines.append)
    assert (result["total"], result["size"], result["threads"]) == (1.0, 1, 1)
    assert result["pid"] != os.getpid()
    assert lines == ["hello from rank 0"]


def test_the_errors_of_one_rank_come_as_they_are() -> None:
    with pytest.raises(DataError) as caught:
        launch(f"{HERE}:fail_knowingly", {"rank": 0}, ranks=1)
    assert str(caught.value) == "column 'price' must not be negative; got -3; drop the row"
    with pytest.raises(LaunchError, match=r"(?s)^ZeroDivisionError: planted.*in fail_by_surprise"):
        launch(f"{HERE}:fail_by_surprise", {"rank": 0}, ranks=1)


def test_an_error_that_is_made_of_more_than_a_message_keeps_its_words() -> None:
    with pytest.raises(LaunchError, match=r"OddError: 1 and 2 do not go together"):
        launch(f"{HERE}:fail_oddly", {}, ranks=1)


@pytest.mark.parametrize("error", [targets.CountError(7), targets.RowError(7)])
def test_an_error_that_is_not_made_of_its_own_message_keeps_its_words(error: Exception) -> None:
    kind = f"{HERE}:{type(error).__name__}"
    told = {"kind": kind, "message": str(error), "traceback": "", "lost_peer": False}
    caught = Failure.of_error(0, 1, told).as_error()
    assert (type(caught), str(caught)) == (LaunchError, f"{kind}: {error}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_another_process_has_is_told_from_what_fails(ranks: int) -> None:
    error = run_rank(f"{HERE}:find_the_folder_held", {}, lambda: None)["error"]
    caught = Failure.of_error(0, ranks, error).as_error()
    assert getattr(caught, "busy", False)
    assert not getattr(Failure.of_error(0, ranks, {**error, "busy": False, "kind": ""}).as_error(), "busy", True)


@pytest.mark.alone
def test_one_rank_has_its_time_limit(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"must end within timeout_s=4; rank 0 of 1 still ran"):
        launch(f"{HERE}:wait_with_child", {"folder": str(tmp_path)}, ranks=1, timeout_s=4)


def test_a_rank_that_is_asked_to_end_ends_the_launch() -> None:
    """Without another start: whoever asked wants it gone."""
    with pytest.raises(LaunchError, match=r"^rank 1 of 2 was asked to end \(SIGTERM\), and did; the same") as caught:
        launch(f"{HERE}:killed", {"rank": 1, "signal": "SIGTERM"}, ranks=2, restarts=1, timeout_s=60)
    assert not isinstance(caught.value, RankLostError)


def test_a_rank_that_is_killed_after_its_result_is_named() -> None:
    with pytest.raises(RankLostError, match=r"rank 1 of 2 was killed by SIGKILL after it had given its result"):
        launch(f"{HERE}:killed_at_the_end", {"rank": 1}, ranks=2, timeout_s=60)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_log_that_raises_holds_no_rank_up(ranks: int, capfd: pytest.CaptureFixture[str]) -> None:
    """More lines than a pipe holds; they go to stderr instead."""

    def full(line: str) -> None:
        raise OSError("No space left on device")

    assert launch(f"{HERE}:chatter", {"lines": 20_000}, ranks=ranks, timeout_s=60, log=full) == {}
    said = capfd.readouterr().err.splitlines()
    assert sum("the launch's log raised OSError: No space left on device; " in line for line in said) == 1
    assert sum(line.endswith(" of many lines") for line in said) == 20_000 * ranks


def test_a_killed_launch_leaves_no_file(tmp_path: Path) -> None:
    temporary, notes = tmp_path / "temporary", tmp_path / "notes"
    temporary.mkdir()
    notes.mkdir()
    code = f"from cluster.launch import launch; launch('{HERE}:wait_with_child', {{'folder': '{notes}'}}, ranks=2)"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)})
    _wait_until(lambda: len(list(notes.iterdir())) == 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert list(temporary.iterdir()) == []
    children = [int(path.read_text().split()[1]) for path in notes.iterdir() if path.read_text()]
    for child in children:
        os.kill(child, signal.SIGKILL)


def test_a_known_error_is_said_without_a_traceback() -> None:
    with pytest.raises(LaunchError) as caught:
        launch(f"{HERE}:fail_knowingly", {"rank": 1}, ranks=2, timeout_s=60)
    assert str(caught.value) == "rank 1 of 2 failed: column 'price' must not be negative; got -3; drop the row"


def test_a_surprise_comes_with_its_traceback() -> None:
    with pytest.raises(LaunchError, match=r"(?s)rank 0 of 2 failed: ZeroDivisionError: planted.*in fail_by_surprise"):
        launch(f"{HERE}:fail_by_surprise", {"rank": 0}, ranks=2, timeout_s=60)


def test_a_killed_rank_is_named() -> None:
    with pytest.raises(RankLostError, match=r"rank 1 of 2 was killed by SIGKILL .*out of memory"):
        launch(f"{HERE}:killed", {"rank": 1}, ranks=2, timeout_s=60)


def test_a_rank_that_does_not_come_is_named_with_where_it_stands() -> None:
    with pytest.raises(RankLostError, match=r"(?s)rank 1 of 2 did not answer; .*in sleeping.*'the planted sum'"):
        launch(f"{HERE}:sleeping", {"rank": 1}, ranks=2, stall_s=1.0, timeout_s=60)


def test_a_rank_that_does_not_end_with_the_others_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "END_S", 1.0)
    with pytest.raises(RankLostError, match=r"(?s)rank 1 of 2 did not answer; its process is sleeping; .*in <lambda>"):
        launch(f"{HERE}:stays_behind", {"rank": 1}, ranks=2, timeout_s=120)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_thread_left_behind_holds_no_result_back(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "END_S", 1.0)
    lines: list[str] = []
    assert launch(f"{HERE}:leaves_a_thread", {}, ranks=ranks, timeout_s=60, log=lines.append) == {"value": 7}
    assert sum("has given its result and does not end within 1 s" in line for line in lines) == ranks


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_time_is_limited_and_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes, which are over as soon as both ranks wait: the launcher's clock goes forward then."""

    def started() -> list[int]:
        return [int(pid) for path in tmp_path.iterdir() for pid in path.read_text().split()]

    def clock() -> float:
        return time.monotonic() + 600 * (len(started()) == 4)

    monkeypatch.setattr(supervision, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(LaunchError, match=r"must end within timeout_s=600; rank 0, 1 of 2 still ran"):
        launch(f"{HERE}:wait_with_child", {"folder": str(tmp_path)}, ranks=2, timeout_s=600)
    pids = started()
    assert len(pids) == 4
    _wait_until(lambda: not any(_alive(pid) for pid in pids), 5.0)


def test_ranks_die_with_their_launcher(tmp_path: Path) -> None:
    code = f"from cluster.launch import launch; launch('{HERE}:wait_with_child', {{'folder': '{tmp_path}'}}, ranks=2)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    time.sleep(0.2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    pids = [[int(pid) for pid in path.read_text().split()] for path in tmp_path.iterdir()]
    _wait_until(lambda: not any(_alive(rank) for rank, _ in pids), 5.0)
    for _, child in pids:
        os.kill(child, signal.SIGKILL)


def test_restarts_are_counted(tmp_path: Path) -> None:
    spec = {"folder": str(tmp_path), "times": 1}
    lines: list[str] = []
    assert launch(f"{HERE}:killed_once", spec, ranks=2, restarts=1, timeout_s=60, log=lines.append) == {"runs": 1}
    assert any("starting all 2 ranks again (1 of at most 1 times)" in line for line in lines)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (f"{HERE}:nope", f"module '{HERE}' has no function 'nope'"),
        ("no_such_module:run", "there is no module 'no_such_module'"),
        (HERE, f"reads 'package.module:function'; got '{HERE}'"),
        (f"{HERE}:not_json", "the result of launch target .* must be JSON: Object of type object"),
    ],
)
def test_a_wrong_target_is_named(target: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        launch(target, {}, ranks=1)


def test_a_wrong_call_is_named() -> None:
    with pytest.raises(LaunchError, match=r"at most 16 ranks for each of .* cores; got ranks=100000; start fewer"):
        launch(f"{HERE}:add_up", {}, ranks=100_000)
    with pytest.raises(LaunchError, match="at least 1; got ranks=0"):
        launch(f"{HERE}:add_up", {}, ranks=0)
    with pytest.raises(LaunchError, match=r"the spec of launch target .* must be JSON: Object of type PosixPath"):
        launch(f"{HERE}:add_up", {"folder": Path()}, ranks=2)


def test_sizes() -> None:
    assert [threads_per_rank(8, ranks) for ranks in (1, 3, 8, 20)] == [8, 2, 1, 1]
    assert table_bytes(1_000_000, 64, optimizer="rowwise_adagrad") == 1_000_000 * 65 * 4
    assert table_bytes(9, 2, optimizer="sparse_adam", ranks=2, sharded=True) == 5 * 6 * 4
