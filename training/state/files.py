"""Tensors written as a stream: safetensors without holding all of it in memory; and files checked against damage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.state.json_files import sync_to_disk

# safetensors' own names, in the order in which it lays tensors down: so a file has the same bytes whoever wrote it
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Written:
    """A file as it was written; kept beside it, as JSON."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Streamed:
    """A tensor that comes in pieces and is never held whole.

    Attributes:
        shape: of the whole.
        dtype: of the whole.
        pieces: gives its leading rows, then the next ones, to the end.
    """

    shape: torch.Size
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]


def layout(tensors: Mapping[str, Tensor | Streamed]) -> list[str]:
    """The names in the order in which `write_tensors` lays them down."""
    order = list(_TYPES)
    return sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Streamed]) -> Written:
    """Write a safetensors file, the same bytes as safetensors' own `save_file`, and flush it to disk.

    Returns:
        size and SHA-256, taken while it was written: what disks hold is not read again.
    """
    header, end = {}, 0
    for name in layout(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.shape.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for data in _bytes(len(text).to_bytes(8, "little") + text, (tensors[name] for name in header)):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return Written(file.tell(), digest.hexdigest())


def _bytes(head: bytes, tensors: Iterable[Tensor | Streamed]) -> Iterator[bytes | memoryview]:
    yield head
    for tensor in tensors:
        for piece in tensor.pieces() if isinstance(tensor, Streamed) else [tensor]:
            flat = piece.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(path: Path, expected: Written) -> str | None:
    """What is wrong with a file, or None where it is as it was written.

    Raises:
        OSError: it is there and cannot be read; it may be whole.
    """
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            return f"{path.name} has {size} bytes instead of {expected.bytes}"
        if sha256(path) != expected.sha256:
            return f"{path.name} does not have the SHA-256 that was recorded when it was written"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None


def remove(path: Path) -> None:
    """Remove what has this name, file or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(scratch: Path, target: Path, aside: Path) -> None:
    """Give a folder its name. What has the name stands aside until the new one has it, so a kill leaves one of both.

    Its entries are on the disk before its name is. What stands aside is for the caller to remove.
    """
    sync_to_disk(scratch)
    if target.exists():
        target.rename(aside)
    scratch.rename(target)
    sync_to_disk(target.parent)
