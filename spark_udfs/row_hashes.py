"""Order-free sums of row hashes: two sets of rows are the same if their counts and sums are.

The hash is the same function on a DataFrame's rows (through Arrow, on the executors) and on a loader's batches, so the
two can be compared without moving or sorting either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame

if TYPE_CHECKING:
    from training.schema import Schema

Hashes = NDArray[np.uint64]
# One column: values of shape (rows,) or (rows, length); (values, offsets) of lists; or strings or bytes.
Cells = NDArray[Any] | tuple[NDArray[Any], NDArray[np.int64]] | Sequence[str] | Sequence[bytes]
SUMS = "rows bigint, first bigint, second bigint"


class Sums(NamedTuple):
    """Count of rows, and two sums of their hashes modulo 2**64, as signed integers."""

    rows: int
    first: int
    second: int

    def __add__(self, other: object) -> Sums:
        """Sums of two disjoint sets of rows together."""
        assert isinstance(other, Sums)
        return Sums(self.rows + other.rows, _wrapped(self.first + other.first), _wrapped(self.second + other.second))


def sums_of(columns: Sequence[Cells], rows: int) -> Sums:
    """Sums of some rows, given column by column in an order that both sides share."""
    total = np.zeros(rows, np.uint64)
    for place, cells in enumerate(columns, start=1):
        total += _mixed(_column(cells) + np.uint64(place))
    first = _mixed(total)
    return Sums(rows, _wrapped(int(first.sum())), _wrapped(int(_mixed(first).sum())))


def row_sums(frame: DataFrame, schema: Schema) -> DataFrame:
    """One row of `Sums` for each batch of a frame's rows; the schema's columns, as the loader would give them."""
    columns: list[Mapping[str, Any]] = [*schema.to_json()]

    def hashed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from training.data.columns import hold
        from training.data.held import Lists, Objects
        from training.schema import Schema

        for batch in batches:
            every, cells = np.arange(batch.num_rows), list[Cells]()
            for column in Schema.from_json(columns):
                held = hold([column], {column.name: batch.column(column.name)}, every, "Spark's rows")
                if isinstance(held, Objects):
                    cells.append(held.values.to_pylist())
                else:
                    cells.append((held.values, held.offsets) if isinstance(held, Lists) else held.values[0])
            found = sums_of(cells, batch.num_rows)
            yield pa.record_batch([pa.array([number], pa.int64()) for number in found], names=list(Sums._fields))

    return frame.select(*[f"`{name}`" for name in schema.names]).mapInArrow(hashed, SUMS)


def _column(cells: Cells) -> Hashes:
    """One hash a row."""
    if isinstance(cells, tuple):
        values, offsets = cells
        lengths = np.diff(offsets)
        place = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
        elements = _mixed(_bits(values) + _mixed(place.astype(np.uint64)))
        before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(elements)])
        sums: Hashes = before[offsets[1:]] - before[offsets[:-1]] + _mixed(lengths.astype(np.uint64))
        return sums
    if isinstance(cells, np.ndarray):
        bits = _bits(cells)
        if bits.ndim == 1:
            return bits
        rows: Hashes = _mixed(bits + _mixed(np.arange(bits.shape[1], dtype=np.uint64))).sum(axis=1, dtype=np.uint64)
        return rows
    digests = [hashlib.blake2b(c.encode() if isinstance(c, str) else c, digest_size=8).digest() for c in cells]
    return np.frombuffer(b"".join(digests), np.uint64)


def _bits(values: NDArray[Any]) -> Hashes:
    if values.dtype == np.float32:
        return (values + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0.0 is 0.0
    return values.astype(np.int64, copy=False).view(np.uint64)


def _mixed(values: Hashes) -> Hashes:
    """splitmix64's finaliser (Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _wrapped(number: int) -> int:
    """A whole number as a signed 64-bit integer."""
    return (number + 2**63) % 2**64 - 2**63
