"""Checkpoints: whole or not there, checked, and of this training."""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import CheckpointError
from training.state import json_files
from training.state.checkpoint import Checkpoints, State
from training.state.files import sha256
from training.state.lock import only_writer
from training.state.progress import Progress
from training.state.resume import pack, unpack
from training.watch.record import RECORD, Event, Record, read_record

IDENTITY = {"settings": {"seed": 1}, "schema": "abc"}


def _open(folder: Path, said: list[str] | None = None, **changes: Any) -> Checkpoints:
    say = said.append if said is not None else pytest.fail
    return Checkpoints(folder, **{"identity": IDENTITY, "keep": 2, "say": say, **changes})


def _state(step: int, best: int | None = None) -> State:
    progress = Progress(step=step, epoch=step // 10, loader={"position": step})
    if best is not None:
        progress.best = {"epoch": 0, "step": best, "loss": 0.5}
        progress.history = [progress.best]
    return State(progress, {"model/w": torch.full((3, 2), float(step))})


def _saved(folder: Path, *steps: int, **changes: Any) -> None:
    checkpoints = _open(folder, **changes)
    for step in steps:
        checkpoints.save(_state(step))
    checkpoints.wait()


def _latest(folder: Path, said: list[str] | None = None) -> int | None:
    found = _open(folder, said).load_latest()
    return found.progress.step if found else None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = _open(tmp_path / "new", said)
    assert checkpoints.load_latest() is None
    assert said == []
    assert checkpoints.load_step(3) is None
    assert "step-000000003" in said[0]


def test_the_newest_comes_back(tmp_path: Path) -> None:
    _saved(tmp_path, 5, 12)
    found = _open(tmp_path).load_latest()
    assert found is not None
    assert found.progress == Progress(step=12, epoch=1, loader={"position": 12})
    assert torch.equal(found.tensors["model/w"], torch.full((3, 2), 12.0))


def test_saving_copies_before_it_returns(tmp_path: Path) -> None:
    checkpoints, tensor, progress = _open(tmp_path), torch.ones(2), Progress(step=1, loader={"position": 2})
    checkpoints.save(State(progress, {"w": tensor, "same memory": tensor[:1]}))
    tensor.zero_()
    progress.epoch, progress.loader = 9, None
    checkpoints.wait()
    found = checkpoints.load_latest()
    assert found is not None
    assert found.progress == Progress(step=1, loader={"position": 2})
    assert found.tensors["w"].tolist() == [1.0, 1.0]


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = _open(tmp_path)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(_state(step, best=min(step, 2)))
    checkpoints.wait()
    assert _names(tmp_path) == ["step-000000002", "step-000000004", "step-000000005"]
    best = checkpoints.load_step(2)
    assert best is not None
    assert best.progress.best_step == 2
    assert best.tensors["model/w"][0, 0] == 2.0


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_are_not_counted_among_the_kept(tmp_path: Path, keep: int) -> None:
    """A training that passed a damaged one over, and saves behind it, at it, and past it."""
    _saved(tmp_path, 3, 7, 9)
    for step in (7, 9):
        _cut(tmp_path / f"step-00000000{step}" / "state.json")
    said: list[str] = []
    checkpoints = _open(tmp_path, said, keep=keep)
    assert checkpoints.load_latest() is None
    assert len(said) == 2
    whole = []
    for step in (4, 5, 8, 9, 10):
        checkpoints.save(_state(step))
        checkpoints.wait()
        whole.append(step)
        ahead = [damaged for damaged in (7, 9) if damaged > step]
        assert _names(tmp_path) == sorted(f"step-{name:09d}" for name in [*whole[-keep:], *ahead])
    assert _latest(tmp_path) == 10


def test_a_kill_between_two_names_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same step is saved again, and the writer dies before the new one, or the old one's remains, are in place."""
    _saved(tmp_path, 4, keep=1)
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path.name.startswith(".partial"):
            raise SystemExit  # which ends a thread without a word
        return rename(path, target)

    checkpoints = _open(tmp_path, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        checkpoints.save(_state(4))
        checkpoints.wait()
    assert not (tmp_path / "step-000000004").exists()
    assert _latest(tmp_path) == 4
    assert _names(tmp_path) == ["step-000000004"]
    shutil.copytree(tmp_path / "step-000000004", tmp_path / ".replaced-step-000000004")
    assert _latest(tmp_path) == 4
    assert _names(tmp_path) == ["step-000000004"]


def test_an_old_one_that_will_not_go_is_said_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    checkpoints = _open(tmp_path, said, keep=1)
    checkpoints.save(_state(1))
    checkpoints.wait()

    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr("training.state.checkpoint.remove", busy)
    checkpoints.save(_state(2))
    checkpoints.wait()
    monkeypatch.undo()
    assert len(said) == 1
    kept = r"keeps what it should not: .*Device or resource busy: '.*\.partial-step-000000001-dropped-[0-9a-f]{8}'"
    assert re.search(kept, said[0])
    assert _latest(tmp_path) == 2


def test_a_remnant_that_will_not_go_is_said_at_the_start_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said in the midst of a training does not end the next one, which saves the same step again."""
    _saved(tmp_path, 4)
    shutil.copytree(tmp_path / "step-000000004", tmp_path / ".replaced-step-000000004")
    (tmp_path / ".partial-step-000000003-dropped-0").mkdir()

    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("training.state.checkpoint.remove", busy)
        assert _latest(tmp_path, said) == 4
        assert [line.split(": ")[1] for line in said] == ["[Errno 16] Device or resource busy"] * 2
        checkpoints = _open(tmp_path, said)
        checkpoints.save(_state(4))
        checkpoints.wait()
    assert _latest(tmp_path) == 4
    assert _names(tmp_path) == ["step-000000004"]


def test_a_checkpoint_that_cannot_have_its_name_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _saved(tmp_path, 4)
    (tmp_path / "step-000000004").rename(tmp_path / ".replaced-step-000000004")

    def refused(path: Path, target: Path) -> Path:
        raise OSError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(CheckpointError, match=r"must be a folder to write to: .*denied: '.*\.replaced-step-000000004'"):
        _open(tmp_path)


def test_a_checkpoint_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename, flush = Path.rename, json_files.sync_to_disk

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return rename(path, target)

    def flushed(path: Path) -> None:
        done.append("flush " + ("entries" if path.name.startswith(".partial") else path.name))
        flush(path)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr("training.state.files.sync_to_disk", flushed)
    _saved(tmp_path / "kept", 4)
    assert done == ["flush entries", "name step-000000004", "flush kept"]


def test_a_writer_that_dies_of_anything_is_said(tmp_path: Path) -> None:
    checkpoints = _open(tmp_path)
    checkpoints.save(State(Progress(step=1), {"w": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(CheckpointError, match=r"could not be written to .*complex64"):
        checkpoints.wait()
    assert _names(tmp_path) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _edited(*keys: str, value: Any = None, drop: bool = False, seal: bool = True) -> Callable[[Path], None]:
    """Changes a value of state.json; with `seal` as a format without checksum would have it."""

    def edit(path: Path) -> None:
        state = json.loads(path.read_text())
        if seal:
            state["format"] = 1
            del state["checksum"]
        held = state
        for key in keys[:-1]:
            held = held[key]
        if drop:
            del held[keys[-1]]
        else:
            held[keys[-1]] = value
        path.write_text(json.dumps(state))

    return edit


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("tensors.safetensors", _cut, "bytes instead of"),
        ("tensors.safetensors", _flip, "does not have the SHA-256"),
        ("tensors.safetensors", Path.unlink, "tensors.safetensors cannot be read: No such file"),
        ("state.json", _cut, "state.json' must be JSON"),
        ("state.json", Path.unlink, "state.json' must be a file that can be read"),
        ("state.json", lambda path: path.write_text("{}"), "format: Field required"),
        ("state.json", lambda path: path.write_text("[]"), "should be an object"),
        ("state.json", lambda path: path.write_bytes(b"\xff\x00"), "state.json' must be JSON"),
        ("state.json", _edited("progress", "epoch", value=7, seal=False), "it was changed after it was written"),
        ("state.json", _edited("checksum", drop=True, seal=False), "has no checksum"),
        ("state.json", _edited("files", drop=True), "files: Field required"),
        ("state.json", _edited("files", value=None), "files: Input should be"),
        ("state.json", _edited("files", value={}), "it names []"),
        ("state.json", _edited("files", "tensors.safetensors", value="x"), "files.tensors.safetensors: Input should"),
        (
            "state.json",
            _edited("files", "tensors.safetensors", "bytes", value="1"),
            "bytes: Input should be a valid int",
        ),
        ("state.json", _edited("shards", value=None), "shards: Input should be"),
        ("state.json", _edited("shards", value=2), "2 shard(s)"),
        ("state.json", _edited("shards", value=10**12), "1000000000000 shard(s)"),
        ("state.json", _edited("step", value=3), "is of step 3, its progress of step 2"),
        ("state.json", _edited("progress", drop=True), "progress: Field required"),
        ("state.json", _edited("progress", value=None), "progress: Input should be"),
        ("state.json", _edited("progress", value={}), "['best', 'epoch', 'epoch_loss'"),
        ("state.json", _edited("progress", "epoch", value="1"), "epoch: Input should be a valid integer"),
        ("state.json", _edited("progress", "later", value=1), "['later'] differ"),
        ("state.json", _edited("progress", "history", value=[{"loss": 1.0}]), "must have epoch, loss, step"),
    ],
)
def test_a_damaged_one_is_passed_over_aloud(tmp_path: Path, file: str, damage: Any, words: str) -> None:
    _saved(tmp_path, 1, 2)
    damage(tmp_path / "step-000000002" / file)
    said: list[str] = []
    assert _latest(tmp_path, said) == 1
    assert len(said) == 1
    assert "step-000000002' is damaged" in said[0]
    assert words in said[0]


def test_one_that_a_disk_does_not_give_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _saved(tmp_path, 1, 2)

    def lost(path: Path) -> str:
        if path.parent.name == "step-000000002":
            raise OSError(5, "Input/output error", str(path))
        return sha256(path)

    monkeypatch.setattr("training.state.files.sha256", lost)
    said: list[str] = []
    assert _latest(tmp_path, said) == 1
    assert "is damaged (tensors.safetensors cannot be read: Input/output error)" in said[0]


def test_one_under_anothers_name_is_passed_over(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / "step-000000008")
    said: list[str] = []
    assert _latest(tmp_path, said) == 1
    assert "is of step 1" in said[0]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    _saved(tmp_path, 1)
    (tmp_path / ".partial-step-000000002").mkdir()
    (tmp_path / ".partial-step-000000002" / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / ".partial-a-file").write_bytes(b"half")
    assert _latest(tmp_path) == 1
    assert _names(tmp_path) == ["step-000000001"]


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoint folder '.*file' must be a folder to write to: .*exists"):
        _open(tmp_path / "file")
    with (
        pytest.raises(CheckpointError, match=r"'.*file' must be a folder to write to"),
        only_writer(tmp_path / "file", pytest.fail),
    ):
        pass
    (tmp_path / "run" / "writer.lock").mkdir(parents=True)
    with (
        pytest.raises(CheckpointError, match=r"with writer.lock a file in it: .*Is a directory"),
        only_writer(tmp_path / "run", pytest.fail),
    ):
        pass


def test_a_lock_holds_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it cannot be written then; it was held until the process ended, and so was never given back."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.state.lock.os.pwrite", full)
        with only_writer(tmp_path, pytest.fail):
            pass
    with only_writer(tmp_path, pytest.fail):
        assert "process" in json.loads((tmp_path / "writer.lock").read_text())


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
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="must have format 2, or 1; it has 99"):
        _open(tmp_path).load_latest()


def test_a_write_that_fails_is_raised_and_the_one_before_stays(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk."""
    _saved(tmp_path, 1)
    checkpoints = _open(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        checkpoints.save(State(Progress(step=2), {"w": torch.zeros(1_000_000)}))
        with pytest.raises(CheckpointError, match=r"could not be written to .* the one before is whole"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _latest(tmp_path) == 1


def test_a_run_record_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    record = Record(tmp_path, resumed_at=0, say=pytest.fail)
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"run record .* could not be written: .*No space left .*Make room"):
        record.add(Event("start", 0, 0, "start"), 0.0)


def test_damaged_lines_of_a_run_record_are_left_out_aloud(tmp_path: Path) -> None:
    record = Record(tmp_path, resumed_at=0, say=pytest.fail)
    for step in (1, 2, 3):
        record.add(Event("progress", step, 0, "x", {"loss": float("nan")}), 5.0)
    path = tmp_path / RECORD
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + third[:-9])
    assert [line["step"] for line in read_record(tmp_path)] == [1, 2]
    Record(tmp_path, resumed_at=3, say=pytest.fail)  # a torn last line is what a kill leaves
    bad = [b"\xff\xfe\n", b"[]\n", second.replace(b'"step"', b'"stop"'), b"null\n", second[:20] + b"\n"]
    path.write_bytes(first + b"".join(bad) + third)
    assert [line["step"] for line in read_record(tmp_path)] == [1, 3]
    said: list[str] = []
    Record(tmp_path, resumed_at=2, say=said.append)
    assert path.read_bytes() == first
    assert said == [f"5 line(s) of the run record '{path}' were damaged, and are left out"]


def test_packing_keeps_names_apart() -> None:
    model = torch.nn.Linear(2, 1)
    weights, optimizer = unpack(pack(model, {"adamw/weight/step": torch.ones(())}))
    assert sorted(weights) == ["bias", "weight"]
    assert sorted(optimizer) == ["adamw/weight/step"]
