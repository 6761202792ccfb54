"""Checkpoints: private, resumable, atomic. JSON beside safetensors, never pickle.

checkpoints/
  step-000000120/        the name is given by a rename, so what has this name was written whole
    state.json           where the training stood, what it was (identity), sizes and SHA-256 of the tensors' file
    tensors.safetensors  model/... and optimizer/...
  best.json              which of them the metric names best
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import CheckpointError

FORMAT = 1
_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class State:
    """All that a training needs to go on as if it had never stopped.

    Attributes:
        step: optimizer steps done.
        progress: JSON: epoch, the loader's position, sums and metrics so far.
        tensors: the model's and the optimizers', by name.
    """

    step: int
    progress: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Checkpoints:
    """A folder of checkpoints, written by one process.

    `save` copies the tensors and returns; a thread writes them while the training goes on. A write that failed is
    raised by the next `save` or by `wait`.

    Args:
        directory: made where it does not exist; must allow atomic renames (a local or POSIX network file system).
        identity: JSON dict of what must be equal for a checkpoint to fit: settings, model, schema, snapshot.
        keep: how many of the newest are kept; the best one is kept besides.
        say: gets a line when a checkpoint cannot be used.
    """

    def __init__(
        self, directory: Path | str, *, identity: Mapping[str, Any], keep: int, say: Callable[[str], None]
    ) -> None:
        self.directory = Path(directory)
        self._identity = json.loads(json.dumps(identity))
        self._keep, self._say = keep, say
        self._writer: threading.Thread | None = None
        self._failure: OSError | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        for torn in self.directory.glob(".partial-*"):
            shutil.rmtree(torn)

    def save(self, state: State, *, best: bool = False) -> None:
        """Write a checkpoint beside the training; waits where the one before is still being written.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.tensors.items()}
        copied = State(state.step, json.loads(json.dumps(state.progress)), tensors)
        self._writer = threading.Thread(target=self._write_in_thread, args=(copied, best), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise CheckpointError(
                f"a checkpoint could not be written to '{self.directory}': {failure}; the one before is whole. "
                "Make room there, or choose another checkpoint folder, and start again"
            ) from failure

    def _write_in_thread(self, state: State, best: bool) -> None:
        name = f"step-{state.step:09d}"
        scratch = self.directory / f".partial-{name}"
        try:
            self._write(state, best, name, scratch)
        except (OSError, SafetensorError) as error:  # the second is how safetensors reports a full disk
            self._failure = error if isinstance(error, OSError) else OSError(str(error))
            shutil.rmtree(scratch, ignore_errors=True)  # a full disk needs the room

    def _write(self, state: State, best: bool, name: str, scratch: Path) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        path = scratch / _TENSORS
        save_file(dict(state.tensors), path)
        sync_to_disk(path)
        write_json(
            scratch / "state.json",
            {
                "format": FORMAT,
                "step": state.step,
                "progress": state.progress,
                "identity": self._identity,
                "files": {_TENSORS: {"bytes": path.stat().st_size, "sha256": sha256(path)}},
            },
        )
        target = self.directory / name
        if target.exists():  # the same step, written again after a resume
            shutil.rmtree(target)
        scratch.rename(target)
        sync_to_disk(self.directory)
        if best:
            write_json(self.directory / "best.json", {"name": name})
        self._drop_old()

    def _names(self) -> list[str]:
        """Checkpoints, newest first."""
        return sorted((path.name for path in self.directory.glob("step-*")), reverse=True)

    def _best_name(self) -> str | None:
        path = self.directory / "best.json"
        return json.loads(path.read_text())["name"] if path.exists() else None

    def _drop_old(self) -> None:
        best = self._best_name()
        for name in self._names()[self._keep :]:
            if name != best:
                shutil.rmtree(self.directory / name)

    def load_latest(self) -> State | None:
        """The newest whole checkpoint, or None where there is none; skipped ones are said aloud.

        Raises:
            CheckpointError: the newest whole one was made by another training.
        """
        for state in self._whole(self._names()):
            return state
        return None

    def load_best(self) -> State | None:
        """The checkpoint that was saved as best, or None where none was or it is damaged (said aloud)."""
        self.wait()
        best = self._best_name()
        for state in self._whole([best] if best else []):
            return state
        return None

    def _whole(self, names: list[str]) -> Iterator[State]:
        for name in names:
            try:
                yield self._load(self.directory / name)
            except _DamagedError as damage:
                self._say(f"checkpoint '{self.directory / name}' is damaged ({damage}) and is passed over")

    def _load(self, folder: Path) -> State:
        meta = _read_state(folder)
        self._check_identity(folder, meta["identity"])
        path = folder / _TENSORS
        expected = meta["files"][_TENSORS]
        size = path.stat().st_size if path.exists() else -1
        if size != expected["bytes"]:
            raise _DamagedError(f"{_TENSORS} has {size} bytes instead of {expected['bytes']}")
        if sha256(path) != expected["sha256"]:
            raise _DamagedError(f"{_TENSORS} does not have the SHA-256 that state.json gives")
        return State(meta["step"], meta["progress"], load_file(path))

    def _check_identity(self, folder: Path, identity: Mapping[str, Any]) -> None:
        different = list(_differences(identity, self._identity))
        if different:
            raise CheckpointError(
                f"checkpoint '{folder}' is of another training: {'; '.join(different)}. Go back to its settings and "
                "table version, or give this training another checkpoint folder"
            )


class _DamagedError(Exception):
    """A checkpoint is not whole."""


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise _DamagedError(f"state.json cannot be read: {error}") from error
    if not isinstance(meta, dict) or not {"step", "progress", "identity", "files"} <= meta.keys():
        raise _DamagedError("state.json is not complete")
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint '{folder}' must have format {FORMAT}; it has {meta.get('format')!r}; "
            "go on with the version of Millrace that wrote it, or start in another folder"
        )
    return meta


def _differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """`key: it has X, this training Y` for each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{place}.{key}" if place else str(key))
    elif theirs != ours:
        yield f"{place} is {theirs!r} there and {ours!r} here"


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably: under another name, flushed to disk, renamed."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    sync_to_disk(scratch)
    scratch.replace(path)


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder's entries, so that they outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(model: torch.nn.Module, optimizer_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name space for a model's and its optimizers' tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    return tensors | {f"optimizer/{name}": tensor for name, tensor in optimizer_state.items()}


def unpack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's and the optimizers' tensors of `pack`."""
    model = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")}
    optimizer = {name[10:]: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")}
    return model, optimizer
