"""From Arrow arrays to a batch's columns, by the schema: exact types, nothing per row in Python, every value checked.

A column is held in one of three forms, each of which can be reordered, cut and joined:
    Fixed    a numpy array (rows,) or (rows, length)
    Lists    values (total,) with offsets (rows + 1,)
    Objects  an Arrow array of strings or bytes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from training.batch import Ragged, Value
from training.errors import SchemaError
from training.schema import Column, Kind

IntArray = NDArray[np.int64]
Array = NDArray[Any]

# Lists are copied some rows at a time, so that their index stays in the processor's cache: two thirds of the time.
_TILE_ROWS = 256


@dataclass(frozen=True)
class Fixed:
    values: Array

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


@dataclass(frozen=True)
class Lists:
    values: Array
    offsets: IntArray

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes + self.offsets.nbytes)


@dataclass(frozen=True)
class Objects:
    values: pa.Array

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


Held = Fixed | Lists | Objects


def check_type(column: Column, arrow_type: pa.DataType) -> None:
    """Refuse a table column whose type cannot carry the schema's kind.

    Raises:
        SchemaError: names the column, its type and what the kind needs.
    """
    needed = _needed(column)
    element = arrow_type
    listed = _is_list(arrow_type)
    if listed:
        element = arrow_type.value_type
    wants_list = column.is_ragged or column.length is not None
    if listed == wants_list and _carries(column.kind, element):
        return
    raise SchemaError(
        f"column '{column.name}' of kind {column.kind} must be {needed} in the table; it is {arrow_type}. "
        "Cast it where the table is built, or correct the schema"
    )


def hold(column: Column, array: pa.Array, order: IntArray, where: str) -> Held:
    """Take the rows `order` of an Arrow array as the schema says, checked.

    Args:
        column: what the schema says.
        array: all rows of a row group, deleted ones too.
        order: row numbers to keep, in their new order; rows that it leaves out are never judged.
        where: the file and row group, for errors.

    Raises:
        SchemaError: a null without `fill`, an id outside [0, size), a number that is not finite, a negative weight, or
            a fixed list of another length; names column, value and file.
    """
    if column.kind in (Kind.TEXT, Kind.IMAGE):
        taken = array.take(pa.array(order))
        _refuse_nulls(column, taken.null_count, where)
        return Objects(taken)
    held = (
        _hold_lists(column, array, order, where) if _is_list(array.type) else _hold_scalars(column, array, order, where)
    )
    _check_values(column, held.values, where)
    return held


def cut(held: Held, start: int, stop: int) -> Held:
    """Rows [start, stop), without copying."""
    if isinstance(held, Fixed):
        return Fixed(held.values[start:stop])
    if isinstance(held, Lists):
        offsets = held.offsets[start : stop + 1]
        return Lists(held.values[offsets[0] : offsets[-1]], offsets - offsets[0])
    return Objects(held.values.slice(start, stop - start))


def join(column: Column, parts: list[Held], order: IntArray) -> Value:
    """One batch's column: the parts, end to end, their rows then put in `order`."""
    if not parts:
        return empty(column)
    first = parts[0]
    if isinstance(first, Fixed):
        return torch.from_numpy(_take(np.concatenate([part.values for part in parts]), order))
    if isinstance(first, Lists):
        lists = take_lists(_end_to_end(parts), order)
        return Ragged(torch.from_numpy(lists.values), torch.from_numpy(lists.offsets))
    objects: Value = pa.concat_arrays([part.values for part in parts]).take(pa.array(order)).to_pylist()
    return objects


def empty(column: Column) -> Value:
    """A column of no rows."""
    if column.kind in (Kind.TEXT, Kind.IMAGE):
        return list[str]()
    dtype = torch.int64 if column.kind in (Kind.ID, Kind.IDS, Kind.TIME) else torch.float32
    if column.is_ragged:
        return Ragged(torch.empty(0, dtype=dtype), torch.zeros(1, dtype=torch.int64))
    return torch.empty((0,) if column.length is None else (0, column.length), dtype=dtype)


def take_lists(lists: Lists, order: IntArray) -> Lists:
    """Rows `order` of a ragged column, without a loop over rows."""
    starts = lists.offsets[order]
    lengths = lists.offsets[order + 1] - starts
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    values = np.empty(offsets[-1], lists.values.dtype)
    shift = starts - offsets[:-1]
    for first in range(0, len(order), _TILE_ROWS):
        last = min(first + _TILE_ROWS, len(order))
        begin, end = offsets[first], offsets[last]
        index = np.repeat(shift[first:last], lengths[first:last])
        index += np.arange(begin, end)
        np.take(lists.values, index, out=values[begin:end], mode="clip")
    return Lists(values, offsets)


def _take(values: Array, order: IntArray) -> Array:
    # The order is a permutation of ours: `clip` spares numpy a second pass that checks it.
    return np.take(values, order, axis=0, mode="clip")


def _end_to_end(parts: list[Any]) -> Lists:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Lists(np.concatenate([part.values for part in parts]), offsets)


