"""Columns on their way from a row group to batches: taken in a new order, then cut and joined; no loop over rows.

They are held in one of three forms:
    Fixed    columns of one type together, as a numpy array (columns, rows) or (1, rows, length)
    Lists    each row's numbers as one binary value, so that Arrow copies whole rows at a time
    Objects  an Arrow array of strings or bytes

All memory here comes from Arrow's pool, which keeps freed pages for the next (`training.data.memory`). Of Arrow's pools
mimalloc would be a tenth faster, but what one thread allocates and another frees stays in it for long: twice the
memory, and growing with the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import DTypeLike, NDArray

from training.batch import Ragged, Value

IntArray = NDArray[np.int64]
Array = NDArray[Any]


def pool_array(shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array that is not filled, from Arrow's pool."""
    values = shape if isinstance(shape, int) else math.prod(shape)
    memory = pa.allocate_buffer(values * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, values).reshape(shape)


@dataclass(frozen=True)
class Fixed:
    """Numbers of one type, (columns, rows), copied in one call; or lists of one length, (1, rows, length)."""

    values: Array

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


@dataclass(frozen=True)
class Lists:
    """Lists of any length: `rows` is a large_binary array, each value one row's numbers of type `dtype`."""

    rows: pa.Array
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, values: Array, offsets: IntArray) -> Lists:
        """Row i is values[offsets[i]:offsets[i + 1]]; the values are not copied."""
        buffers = [None, pa.py_buffer(offsets * values.itemsize), pa.py_buffer(values)]
        return cls(pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers), values.dtype)

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes)

    @property
    def offsets(self) -> IntArray:
        """(rows + 1,): where each row begins in `values`."""
        bounds = self._bounds
        starts: IntArray = (bounds - bounds[0]) // self.dtype.itemsize
        return starts

    @property
    def values(self) -> Array:
        """The numbers of all rows, end to end."""
        begin, end = int(self._bounds[0]), int(self._bounds[-1])
        return np.frombuffer(self.rows.buffers()[2], self.dtype, (end - begin) // self.dtype.itemsize, begin)

    @property
    def _bounds(self) -> IntArray:
        """(rows + 1,): where each row begins in its buffer, in bytes."""
        return np.frombuffer(self.rows.buffers()[1], np.int64, len(self.rows) + 1, 8 * self.rows.offset)

    def take(self, order: IntArray) -> Lists:
        return Lists(take_objects(self.rows, order), self.dtype)


@dataclass(frozen=True)
class Objects:
    """Strings or bytes, as an Arrow array."""

    values: pa.Array

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


Held = Fixed | Lists | Objects


class Cut(NamedTuple):
    """Rows [start, stop) of what is held."""

    held: Held
    start: int
    stop: int


@dataclass(frozen=True)
class Arrangement:
    """How the rows of a batch's parts come to stand in it; made by `by_order` or `by_places`.

    Attributes:
        rows: of the batch.
        places: for each part the batch's rows that it fills, where these are evenly spaced in all of them, else None.
    """

    rows: int
    places: Sequence[slice] | None
    _order: Callable[[], IntArray]

    @classmethod
    def by_order(cls, order: IntArray) -> Arrangement:
        """From each row's place in the parts, end to end."""
        return cls(len(order), None, lambda: order)

    @classmethod
    def by_places(cls, places: Sequence[slice], rows: Sequence[int]) -> Arrangement:
        """From the evenly spaced rows that each part fills, and each part's rows."""

        def order() -> IntArray:
            found, start = np.empty(sum(rows), np.int64), 0
            for place, count in zip(places, rows, strict=True):
                found[place] = np.arange(start, start + count)
                start += count
            return found

        return cls(sum(rows), places, order)

    @cached_property
    def order(self) -> IntArray:
        """(rows,): for each row of the batch its place in the parts, end to end."""
        return self._order()


def join(parts: Sequence[Cut], arrangement: Arrangement) -> Sequence[Value]:
    """A batch's columns, as many as are held together.

    Args:
        parts: at least one, all of the same form.
        arrangement: where their rows go.
    """
    first = parts[0].held
    if isinstance(first, Fixed):
        return torch.from_numpy(_join_fixed([p.held.values[:, p.start : p.stop] for p in parts], arrangement)).unbind()
    slices = [_objects(part.held).slice(part.start, part.stop - part.start) for part in parts]
    rows = take_objects(pa.concat_arrays(slices), arrangement.order)
    if isinstance(first, Lists):
        lists = Lists(rows, first.dtype)
        return [Ragged(torch.from_numpy(lists.values), torch.from_numpy(lists.offsets))]
    return [rows.to_pylist()]


def _join_fixed(parts: Sequence[Array], arrangement: Arrangement) -> Array:
    columns, _, *length = parts[0].shape
    out = pool_array((columns, arrangement.rows, *length), parts[0].dtype)
    if arrangement.places is None:
        return np.take(np.concatenate(parts, axis=1), arrangement.order, axis=1, mode="clip", out=out)
    for part, place in zip(parts, arrangement.places, strict=True):
        out[:, place] = part
    return out


def _objects(held: Held) -> pa.Array:
    return held.rows if isinstance(held, Lists) else held.values


def take_objects(array: pa.Array, order: IntArray) -> pa.Array:
    """Rows `order`, all of them in range, of an Arrow array."""
    return pc.take(array, pa.array(order), boundscheck=False)
