"""Numbers of items that executors write and map: none of them comes to the driver or lies in a plan.

One task writes a file a column, a row an item, in ascending order. Whoever answers with them maps the files, so that a
host has one copy in its page cache, however many workers read it. The folder must be one that the driver and all
executors mount, as the bundle's is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.errors import DataError, TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KINDS = {"bigint": "int64", "int": "int32", "float": "float32", "double": "float64"}  # Spark's numbers, and numpy's
ABANDONED_S = 86_400  # nothing is written for so long by one who writes still
KEPT = 2  # of one name; older ones go, a worker that has one mapped keeps it


@dataclass(frozen=True)
class ItemFile:
    """Numbers of items on disk, a row an item; the path must be readable on every executor (`on_this_host`).

    Attributes:
        path: a folder with a file a column; its name ends in a digest of what lies in it.
        rows: how many items.
        columns: by name, numpy's kind of number and how many an item has; 0: one that is no list. `item` is among
            them, int64, ascending.
    """

    path: str
    rows: int
    columns: Mapping[str, tuple[str, int]]

    @property
    def name(self) -> str:
        """What tells this content from any other."""
        return Path(self.path).name

    def open(self, column: str) -> npt.NDArray[Any]:
        """(rows,) or (rows, width), memory-mapped, on the host that asks.

        Raises:
            TableError: the file is not there, or not whole.
        """
        kind, width = self.columns[column]
        shape = (self.rows, width) if width else (self.rows,)
        if not self.rows:
            return np.zeros(shape, kind)
        file = on_this_host(self.path) / column
        wanted, held = self.rows * max(width, 1) * np.dtype(kind).itemsize, file.stat().st_size
        if held != wanted:
            raise TableError(f"'{file}' must have {wanted:,} bytes, and has {held:,}: it is torn; run the job again")
        return np.asarray(np.memmap(file, kind, "r", shape=shape))


def save_items(rows: DataFrame, folder: Path, name: str) -> ItemFile:
    """Have an executor write a row an item, for all executors to map; one row comes to the driver.

    Args:
        rows: `item` (bigint, each once) and more columns: KINDS, or lists of these, of one length a column.
        folder: the same one on the driver and on every executor.
        name: of what is written; the newest KEPT of a name stay.

    Raises:
        TableError: an executor has another folder there, or none.
    """
    given = {field.name: field.dataType.simpleString() for field in rows.schema.fields}
    folder.mkdir(parents=True, exist_ok=True)
    place = str(folder.absolute())

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        count, widths, digest = _write(batches, list(given), Path(place), name)
        columns = [pa.array([count]), pa.array([widths], pa.list_(pa.int32())), pa.array([digest])]
        yield pa.RecordBatch.from_arrays(columns, names=["rows", "widths", "digest"])

    ordered = rows.repartition(1).sortWithinPartitions("item")
    told = ordered.mapInArrow(write, "rows bigint, widths array<int>, digest string").collect()
    # Of no rows at all Spark may ask no executor; then there is no file, and none is opened.
    count, widths, digest = told[0] if told else (0, [0] * len(given), "")
    path = Path(place) / f"{name}-{digest}"
    if count and not path.is_dir():
        raise TableError(_not_shared(place, "what one has written there is not there"))
    if count:
        os.utime(path)  # it may be an earlier run's
    keep_newest(folder, name)
    kinds = [KINDS[kind.removeprefix("array<").removesuffix(">")] for kind in given.values()]
    least = [int(kind.startswith("array<")) for kind in given.values()]
    columns = zip(given, kinds, map(max, widths, least), strict=True)
    return ItemFile(str(path), count, {column: (kind, width) for column, kind, width in columns})


def on_this_host(path: str) -> Path:
    """A file or folder as an executor sees it: at its own path, or among the files that Spark shipped.

    Raises:
        TableError: it is at neither place.
    """
    from pyspark import SparkFiles

    here = Path(path)
    if here.exists():
        return here
    shipped = Path(SparkFiles.get(here.name))
    if not shipped.exists():
        raise TableError(
            f"'{path}' cannot be read on this executor, and Spark shipped no file '{here.name}'; put it on a path that "
            "every host mounts, or ship it: spark.addArtifact(path, file=True), for a folder zip + '#' + name with "
            "archive=True (classic sessions of Spark 3.5: spark.sparkContext.addFile, addArchive)"
        )
    return shipped


def _write(batches: Iterable[pa.RecordBatch], names: list[str], folder: Path, name: str) -> tuple[int, list[int], str]:
    """Rows, each column's numbers an item, and the digest that ends the name of what was written."""
    with scratch_folder(folder, name) as scratch:
        columns = [_Column(scratch / column) for column in names]
        for batch in batches:
            for column, values in zip(columns, batch.columns, strict=True):
                column.add(values)
        told = "|".join(f"{name} {column.kind}" for name, column in zip(names, columns, strict=True))
        held = b"".join(column.close() for column in columns)
        digest = hashlib.sha256(told.encode() + held).hexdigest()[:16]
        with suppress(OSError):  # the same is there already: of an earlier run, or of a task that Spark ran twice
            scratch.rename(folder / f"{name}-{digest}")
    return columns[0].rows, [column.width for column in columns], digest


@contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder beside those of a name, to be renamed to one of them when it is whole; else it goes.

    Raises:
        TableError: one cannot write there.
    """
    scratch = folder / f".{name}-{uuid.uuid4().hex}"
    try:
        scratch.mkdir()
    except OSError as error:
        raise TableError(_not_shared(str(folder), f"one cannot write there: {error.strerror}")) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep_newest(folder: Path, name: str) -> None:
    """Remove all but the newest KEPT of a name, and what tasks that were killed left, on whichever host that was."""
    for old in sorted(folder.glob(f"{name}-*"), key=lambda held: held.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    for scratch in folder.glob(f".{name}-*"):
        with suppress(OSError):  # another one removes it too, or has just given it its name
            if time.time() - max(held.stat().st_mtime for held in (scratch, *scratch.iterdir())) > ABANDONED_S:
                shutil.rmtree(scratch, ignore_errors=True)


class _Column:
    """A column on its way to its file."""

    def __init__(self, path: Path) -> None:
        self.rows, self.width, self.kind = 0, 0, ""
        self._file, self._hasher = path.open("wb"), hashlib.sha256()

    def add(self, column: pa.Array) -> None:
        values = column
        if isinstance(column, pa.ListArray) and len(column):
            values, lengths = column.flatten(), column.value_lengths().to_numpy(zero_copy_only=False)
            self.width = self.width or int(lengths[0])
            if (lengths != self.width).any():
                raise DataError(f"lists of items must have one length; one has {lengths.max()}, one {lengths.min()}")
        numbers = np.ascontiguousarray(values.to_numpy(zero_copy_only=False))
        self.rows, self.kind = self.rows + len(column), str(numbers.dtype)
        self._hasher.update(numbers.data)
        self._file.write(numbers.data)

    def close(self) -> bytes:
        self._file.close()
        return self._hasher.digest()


def _not_shared(folder: str, what: str) -> str:
    return (
        f"'{folder}' must be the same folder for the driver and all executors, who may write there, and {what}; set "
        "run_dir to a folder that every host mounts"
    )
