"""Tensors written as a stream: safetensors without holding all of it in memory; and files checked against damage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

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


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Streamed]) -> None:
    """Write a safetensors file, the same bytes as safetensors' own `save_file`, and flush it to disk."""
    header, end = {}, 0
    for name in layout(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.shape.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            tensor = tensors[name]
            for piece in tensor.pieces() if isinstance(tensor, Streamed) else [tensor]:
                _write(file, piece)
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """A file's size and SHA-256, as they are kept beside it."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def damage(path: Path, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file that `describe` described, or None."""
    size = path.stat().st_size if path.exists() else -1
    if size != expected["bytes"]:
        return f"{path.name} has {size} bytes instead of {expected['bytes']}"
    if sha256(path) != expected["sha256"]:
        return f"{path.name} does not have the SHA-256 that was recorded when it was written"
    return None
