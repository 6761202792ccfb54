"""Checkpoints: private, resumable, atomic. JSON beside safetensors, never pickle.

checkpoints/
  step-000000120/        the name is given by a rename, so what has this name was written whole, by every rank
    state.json           where the training stood, its best step, what it was (identity), sizes and SHA-256 of the other
                         files, and its own
    tensors.safetensors  model/... and optimizer/...
    shard-...            a file of each rank, with its rows of the sharded tables (training/state/shards.py)
  .partial-...           being written, or being removed
  .replaced-...          the same step's older checkpoint, until the newer has its name
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from training.errors import CheckpointError
from training.state.files import remove, replace_folder, write_tensors
from training.state.frozen_rows import FrozenRows
from training.state.json_files import write_json
from training.state.progress import Progress
from training.state.search import FORMAT, STATE_FILE, TENSORS_FILE, Found, Search, checkpoint_name
from training.state.shards import collect_shards, give_up_shard, write_shard
from training.world import World

_ASIDE, _PARTIAL = ".replaced-", ".partial-"


@dataclass(frozen=True)
class State:
    """All that a training needs to go on as if it had never stopped.

    Attributes:
        progress: step, epoch, the loader's position, sums and metrics so far.
        tensors: the model's and the optimizers', by name: what is the same on all ranks.
        shards: this rank's rows of sharded tables and of their optimizers' state, by table and by name.
    """

    progress: Progress
    tensors: Mapping[str, Tensor]
    shards: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class Checkpoints:
    """A folder of checkpoints. Rank 0 writes what is the same on all ranks, and each rank its rows of sharded tables.

    `save` copies the tensors and returns; a thread writes them while the training goes on. Shards are not copied: rows
    that are about to change while they are being written must be named to `before_update`. A write that failed is
    raised by the next `save` or by `wait`, on all ranks. Every rank makes one and makes the same calls: they are
    collectives, in which no rank's disk work counts as a hang (`World.on_each`).

    Args:
        directory: made where it does not exist; must allow atomic renames (a local or POSIX network file system), and
            be the same folder on all ranks where tables are sharded.
        identity: JSON dict of what must be equal for a checkpoint to fit: settings, model, schema, snapshot.
        keep: how many of the newest are kept; the best one is kept besides. Damaged ones do not count.
        say: gets a line when a checkpoint cannot be used, or an old one not be removed, on rank 0.
        world: the ranks.

    Raises:
        CheckpointError: nothing can be written there.
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
        self._failure: Exception | None = None
        self._left: str | None = None
        self._say = say
        self._given_up = threading.Event()
        self._world = world or World()
        self._search = Search(self.directory, json.loads(json.dumps(identity)), say, self._world)
        self._damaged: set[str] = set()
        self._saves = 0
        self._run = self._world.on_first("clearing the checkpoint folder", self._clear)

    def _clear(self) -> str:
        """Finish what a killed writer left; returns this run's name: a rank of a dead run writes into none of ours.

        What will not go is said, as in the midst of a training, for nothing depends on it.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for aside in list(self.directory.glob(f"{_ASIDE}*")):
                target = self.directory / aside.name.removeprefix(_ASIDE)
                if not target.exists():
                    aside.rename(target)
            for rest in [*self.directory.glob(f"{_ASIDE}*"), *self.directory.glob(f"{_PARTIAL}*")]:
                if left := self._drop(rest):
                    self._say(left)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint folder '{self.directory}' must be a folder to write to: {error}; remove what is in the "
                "way, or choose another folder"
            ) from error
        return uuid.uuid4().hex[:8]

    def save(self, state: State) -> None:
        """Write a checkpoint beside the training; waits where the one before is still being written.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        self._saves += 1
        tensors = _copies(state.tensors) if self._world.rank == 0 else {}
        copied = State(Progress(**json.loads(json.dumps(state.progress.to_json()))), tensors)
        self._frozen = FrozenRows(state.shards)
        self._writer = threading.Thread(target=self._write_in_thread, args=(copied,), name="checkpoint")
        self._writer.start()

    def before_update(self, rows: Mapping[str, Tensor]) -> None:
        """Name the rows of sharded tables that the next update changes, by table, before it does."""
        if self._frozen is not None:
            self._frozen.before_update(rows)

    def wait(self) -> None:
        """Return when no rank is writing anything.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        failures = [failure for failure in self._world.on_each("writing a checkpoint", self._finish) if failure]
        failure, self._failure = self._failure, None
        left, self._left = self._left, None
        if left:
            self._say(left)
        if failures:
            problem = CheckpointError(
                f"a checkpoint could not be written to '{self.directory}': {'; '.join(failures)}; the one before is "
                "whole. Make room there, or choose another checkpoint folder, and start again"
            )
            problem.lost_peer = failure is None
            raise problem from failure

    def _finish(self) -> str | None:
        """Wait for this rank's writer; returns why it failed, if it did."""
        if self._writer is not None:
            self._writer.join()
            self._writer = self._frozen = None
        return str(self._failure) if self._failure is not None else None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        """Return when nothing is being written, whether it could be or not; other ranks' files are not waited for."""
        self._given_up.set()
        if self._writer is not None:
            self._writer.join()

    def _write_in_thread(self, state: State) -> None:
        name = checkpoint_name(state.progress.step)
        scratch = self.directory / f"{_PARTIAL}{name}-{self._run}-{self._saves}"
        try:
            self._write(state, name, scratch)
        except Exception as error:  # whatever it is, the training must hear of it: `wait` raises it
            self._failure = error
            self._make_room(scratch)

    def _make_room(self, scratch: Path) -> None:
        """A full disk needs what was half written; the other ranks may still be writing theirs."""
        if self._world.rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            give_up_shard(scratch, self._world.rank, self._world.size)

    def _write(self, state: State, name: str, scratch: Path) -> None:
        shards = self._frozen.streams() if self._frozen else {}
        if shards:
            write_shard(scratch, self._world.rank, self._world.size, shards)
        if self._world.rank == 0:
            self._write_shared(scratch, state, sharded=bool(shards))
            aside = self.directory / f"{_ASIDE}{name}"
            replace_folder(scratch, self.directory / name, aside)
            self._damaged.discard(name)
            self._tidy(aside, state.progress)

    def _tidy(self, aside: Path, progress: Progress) -> None:
        """Remove what is no longer kept. The checkpoint is whole by now, so what will not go is only said."""
        try:
            left = [self._drop(path) for path in (aside, *self._old(progress)) if path.exists()]
        except OSError as error:  # the folder cannot be listed
            left = [self._keeps(error)]
        self._left = next(filter(None, left), None)

    def _drop(self, path: Path) -> str | None:
        """Remove what has this name; returns why it is still there.

        What is left of a checkpoint, after a kill or where it will not go, has no checkpoint's name.
        """
        try:
            doomed = path
            if not path.name.startswith(_PARTIAL):
                doomed = self.directory / f"{_PARTIAL}{path.name.lstrip('.')}-dropped-{uuid.uuid4().hex[:8]}"
                path.rename(doomed)
            remove(doomed)
        except OSError as error:
            return self._keeps(error)
        return None

    def _keeps(self, error: OSError) -> str:
        return f"checkpoint folder '{self.directory}' keeps what it should not: {error}"

    def _write_shared(self, scratch: Path, state: State, *, sharded: bool) -> None:
        """What is the same on all ranks, and, once every rank has written its own, the description of it all."""
        scratch.mkdir(exist_ok=True)
        tensors = write_tensors(scratch / TENSORS_FILE, state.tensors)
        shards = collect_shards(scratch, self._world.size, self._given_up) if sharded else {}
        write_json(
            scratch / STATE_FILE,
            {
                "format": FORMAT,
                "step": state.progress.step,
                "progress": state.progress.to_json(),
                "identity": self._search.identity,
                "files": {name: asdict(written) for name, written in {TENSORS_FILE: tensors, **shards}.items()},
                "shards": len(shards),
            },
        )

    def _names(self) -> list[str]:
        """Checkpoints, newest first."""
        names = [path.name for path in self.directory.glob("step-*") if re.fullmatch(r"step-\d{9,}", path.name)]
        return sorted(names, key=_step, reverse=True)

    def _old(self, progress: Progress) -> list[Path]:
        """What lies behind the checkpoint just written and is no longer kept.

        One of a later step was passed over as damaged. It stays until the training has come past it, for a disk may
        give back tomorrow what it refused today.
        """
        behind = [name for name in self._names() if _step(name) <= progress.step]
        kept = [name for name in behind if name not in self._damaged][: self._keep]
        gone = [name for name in behind if name not in kept and _step(name) != progress.best_step]
        return [self.directory / name for name in gone]

    def load_latest(self) -> Found | None:
        """The newest whole checkpoint, or None where there is none; skipped ones are said aloud.

        Raises:
            CheckpointError: the newest whole one was made by another training.
        """
        names = self._names()
        found = self._search.first_whole(names)
        self._damaged = {name for name in names if found is None or _step(name) > found.progress.step}
        return found

    def load_step(self, step: int) -> Found | None:
        """The checkpoint of a step, or None where it is damaged or gone (said aloud)."""
        self.wait()
        return self._search.first_whole([checkpoint_name(step)])


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
