"""Checkpoints: private, resumable, atomic. JSON beside safetensors, never pickle.

checkpoints/
  step-000000120/        the name is given by a rename, so what has this name was written whole, by every rank
    state.json           where the training stood, what it was (identity), sizes and SHA-256 of the other files
    tensors.safetensors  model/... and optimizer/...
    shard-...            a file of each rank, with its rows of the sharded tables (training/shard_files.py)
  best.json              which of them the metric names best
"""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from training.checkpoint_search import FORMAT, STATE_FILE, TENSORS_FILE, Found, Search
from training.errors import CheckpointError
from training.files import describe, write_tensors
from training.frozen_rows import FrozenRows
from training.json_files import sync_to_disk, write_json
from training.shard_files import collect_shards, shard_name, write_shard
from training.world import World


@dataclass(frozen=True)
class State:
    """All that a training needs to go on as if it had never stopped.

    Attributes:
        step: optimizer steps done.
        progress: JSON: epoch, the loader's position, sums and metrics so far.
        tensors: the model's and the optimizers', by name: what is the same on all ranks.
        shards: this rank's rows of sharded tables and of their optimizers' state, by table and by name.
    """

    step: int
    progress: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shards: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class Checkpoints:
    """A folder of checkpoints. Rank 0 writes what is the same on all ranks, and each rank its rows of sharded tables.

    `save` copies the tensors and returns; a thread writes them while the training goes on. Shards are not copied: rows
    that are about to change while they are being written must be named to `before_update`. A write that failed is
    raised by the next `save` or by `wait`. Every rank makes one and calls `save` at the same steps; loading is a
    collective.

    Args:
        directory: made where it does not exist; must allow atomic renames (a local or POSIX network file system), and
            be the same folder on all ranks where tables are sharded.
        identity: JSON dict of what must be equal for a checkpoint to fit: settings, model, schema, snapshot.
        keep: how many of the newest are kept; the best one is kept besides.
        say: gets a line when a checkpoint cannot be used, on rank 0.
        world: the ranks.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        identity: Mapping[str, Any],
        keep: int,
        say: Callable[[str], None],
        world: World | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._keep = keep
        self._writer: threading.Thread | None = None
        self._frozen: FrozenRows | None = None
        self._failure: OSError | None = None
        self._given_up = threading.Event()
        self._world = world or World()
        self._search = Search(self.directory, json.loads(json.dumps(identity)), say, self._world)
        self._saves = 0
        if self._world.rank == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            for torn in self.directory.glob(".partial-*"):
                shutil.rmtree(torn)
        self._run = self._world.broadcast_object(uuid.uuid4().hex[:8])  # a rank of a dead run writes into none of ours

    def save(self, state: State, *, best: bool = False) -> None:
        """Write a checkpoint beside the training; waits where the one before is still being written.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        self._saves += 1
        tensors = _copies(state.tensors) if self._world.rank == 0 else {}
        copied = State(state.step, json.loads(json.dumps(state.progress)), tensors)
        self._frozen = FrozenRows(state.shards)
        self._writer = threading.Thread(target=self._write_in_thread, args=(copied, best), name="checkpoint")
        self._writer.start()

    def before_update(self, rows: Mapping[str, Tensor]) -> None:
        """Name the rows of sharded tables that the next update changes, by table, before it does."""
        if self._frozen is not None:
            self._frozen.before_update(rows)

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = self._frozen = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise CheckpointError(
                f"a checkpoint could not be written to '{self.directory}': {failure}; the one before is whole. "
                "Make room there, or choose another checkpoint folder, and start again"
            ) from failure

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        """Return when nothing is being written, whether it could be or not; other ranks' files are not waited for."""
        self._given_up.set()
        if self._writer is not None:
            self._writer.join()

    def _write_in_thread(self, state: State, best: bool) -> None:
        name = f"step-{state.step:09d}"
        scratch = self.directory / f".partial-{name}-{self._run}-{self._saves}"
        try:
            self._write(state, best, name, scratch)
        except OSError as error:
            self._failure = error
            self._make_room(scratch)

    def _make_room(self, scratch: Path) -> None:
        """A full disk needs what was half written; the other ranks may still be writing theirs."""
        if self._world.rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            (scratch / shard_name(self._world.rank, self._world.size)).unlink(missing_ok=True)

    def _write(self, state: State, best: bool, name: str, scratch: Path) -> None:
        shards = self._frozen.streams() if self._frozen else {}
        if shards:
            write_shard(scratch, self._world.rank, self._world.size, shards)
        if self._world.rank == 0:
            self._write_shared(scratch, state, sharded=bool(shards))
            self._make_whole(scratch, name, best)

    def _write_shared(self, scratch: Path, state: State, *, sharded: bool) -> None:
        """What is the same on all ranks, and, once every rank has written its own, the description of it all."""
        scratch.mkdir(exist_ok=True)
        path = scratch / TENSORS_FILE
        write_tensors(path, state.tensors)
        shards = collect_shards(scratch, self._world.size, self._given_up) if sharded else {}
        write_json(
            scratch / STATE_FILE,
            {
                "format": FORMAT,
                "step": state.step,
                "progress": state.progress,
                "identity": self._search.identity,
                "files": {TENSORS_FILE: describe(path), **shards},
                "shards": len(shards),
            },
        )

    def _make_whole(self, scratch: Path, name: str, best: bool) -> None:
        """Give a checkpoint its name, and drop those that are no longer kept."""
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

    def load_latest(self) -> Found | None:
        """The newest whole checkpoint, or None where there is none; skipped ones are said aloud.

        Raises:
            CheckpointError: the newest whole one was made by another training.
        """
        return self._search.first_whole(self._names())

    def load_best(self) -> Found | None:
        """The checkpoint that was saved as best, or None where none was or it is damaged (said aloud)."""
        self.wait()
        best = self._best_name()
        return self._search.first_whole([best] if best else [])


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
