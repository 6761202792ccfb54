"""Two trainings started together on one run folder: the second waits; one that cannot is refused in a sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jobs import train
from jobs.artefacts import LATEST, read_json
from jobs.command import guarded
from jobs.settings import load_settings
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from tests.jobs.test_replay import write_tables
from training.errors import CheckpointError
from training.state import lock
from training.state.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 1
PATIENCE_S = 150.0


def meet(folder: Path, me: str, number: int) -> None:
    """Wait until both processes are here."""
    (folder / f"{me}-{number}").touch()
    deadline = time.monotonic() + PATIENCE_S
    while len(list(folder.glob(f"*-{number}"))) < 2 and time.monotonic() < deadline:
        pass


def main(folder: str, me: str) -> None:
    """One of the two: train, in round after round, each in a run folder of its own that both share."""
    place = Path(folder)
    lock.WAIT_S = PATIENCE_S  # what a training takes on a machine that is busy
    TASKS["recommend"] = dataclasses.replace(TASKS["recommend"], learn="tests.jobs.test_replay:learn")
    for number in range(ROUNDS):
        run_dir = place / f"run {number}"
        flags = [f"tables.root={place}/tables", f"run_dir={run_dir}", "training.ranks=1"]
        settings = load_settings(None, flags)
        meet(place, me, number)
        guarded(partial(train.run, settings))


def both(folder: Path) -> None:
    """Run the two and see that both end well."""
    command = [sys.executable, "-c", "import sys; from tests.jobs.test_together import main; main(*sys.argv[1:])"]
    pair = [
        subprocess.Popen([*command, str(folder), me], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for me in ("first", "second")
    ]
    said = [process.communicate(timeout=5 * PATIENCE_S)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(said)


def test_two_trainings(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables")
    both(tmp_path)
    for number in range(ROUNDS):
        run_dir = tmp_path / f"run {number}"
        assert load_bundle(latest_bundle(str(run_dir))).name == read_json(run_dir, LATEST)["bundle"]
        assert len(list((run_dir / "bundles").iterdir())) == 1


def test_a_training_under_way_refuses_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    write_tables(tmp_path / "tables")
    settings = load_settings(None, [f"run_dir={tmp_path}", f"tables.root={tmp_path}/tables"])
    with (
        lock.only_writer(tmp_path, print, name=train.LOCK),
        pytest.raises(CheckpointError, match=rf"write into run folder '{tmp_path}'; its lock is held by .*process"),
    ):
        train.run(settings)