def _hold_scalars(column: Column, array: pa.Array, order: IntArray, where: str) -> Fixed:
    if array.null_count:
        return Fixed(_numbers(column.kind, _filled(column, array.take(pa.array(order)), where)))
    return Fixed(_take(_numbers(column.kind, array), order))


def _hold_lists(column: Column, array: pa.Array, order: IntArray, where: str) -> Lists | Fixed:
    lists = _lists(column, array, order, where)
    if column.is_ragged:
        return take_lists(*lists)
    held, order = lists
    starts = held.offsets[:-1]
    if column.length and np.array_equal(starts, np.arange(len(starts)) * column.length + held.offsets[0]):
        whole = held.values[held.offsets[0] : held.offsets[-1]]
        if len(whole) == len(starts) * column.length:
            return Fixed(_take(whole.reshape(len(starts), column.length), order))
    return _unragged(column, take_lists(held, order), where)


def _lists(column: Column, array: pa.Array, order: IntArray, where: str) -> tuple[Lists, IntArray]:
    """A list array's values and offsets, with the rows still to be taken from them."""
    if array.null_count == 0 and array.values.null_count == 0:
        return Lists(_numbers(column.kind, array.values), np.asarray(array.offsets, np.int64)), order
    array = array.take(pa.array(order))
    _refuse_nulls(column, array.null_count, where)
    values = _filled(column, array.flatten(), where)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
    return Lists(_numbers(column.kind, values), offsets), np.arange(len(array))


def _unragged(column: Column, lists: Lists, where: str) -> Fixed:
    lengths = np.diff(lists.offsets)
    wrong = np.flatnonzero(lengths != column.length)
    if len(wrong):
        raise SchemaError(
            f"column '{column.name}' must hold lists of {column.length}; one has {lengths[wrong[0]]} elements, in "
            f"{where}. Rebuild the table, or make the column ragged in the schema"
        )
    return Fixed(lists.values.reshape(len(lengths), -1))


def _numbers(kind: Kind, array: pa.Array) -> Array:
    """int64 or float32 values of an Arrow array without nulls."""
    if kind is Kind.TIME and not pa.types.is_integer(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    dtype = np.int64 if kind in (Kind.ID, Kind.IDS, Kind.TIME) else np.float32
    with np.errstate(over="ignore"):  # becomes inf, which the check names
        values: Array = array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return values


def _filled(column: Column, array: pa.Array, where: str) -> pa.Array:
    _refuse_nulls(column, array.null_count, where)
    if not array.null_count:
        return array
    if column.kind in (Kind.DENSE, Kind.LABEL, Kind.WEIGHT) and not pa.types.is_floating(array.type):
        array = (array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array).cast(pa.float64())
    return array.fill_null(pa.scalar(column.fill, array.type))


def _refuse_nulls(column: Column, nulls: int, where: str) -> None:
    """Null is refused unless the schema states a `fill`; a null list is then an empty one."""
    if nulls and column.fill is None:
        raise SchemaError(
            f"column '{column.name}' must not be null; {nulls} values are, in {where}. "
            "Give the column a `fill` in the schema, or leave these rows out where the table is built"
        )


def _check_values(column: Column, values: Array, where: str) -> None:
    if not values.size or column.kind is Kind.TIME:
        return
    if column.kind in (Kind.ID, Kind.IDS):
        size = column.size or 0
        if int(values.min()) < 0 or int(values.max()) >= size:
            bad = values[(values < 0) | (values >= size)][0]
            raise SchemaError(
                f"column '{column.name}' must lie in [0, {size}), the size of vocabulary '{column.vocabulary}'; "
                f"found {bad} in {where}. Build the table with the vocabulary that the schema names"
            )
        return
    finite = np.isfinite(values)
    if not finite.all():
        raise SchemaError(
            f"column '{column.name}' must be finite; found {values[~finite][0]} in {where}. "
            "Replace it, or leave these rows out, where the table is built"
        )
    if column.kind is Kind.WEIGHT and float(values.min()) < 0:
        raise SchemaError(
            f"column '{column.name}' is a weight and must not be negative; found {values.min()} in {where}. "
            "Correct it where the table is built"
        )


def _is_list(arrow_type: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type))


def _carries(kind: Kind, element: pa.DataType) -> bool:
    types = pa.types
    if kind in (Kind.ID, Kind.IDS):
        return bool(types.is_integer(element))
    if kind is Kind.TIME:
        return bool(types.is_timestamp(element) or types.is_date(element) or types.is_integer(element))
    if kind is Kind.TEXT:
        return bool(types.is_string(element) or types.is_large_string(element))
    if kind is Kind.IMAGE:
        return bool(types.is_binary(element) or types.is_large_binary(element))
    numeric = types.is_integer(element) or types.is_floating(element)
    return bool(numeric or types.is_boolean(element) or types.is_decimal(element))


def _needed(column: Column) -> str:
    element = {
        Kind.ID: "an integer",
        Kind.IDS: "integers",
        Kind.TIME: "a timestamp, a date or whole microseconds",
        Kind.TEXT: "a string",
        Kind.IMAGE: "binary",
    }.get(column.kind, "numbers" if column.is_ragged or column.length is not None else "a number")
    return f"a list of {element}" if column.is_ragged or column.length is not None else element
