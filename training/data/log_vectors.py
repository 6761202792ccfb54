"""Which live file has which deletion vector: the part of Delta's log that delta-rs keeps to itself.

A live file's newest `add` names its vector. So commits are read from the newest to the oldest, then the checkpoint
before them, until every live file is found (Delta's protocol, "Action Reconciliation" and "Checkpoints").
"""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow.fs
import pyarrow.parquet as pq

from training.errors import SnapshotError

_LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(?P<part>\d{10})\.(?P<parts>\d{10})|\.[\w-]+)?\.(?:parquet|json)")
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_FROM_Z85 = bytes.maketrans(_Z85, _B85)
_UUID_CHARACTERS = 20
_PIECE = 2**20  # bytes to ask for at a time: a store takes as long to answer for a few of them


class _Add(NamedTuple):
    path: str
    vector: Mapping[str, Any] | None


@dataclass(frozen=True)
class Vector:
    """Where a file's deleted rows are named.

    Attributes:
        path: the file that holds the vector, relative to the table's root or a URL, nothing in it escaped; None where
            the log itself holds it.
        inline: the vector itself, where the log holds it.
        offset: where it begins in its file.
        size: bytes.
        cardinality: rows that it deletes.
    """

    path: str | None
    inline: bytes | None
    offset: int
    size: int
    cardinality: int

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Vector:
        """From the log's `deletionVector`; how it is stored is one letter (protocol, "Deletion Vector Descriptor")."""
        text, storage = described["pathOrInlineDv"], described["storageType"]
        path = inline = None
        if storage == "i":
            inline = _z85(text)[: described["sizeInBytes"]]
        elif storage == "u":
            folder, name = text[:-_UUID_CHARACTERS], uuid.UUID(bytes=_z85(text[-_UUID_CHARACTERS:]))
            path = f"{folder}/deletion_vector_{name}.bin".lstrip("/")
        elif storage == "p":
            path = unquote(text)
        else:
            raise ValueError(f"a deletion vector is stored in way '{storage}', which is none of i, u and p")
        return cls(path, inline, described.get("offset") or 0, described["sizeInBytes"], described["cardinality"])


def find_vectors(table: pyarrow.fs.FileSystem, uri: str, version: int, live: Collection[str]) -> dict[str, Vector]:
    """The deletion vectors of live files.

    Args:
        table: the table's folder.
        uri: the table, for errors.
        version: the Delta version.
        live: paths of the files that are wanted, nothing in them escaped.

    Raises:
        SnapshotError: the log does not name a live file, or a part of it is gone.
        OSError, pyarrow.ArrowException, ValueError: a part of it cannot be read.
    """
    missing, found = set(live), dict[str, Vector]()
    adds = _adds(table, uri, version)
    while missing:
        add = next(adds, None)
        if add is None:
            raise SnapshotError(
                f"the log of table '{uri}' up to version {version} has no `add` of live file '{min(missing)}'; "
                "a commit or a checkpoint is damaged. Restore the folder _delta_log, or pin another version"
            )
        if add.path in missing:
            missing.remove(add.path)
            if add.vector is not None:
                found[add.path] = Vector.of(add.vector)
    return found


def _adds(table: pyarrow.fs.FileSystem, uri: str, version: int) -> Iterator[_Add]:
    """Every `add`, the newest commit's first and the checkpoint's last."""
    names = [info.base_name for info in table.get_file_info(pyarrow.fs.FileSelector(_LOG))]
    start, checkpoint = _checkpoint(names, version)
    commits = {int(found[1]) for name in names if (found := _COMMIT.fullmatch(name))}
    for number in range(version, start, -1):
        if number not in commits:
            raise SnapshotError(
                f"commit {number} of table '{uri}' is gone, and no checkpoint from there to version {version} is "
                "whole. Restore the folder _delta_log, or pin another version"
            )
        for action in _lines(table, f"{number:020d}.json"):
            if "add" in action:
                yield _add(action["add"])
    for name in checkpoint:
        yield from _checkpoint_adds(table, name)


def _checkpoint(names: list[str], version: int) -> tuple[int, list[str]]:
    """The version and the files of the newest whole checkpoint up to a version; -1 and none where there is none."""
    whole: dict[int, list[str]] = {}
    parts: dict[tuple[int, str], list[str]] = {}
    for name in sorted(names):
        found = _CHECKPOINT.fullmatch(name)
        if found is None or int(found[1]) > version:
            continue
        if found["parts"] is None:
            whole[int(found[1])] = [name]
        else:
            parts.setdefault((int(found[1]), found["parts"]), []).append(name)
    for (number, wanted), there in parts.items():
        if len(there) == int(wanted):
            whole.setdefault(number, there)
    newest = max(whole, default=-1)
    return newest, whole.get(newest, [])


def _checkpoint_adds(table: pyarrow.fs.FileSystem, name: str) -> Iterator[_Add]:
    """The adds of a checkpoint's file, and those of the side files that it names."""
    rows = _lines(table, name) if name.endswith(".json") else _rows(table, name)
    for row in rows:
        if row.get("add") is not None:
            yield _add(row["add"])
        if row.get("sidecar") is not None:
            beside = unquote(row["sidecar"]["path"]).rpartition("/")[2]
            for inner in _rows(table, f"_sidecars/{beside}"):
                if inner["add"] is not None:
                    yield _add(inner["add"])


def _rows(table: pyarrow.fs.FileSystem, name: str) -> Iterator[Mapping[str, Any]]:
    """The actions of a checkpoint in Parquet: of each what is needed here."""
    with table.open_input_file(f"{_LOG}/{name}") as file, pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(columns=["add.path", "add.deletionVector", "sidecar.path"]):
            yield from batch.to_pylist()


def _lines(table: pyarrow.fs.FileSystem, name: str) -> Iterator[Mapping[str, Any]]:
    """The actions of a commit, or of a checkpoint in JSON."""
    with table.open_input_file(f"{_LOG}/{name}") as file:
        for line in io.BufferedReader(file, _PIECE):
            if line.strip():
                yield json.loads(line)


def _add(action: Mapping[str, Any]) -> _Add:
    return _Add(unquote(action["path"]), action.get("deletionVector"))


def _z85(text: str) -> bytes:
    """ZeroMQ's base 85: Python's own but for the order of its digits."""
    return base64.b85decode(text.encode().translate(_FROM_Z85))
