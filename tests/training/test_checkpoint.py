"""Checkpoints: whole or not there, checked, and of this training."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import Checkpoints, State
from training.errors import CheckpointError
from training.record import RECORD, Event, Record
from training.resume import pack, unpack

IDENTITY = {"settings": {"seed": 1}, "schema": "abc"}


def _open(folder: Path, said: list[str] | None = None, **changes: Any) -> Checkpoints:
    say = said.append if said is not None else pytest.fail
    return Checkpoints(folder, **{"identity": IDENTITY, "keep": 2, "say": say, **changes})


def _state(step: int) -> State:
    return State(
        step, {"epoch": step // 10, "loader": {"position": step}}, {"model/w": torch.full((3, 2), float(step))}
    )


def _saved(folder: Path, *steps: int) -> None:
    checkpoints = _open(folder)
    for step in steps:
        checkpoints.save(_state(step))
    checkpoints.wait()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    checkpoints = _open(tmp_path / "new")
    assert checkpoints.load_latest() is None
    assert checkpoints.load_best() is None


def test_the_newest_comes_back(tmp_path: Path) -> None:
    _saved(tmp_path, 5, 12)
    state = _open(tmp_path).load_latest()
    assert state is not None
    assert (state.step, state.progress) == (12, {"epoch": 1, "loader": {"position": 12}})
    assert torch.equal(state.tensors["model/w"], torch.full((3, 2), 12.0))


def test_saving_copies_before_it_returns(tmp_path: Path) -> None:
    checkpoints, tensor, progress = _open(tmp_path), torch.ones(2), {"epoch": 0}
    checkpoints.save(State(1, progress, {"w": tensor, "same memory": tensor[:1]}))
    tensor.zero_()
    progress["epoch"] = 9
    checkpoints.wait()
    state = checkpoints.load_latest()
    assert state is not None
    assert state.progress == {"epoch": 0}
    assert state.tensors["w"].tolist() == [1.0, 1.0]


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = _open(tmp_path)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(_state(step), best=step == 2)
    checkpoints.wait()
    assert _names(tmp_path) == ["best.json", "step-000000002", "step-000000004", "step-000000005"]
    best = checkpoints.load_best()
    assert best is not None
    assert best.step == 2


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("tensors.safetensors", _cut, "bytes instead of"),
        ("tensors.safetensors", _flip, "does not have the SHA-256"),
        ("tensors.safetensors", Path.unlink, "has -1 bytes"),
        ("state.json", _cut, "state.json cannot be read"),
        ("state.json", Path.unlink, "state.json cannot be read"),
        ("state.json", lambda path: path.write_text("{}"), "state.json is not complete"),
    ],
)
def test_a_damaged_one_is_passed_over_aloud(tmp_path: Path, file: str, damage: Any, words: str) -> None:
    _saved(tmp_path, 1, 2)
    damage(tmp_path / "step-000000002" / file)
    said: list[str] = []
    state = _open(tmp_path, said).load_latest()
    assert state is not None
    assert state.step == 1
    assert len(said) == 1
    assert "step-000000002" in said[0]
    assert words in said[0]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    (tmp_path / ".partial-step-000000002").mkdir()
    (tmp_path / ".partial-step-000000002" / "tensors.safetensors").write_bytes(b"half")
    state = _open(tmp_path).load_latest()
    assert state is not None
    assert state.step == 1
    assert _names(tmp_path) == ["step-000000001"]


def test_one_of_another_training_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    other = {"settings": {"seed": 2}, "schema": "abc", "model": "x"}
    with pytest.raises(
        CheckpointError, match=r"model is None there and 'x' here; settings\.seed is 1 there and 2 here"
    ):
        _open(tmp_path, identity=other).load_latest()


def test_one_of_another_format_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    path = tmp_path / "step-000000001" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="must have format 1; it has 99"):
        _open(tmp_path).load_latest()


def test_a_write_that_fails_is_raised_and_the_one_before_stays(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk."""
    _saved(tmp_path, 1)
    checkpoints = _open(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        checkpoints.save(State(2, {}, {"w": torch.zeros(1_000_000)}))
        with pytest.raises(CheckpointError, match=r"could not be written to .* the one before is whole"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    state = _open(tmp_path).load_latest()
    assert state is not None
    assert state.step == 1


def test_a_run_record_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    record = Record(tmp_path, resumed_at=0)
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"run record .* could not be written: .*No space left .*Make room"):
        record.add(Event("start", 0, 0, "start"), 0.0)


def test_packing_keeps_names_apart() -> None:
    model = torch.nn.Linear(2, 1)
    weights, optimizer = unpack(pack(model, {"adamw/weight/step": torch.ones(())}))
    assert sorted(weights) == ["bias", "weight"]
    assert sorted(optimizer) == ["adamw/weight/step"]
