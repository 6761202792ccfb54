"""A checkpoint's shard files: each rank writes its rows of the sharded tables, and reads them back at any world size.

    step-000000120/
      shard-00000-of-00002.safetensors   rows 0, 2, 4, ... of each sharded table and of its optimizer state
      shard-00001-of-00002.safetensors   rows 1, 3, 5, ...

Ranks meet in the folder itself, so that all of this stays beside the training: a rank leaves a note beside its file,
and the rank that renames the folder waits for the notes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from training.state.files import Streamed, Written, write_tensors
from training.state.json_files import read_json, write_json
from training.tables.rows import overlaps, rows_held

PEER_S = 600.0  # how long another rank's file is waited for while it does not grow
_POLL_S = 0.02


def shard_name(rank: int, ranks: int) -> str:
    return f"shard-{rank:05d}-of-{ranks:05d}.safetensors"


def write_shard(folder: Path, rank: int, ranks: int, tensors: Mapping[str, Streamed]) -> None:
    """Write this rank's rows into a checkpoint's folder, and a note that says so.

    Raises:
        OSError: no room, or no folder.
    """
    folder.mkdir(exist_ok=True)
    path = folder / shard_name(rank, ranks)
    write_json(_note(path), asdict(write_tensors(path, tensors)))


def give_up_shard(folder: Path, rank: int, ranks: int) -> None:
    """Remove what this rank wrote and leave an empty note, so that nobody waits for its file."""
    path = folder / shard_name(rank, ranks)
    path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder is gone: the first rank has given up too
        _note(path).touch()


def collect_shards(folder: Path, ranks: int, given_up: threading.Event) -> dict[str, Written]:
    """Wait until every rank has written its file; returns them by name, and takes the notes away.

    Raises:
        OSError: a rank could not write its file, or it did not come, or `given_up` was set: the training has ended
            without it.
        ArtefactError: a rank's note is torn.
    """
    files = {}
    for rank in range(ranks):
        path = folder / shard_name(rank, ranks)
        _wait_for(path, rank, given_up)
        if not _note(path).stat().st_size:
            raise OSError(f"rank {rank} could not write {path.name}")
        files[path.name] = read_json(_note(path), Written)
    for name in files:
        _note(folder / name).unlink()
    return files


def _wait_for(path: Path, rank: int, given_up: threading.Event) -> None:
    """Return when a rank has written its file, however long that takes, so long as the file grows."""
    size, grown = -1, time.monotonic()
    while not _note(path).exists():
        now = path.stat().st_size if path.exists() else -1
        if now != size:
            size, grown = now, time.monotonic()
        if time.monotonic() > grown + PEER_S or given_up.wait(_POLL_S):
            raise OSError(f"{path.name} of rank {rank} did not grow for {PEER_S:g} s, or the training ended")


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


class ShardReader:
    """The rows of one rank out of a checkpoint's shard files, which another number of ranks may have written.

    Files are mapped into memory, and only the rows asked for are copied.

    Args:
        folder: of the checkpoint.
        written_by: how many ranks wrote it.
        rank: whose rows are wanted.
        ranks: over how many they are dealt out now.
    """

    def __init__(self, folder: Path, written_by: int, rank: int, ranks: int) -> None:
        self._files = [folder / shard_name(number, written_by) for number in range(written_by)]
        self._rank, self._ranks = rank, ranks

    def names(self) -> list[str]:
        with safe_open(self._files[0], framework="pt") as file:
            return sorted(file.keys())

    def copy_into(self, name: str, held: Tensor) -> None:
        """Fill `held` with this rank's rows of a tensor."""
        held = held.detach()
        for number, mine, theirs in overlaps(self._rank, self._ranks, len(self._files)):
            with safe_open(self._files[number], framework="pt") as file:
                held[mine] = file.get_tensor(name)[theirs].to(held.device)

    def read(self, name: str) -> Tensor:
        """This rank's rows of a tensor."""
        rows, *width = self.shape(name)
        with safe_open(self._files[0], framework="pt") as file:
            dtype = file.get_tensor(name).dtype
        tensor = torch.empty(rows_held(rows, self._rank, self._ranks), *width, dtype=dtype)
        self.copy_into(name, tensor)
        return tensor

    def shape(self, name: str) -> list[int]:
        """Of the whole tensor, all ranks' rows together."""
        shapes = []
        for path in self._files:
            with safe_open(path, framework="pt") as file:
                shapes.append(file.get_slice(name).get_shape())
        return [sum(shape[0] for shape in shapes), *shapes[0][1:]]
