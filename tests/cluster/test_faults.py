"""What a fault costs: after it, and the restart, every row of every epoch counts once and the result is unbroken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import training.state.lock
from cluster.errors import LaunchError
from cluster.launch import launch
from tests.cluster import lineage
from training.errors import CheckpointError
from training.state.lock import only_writer

TRAIN = "tests.cluster.lineage:train"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return lineage.make_table(tmp_path_factory.mktemp("faults") / "table")


@pytest.fixture(scope="module")
def unbroken(table: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unbroken")
    result = launch(TRAIN, {"table": table, "folder": str(folder)}, ranks=2, timeout_s=200, env=ONE_THREAD)
    assert lineage.seen_once(folder) == {"starts": [0], "computed_again": 0}
    return result


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("SIGKILL", "rank 1 of 2 was killed by SIGKILL"),
        pytest.param("SIGSTOP", "rank 1 of 2 did not answer; its process is stopped", marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_costs_no_row(kind: str, words: str, table: str, unbroken: dict[str, Any], tmp_path: Path) -> None:
    """Lost before step 13, with checkpoints after 5 and 10: steps 10 to 12 are computed again."""
    fault = {"kind": kind, "rank": 1, "step": 13, "mark": str(tmp_path / "mark")}
    lines: list[str] = []
    spec = {"table": table, "folder": str(tmp_path / "run"), "fault": fault}
    result = launch(TRAIN, spec, ranks=2, restarts=1, stall_s=15, timeout_s=200, env=ONE_THREAD, log=lines.append)
    assert result == unbroken
    assert any(words in line and "(1 of at most 1 times)" in line for line in lines)
    assert lineage.seen_once(tmp_path / "run") == {"starts": [0, 10], "computed_again": 3 * 24 + 12}


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs a mount, which is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_whole_and_a_torn_one_is_passed_over(
    table: str, unbroken: dict[str, Any], tmp_path: Path
) -> None:
    """The disk holds two checkpoints: the third finds no room. Then the second is torn, and there is room."""
    disk, checkpoints = tmp_path / "disk", tmp_path / "disk" / "checkpoints"
    spec = {"table": table, "folder": str(tmp_path / "run"), "checkpoints": str(checkpoints), "padding": 35_000}
    with small_disk(disk, "400k"):
        with pytest.raises(LaunchError, match=r"rank 0 of 2 failed: a checkpoint could not be written .*No space left"):
            launch(TRAIN, spec, ranks=2, restarts=1, timeout_s=200, env=ONE_THREAD)
        assert sorted(path.name for path in checkpoints.glob("*step-*")) == ["step-000000005", "step-000000010"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        torn = checkpoints / "step-000000010" / "tensors.safetensors"
        torn.write_bytes(torn.read_bytes()[:-5])
        assert launch(TRAIN, spec, ranks=2, timeout_s=200, env=ONE_THREAD) == unbroken
    assert lineage.seen_once(tmp_path / "run")["starts"] == [0, 5]


HOLD = """
import sys, time
from pathlib import Path
from training.state.lock import only_writer
with only_writer(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_and_a_dead_one_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(training.state.lock, "WAIT_S", 0.3)
        words = rf'one training at a time may write .* its lock is held by {{"process": {holder.pid}, "host": '
        with pytest.raises(CheckpointError, match=words), only_writer(tmp_path, pytest.fail):
            pytest.fail("two writers")
        monkeypatch.setattr(training.state.lock, "WAIT_S", 10.0)
    finally:
        holder.kill()
    with only_writer(tmp_path, pytest.fail):
        assert f'"process": {os.getpid()}' in (tmp_path / "writer.lock").read_text()
    with only_writer(tmp_path, pytest.fail):  # let go, so that the same process may come again
        pass
    holder.wait()


@pytest.mark.slow
def test_two_launches_into_one_folder_are_told_apart(table: str, tmp_path: Path) -> None:
    """The second comes while the first trains: it ends with an error, the first as if it were alone."""
    first = {"table": table, "folder": str(tmp_path / "run"), "step_s": 0.5}
    code = f"from cluster.launch import launch; launch({TRAIN!r}, {first!r}, ranks=2, timeout_s=200)"
    running = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **ONE_THREAD})
    lock = tmp_path / "run" / "checkpoints" / "writer.lock"
    deadline = time.monotonic() + 60
    while not lock.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = {"table": table, "folder": str(tmp_path / "second"), "checkpoints": str(lock.parent)}
    with pytest.raises(
        LaunchError, match="rank 0 of 2 failed: one training at a time may write into checkpoint folder"
    ):
        launch(TRAIN, second, ranks=2, restarts=1, timeout_s=100, env=ONE_THREAD)
    assert running.wait(timeout=100) == 0
    assert lineage.seen_once(tmp_path / "run") == {"starts": [0], "computed_again": 0}


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, flags: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(training.state.lock.fcntl, "flock", no_locks)
    said: list[str] = []
    with only_writer(tmp_path, said.append):
        assert len(said) == 1
    assert "has no locks ([Errno 38] Function not implemented): see that no other training writes" in said[0]


def test_a_folder_removed_meanwhile_is_locked_anew(tmp_path: Path) -> None:
    """Whoever waited must not hold the lock of a file that is gone while a third makes a new one."""
    folder = tmp_path / "checkpoints"
    with only_writer(folder, pytest.fail):
        (folder / "writer.lock").unlink()
        with only_writer(folder, pytest.fail):
            assert (folder / "writer.lock").exists()
