"""JSON files that outlive a power cut, and the one checked way to read them. Knows no torch.

    @dataclass(frozen=True)
    class Latest:                      # the shape: what the file must hold, and of which types
        bundle: str
        summary: dict[str, Any]
        seconds: float = 0.0           # may be missing

    write_json(path, {"bundle": "two_tower-3f9c0a1b22d4", "summary": {}})
    latest = read_json(path, Latest)   # a Latest; or an ArtefactError that names the file and what is wrong with it

A shape is a frozen dataclass, or any type that pydantic knows, as `dict[str, Any]`. Types are strict: "3" is no 3. Keys
that a dataclass does not name are left out. Whoever reads knows the remedy, and adds it to the error.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from training.errors import ArtefactError

Shape = TypeVar("Shape")

CHECKSUM = "checksum"  # the key of an object's SHA-256, over all of its other keys
_SHOWN = 3  # problems of a file that are named
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


@dataclass(frozen=True)
class Format:
    """The one field that every version of a described artefact has: looked at first, before the rest is read."""

    format: int


def write_json(path: Path, value: Any) -> None:
    """Write JSON durably: under a name of its own, flushed to disk, renamed. An object gets its checksum besides."""
    plain = json.loads(json.dumps(value))
    sealed = {**plain, CHECKSUM: _checksum(plain)} if isinstance(plain, dict) else plain
    write_text(path, json.dumps(sealed, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text durably, as `write_json` does; of two writers at once the last one's file stays, whole."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        scratch.write_text(text, encoding="utf-8")
        sync_to_disk(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_json(path: Path, shape: type[Shape]) -> Shape:
    """Read a JSON file and check it: that it is of the shape, and has the checksum that it carries.

    A file without one is taken, for older versions wrote none; a shape with a field `checksum: str` insists on it.

    Raises:
        ArtefactError: the file is missing or cannot be read, is no JSON, not of the shape, or was changed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"'{path}' must be a file that can be read: {error.strerror or error}") from error
    return parse_json(data, shape, f"'{path}'")


def parse_json(data: bytes, shape: type[Shape], name: str) -> Shape:
    """Check JSON as `read_json` does.

    Args:
        data: the text, UTF-8.
        shape: what it must be.
        name: of what is read, for the error.

    Raises:
        ArtefactError: it is no JSON, not of the shape, or was changed.
    """
    try:
        value: Shape = _adapter(shape).validate_json(data, strict=True)
        plain = json.loads(data)
    except ValidationError as error:
        raise ArtefactError(f"{name} must be JSON as Millrace writes it; {_problems(error)}") from error
    except ValueError as error:  # a number of thousands of digits
        raise ArtefactError(f"{name} must be JSON as Millrace writes it; {error}") from error
    if isinstance(plain, dict) and CHECKSUM in plain and plain[CHECKSUM] != _checksum(plain):
        raise ArtefactError(f"{name} must have the checksum that it carries; it was changed after it was written")
    return value


def sync_to_disk(path: Path) -> None:
    """Flush a file or a folder's entries, so that they outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(value: dict[str, Any]) -> str:
    rest = {key: inner for key, inner in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _problems(error: ValidationError) -> str:
    """The first few, each cut to a length that can be read."""
    found = error.errors(include_url=False)
    told = []
    for problem in found[:_SHOWN]:
        place = ".".join(str(part)[:40] for part in problem["loc"])
        value = "" if problem["type"] in ("missing", "json_invalid") else f" (it is {reprlib.repr(problem['input'])})"
        told.append(f"{place}: {problem['msg']}{value}" if place else f"{problem['msg']}{value}")
    return "; ".join(told) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
