"""Finding a checkpoint that every rank finds whole, and that is of this training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from training.errors import CheckpointError
from training.files import damage
from training.shard_files import ShardReader, shard_name
from training.world import World

FORMAT = 1
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"


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


@dataclass(frozen=True)
class Search:
    """Looks at checkpoints of a folder; its calls are collectives.

    Attributes:
        directory: the folder.
        identity: JSON dict of what must be equal for a checkpoint to fit.
        say: gets a line when a checkpoint cannot be used, on rank 0.
        world: the ranks.
    """

    directory: Path
    identity: Mapping[str, Any]
    say: Callable[[str], None]
    world: World

    def first_whole(self, names: list[str]) -> Found | None:
        """The first of rank 0's names that every rank finds whole; those passed over are said aloud.

        Raises:
            CheckpointError: it was made by another training.
        """
        for name in self.world.broadcast_object(names):
            try:
                return self._load(self.directory / name)
            except _DamagedError as found:
                if self.world.rank == 0:
                    self.say(f"checkpoint '{self.directory / name}' is damaged ({found}) and is passed over")
        return None

    def _load(self, folder: Path) -> Found:
        """Rank 0 looks at the description, and all ranks at the files, each at its share; they agree on the outcome."""
        meta, problem = self._read_on_first(folder)
        self._agree(problem)
        rank, ranks = self.world.rank, self.world.size
        mine = [shard_name(number, meta["shards"]) for number in range(rank, meta["shards"], ranks)]
        mine += [TENSORS_FILE] if rank == 0 else []
        self._agree(next(filter(None, (damage(folder / name, meta["files"][name]) for name in mine)), None))
        shards = ShardReader(folder, meta["shards"], rank, ranks) if meta["shards"] else None
        return Found(meta["step"], meta["progress"], load_file(folder / TENSORS_FILE) if rank == 0 else {}, shards)

    def _read_on_first(self, folder: Path) -> tuple[dict[str, Any], str | None]:
        """What state.json says, on every rank, or what is wrong with it."""
        meta: dict[str, Any] = {}
        problem = None
        if self.world.rank == 0:
            try:
                meta = _read_state(folder)
                self._check_identity(folder, meta["identity"])
            except _DamagedError as found:
                problem = str(found)
        return self.world.broadcast_object(meta), problem

    def _agree(self, problem: str | None) -> None:
        """Go on together.

        Raises:
            _DamagedError: on every rank, where any has a problem.
        """
        problems = [one for one in self.world.all_gather_object(problem) if one]
        if problems:
            raise _DamagedError(problems[0])

    def _check_identity(self, folder: Path, identity: Mapping[str, Any]) -> None:
        different = list(_differences(identity, self.identity))
        if different:
            raise CheckpointError(
                f"checkpoint '{folder}' is of another training: {'; '.join(different)}. Go back to its settings and "
                "table version, or give this training another checkpoint folder"
            )


class _DamagedError(Exception):
    """A checkpoint is not whole."""


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / STATE_FILE).read_text())
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


def _differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """`key: it has X, this training Y` for each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{place}.{key}" if place else str(key))
    elif theirs != ours:
        yield f"{place} is {theirs!r} there and {ours!r} here"
