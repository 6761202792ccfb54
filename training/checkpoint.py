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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from training.errors import CheckpointError
from training.files import damage, describe, sync_to_disk, write_json, write_tensors
from training.frozen_rows import FrozenRows
from training.shard_files import ShardReader, collect_shards, shard_name, write_shard
from training.world import World

FORMAT = 1
_TENSORS = "tensors.safetensors"


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


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found whole.

    Attributes:
        step: optimizer steps done.
        progress: where the training stood.
        tensors: what is the same on all ranks; on rank 0, none elsewhere.
        shards: reads this rank's rows of the sharded tables; None where none were sharded.
    """

    step: int
    progress: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    shards: ShardReader | None


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
        self._identity = json.loads(json.dumps(identity))
        self._keep, self._say = keep, say
        self._writer: threading.Thread | None = None
        self._frozen: FrozenRows | None = None
        self._failure: OSError | None = None
        self._given_up = threading.Event()
        self._world = world or World()
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
        path = scratch / _TENSORS
        write_tensors(path, state.tensors)
        shards = collect_shards(scratch, self._world.size, self._given_up) if sharded else {}
        write_json(
            scratch / "state.json",
            {
                "format": FORMAT,
                "step": state.step,
                "progress": state.progress,
                "identity": self._identity,
                "files": {_TENSORS: describe(path), **shards},
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
        return self._first_whole(self._names())

    def load_best(self) -> Found | None:
        """The checkpoint that was saved as best, or None where none was or it is damaged (said aloud)."""
        self.wait()
        best = self._best_name()
        return self._first_whole([best] if best else [])

    def _first_whole(self, names: list[str]) -> Found | None:
        """The first of rank 0's names that every rank finds whole."""
        for name in self._world.broadcast_object(names):
            try:
                return self._load(self.directory / name)
            except _DamagedError as found:
                if self._world.rank == 0:
                    self._say(f"checkpoint '{self.directory / name}' is damaged ({found}) and is passed over")
        return None

    def _load(self, folder: Path) -> Found:
        """Rank 0 looks at the description, and all ranks at the files, each at its share; they agree on the outcome."""
        meta, problem = self._read_on_first(folder)
        self._agree(problem)
        rank, ranks = self._world.rank, self._world.size
        mine = [shard_name(number, meta["shards"]) for number in range(rank, meta["shards"], ranks)]
        mine += [_TENSORS] if rank == 0 else []
        self._agree(next(filter(None, (damage(folder / name, meta["files"][name]) for name in mine)), None))
        shards = ShardReader(folder, meta["shards"], rank, ranks) if meta["shards"] else None
        return Found(meta["step"], meta["progress"], load_file(folder / _TENSORS) if rank == 0 else {}, shards)

    def _read_on_first(self, folder: Path) -> tuple[dict[str, Any], str | None]:
        """What state.json says, on every rank, or what is wrong with it."""
        meta: dict[str, Any] = {}
        problem = None
        if self._world.rank == 0:
            try:
                meta = _read_state(folder)
                self._check_identity(folder, meta["identity"])
            except _DamagedError as found:
                problem = str(found)
        return self._world.broadcast_object(meta), problem

    def _agree(self, problem: str | None) -> None:
        """Go on together.

        Raises:
            _DamagedError: on every rank, where any has a problem.
        """
        problems = [one for one in self._world.all_gather_object(problem) if one]
        if problems:
            raise _DamagedError(problems[0])

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
    return {"shards": 0, **meta}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """`key: it has X, this training Y` for each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{place}.{key}" if place else str(key))
    elif theirs != ours:
        yield f"{place} is {theirs!r} there and {ours!r} here"
