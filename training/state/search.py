"""Finding a checkpoint that every rank finds whole, and that is of this training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from training.errors import ArtefactError, CheckpointError
from training.state.files import Written, damage
from training.state.json_files import Format, read_json
from training.state.progress import Progress
from training.state.shards import ShardReader, shard_name
from training.world import World

FORMAT = 2  # 1 had no checksum in state.json
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"


def checkpoint_name(step: int) -> str:
    return f"step-{step:09d}"


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found whole.

    Attributes:
        progress: where the training stood.
        tensors: what is the same on all ranks; on rank 0, none elsewhere.
        shards: reads this rank's rows of the sharded tables; None where none were sharded.
    """

    progress: Progress
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
        """Rank 0 looks at the description, and all ranks at the files, each at its share; they agree on the outcome.

        Raises:
            _DamagedError: on every rank, where any finds damage.
        """
        rank, ranks = self.world.rank, self.world.size
        state = self.world.on_first("reading a checkpoint's state", lambda: self._described(folder))
        if "damage" in state:
            raise _DamagedError(state["damage"])
        files = {name: Written(**written) for name, written in state["files"].items()}
        mine = [shard_name(number, state["shards"]) for number in range(rank, state["shards"], ranks)]
        mine += [TENSORS_FILE] if rank == 0 else []
        found = self.world.on_each(
            "checking a checkpoint's files",
            lambda: next(filter(None, (_damage(folder / name, files[name]) for name in mine)), None),
        )
        if any(found):
            raise _DamagedError(next(filter(None, found)))
        shards = ShardReader(folder, state["shards"], rank, ranks) if state["shards"] else None
        tensors = load_file(folder / TENSORS_FILE) if rank == 0 else {}
        return Found(Progress(**state["progress"]), tensors, shards)

    def _described(self, folder: Path) -> dict[str, Any]:
        """What state.json says, or what is wrong with it."""
        try:
            state = _read_state(folder)
        except (ArtefactError, _DamagedError) as error:
            return {"damage": str(error)}
        self._check_identity(folder, state.identity)
        return asdict(state)

    def _check_identity(self, folder: Path, identity: Mapping[str, Any]) -> None:
        different = list(_differences(identity, self.identity))
        if different:
            raise CheckpointError(
                f"checkpoint '{folder}' is of another training: {'; '.join(different)}. Go back to its settings and "
                "table version, or give this training another checkpoint folder"
            )


class _DamagedError(Exception):
    """A checkpoint is not whole."""


def _damage(path: Path, written: Written) -> str | None:
    """What is wrong with a file; a disk that does not give its sectors back is no better than a torn file here."""
    try:
        return damage(path, written)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"


@dataclass(frozen=True)
class _State:
    """state.json; `training.state.checkpoint` writes it."""

    format: int
    step: int
    progress: dict[str, Any]
    identity: dict[str, Any]
    files: dict[str, Written]
    shards: Annotated[int, Field(ge=0)]
    checksum: str | None = None


def _read_state(folder: Path) -> _State:
    path = folder / STATE_FILE
    held = read_json(path, Format).format
    if held not in (1, FORMAT):
        raise CheckpointError(
            f"checkpoint '{folder}' must have format {FORMAT}, or 1; it has {held}; "
            "go on with the version of Millrace that wrote it, or start in another folder"
        )
    state = read_json(path, _State)
    progress = Progress.from_json(state.progress)
    if state.format == FORMAT and state.checksum is None:
        raise _DamagedError(f"'{path}' has no checksum")
    if not checkpoint_name(state.step) == checkpoint_name(progress.step) == folder.name:
        raise _DamagedError(f"'{path}' is of step {state.step}, its progress of step {progress.step}")
    if len(state.files) != state.shards + 1 or any(name not in state.files for name in _files(state.shards)):
        raise _DamagedError(f"'{path}' must name {TENSORS_FILE} and {state.shards} shard(s); it names {[*state.files]}")
    return state


def _files(shards: int) -> Iterator[str]:
    yield TENSORS_FILE
    yield from (shard_name(number, shards) for number in range(shards))


def _differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """`key: it has X, this training Y` for each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{place}.{key}" if place else str(key))
    elif theirs != ours:
        yield f"{place} is {theirs!r} there and {ours!r} here"
