"""From a row group's Arrow arrays to held columns, by the schema: exact types, nothing per row, every value checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from training.batch import Ragged, Value
from training.data.held import Array, Fixed, Held, IntArray, Lists, Objects, pool_array, take_objects
from training.errors import SchemaError
from training.schema import Column, Kind, Schema


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


def held_together(schema: Schema) -> list[tuple[Column, ...]]:
    """The schema's columns by how they are held: numbers of one type together, every other column by itself."""
    numbers: dict[type, list[Column]] = {}
    alone = []
    for column in schema:
        if _alone(column):
            alone.append((column,))
        else:
            numbers.setdefault(_dtype(column.kind), []).append(column)
    return [*(tuple(columns) for columns in numbers.values()), *alone]


def hold(columns: Sequence[Column], arrays: dict[str, pa.Array], order: IntArray, where: str) -> Held:
    """Take the rows `order` of columns that are held together, as the schema says, checked.

    Args:
        columns: one tuple of `held_together`.
        arrays: by name, all rows of a row group, deleted ones too; `columns` are taken out of it, one after the other,
            so that their memory is free for the next.
        order: row numbers to keep, in their new order; rows that it leaves out are never judged.
        where: the file and row group, for errors.

    Raises:
        SchemaError: a null without `fill`, an id outside [0, size), a number that is not finite, a negative weight, or
            a fixed list of another length; names column, value and file.
    """
    if not _alone(columns[0]):
        block = pool_array((len(columns), len(order)), _dtype(columns[0].kind))
        for column, values in zip(columns, block, strict=True):
            _take_scalars(column, arrays.pop(column.name), order, where, values)
            _check_values(column, values, where)
        return Fixed(block)
    [column] = columns
    array = arrays.pop(column.name)
    if column.kind in (Kind.TEXT, Kind.IMAGE):
        taken = take_objects(array, order)
        _refuse_nulls(column, taken.null_count, where)
        return Objects(taken)
    if column.is_ragged:
        lists = _taken_lists(column, array, order, where)
        _check_values(column, lists.values, where)
        return lists
    values = _taken_vectors(column, array, order, where)
    _check_values(column, values, where)
    return Fixed(values[None])


def empty(column: Column) -> Value:
    """A column of no rows."""
    if column.kind in (Kind.TEXT, Kind.IMAGE):
        return list[str]()
    dtype = torch.int64 if _dtype(column.kind) is np.int64 else torch.float32
    if column.is_ragged:
        return Ragged(torch.empty(0, dtype=dtype), torch.zeros(1, dtype=torch.int64))
    return torch.empty((0,) if column.length is None else (0, column.length), dtype=dtype)


def _alone(column: Column) -> bool:
    return column.kind in (Kind.TEXT, Kind.IMAGE) or column.is_ragged or column.length is not None


def _take_scalars(column: Column, array: pa.Array, order: IntArray, where: str, out: Array) -> None:
    if array.null_count:
        out[:] = _numbers(column.kind, _filled(column, take_objects(array, order), where))
    else:
        # The order is one of ours: `clip` spares numpy a second pass that checks it.
        np.take(_numbers(column.kind, array), order, mode="clip", out=out)


def _taken_vectors(column: Column, array: pa.Array, order: IntArray, where: str) -> Array:
    lists, order = _lists(column, array, order, where)
    starts = lists.offsets
    if column.length and np.array_equal(starts, np.arange(len(starts)) * column.length):
        values, out = lists.values.reshape(-1, column.length), pool_array((len(order), column.length), np.float32)
        return np.take(values, order, axis=0, mode="clip", out=out)
    lists = lists.take(order)
    lengths = np.diff(lists.offsets)
    wrong = np.flatnonzero(lengths != column.length)
    if len(wrong):
        raise SchemaError(
            f"column '{column.name}' must hold lists of {column.length}; one has {lengths[wrong[0]]} elements, in "
            f"{where}. Rebuild the table, or make the column ragged in the schema"
        )
    return lists.values.reshape(len(lengths), -1)


def _taken_lists(column: Column, array: pa.Array, order: IntArray, where: str) -> Lists:
    lists, order = _lists(column, array, order, where)
    return lists.take(order)


def _lists(column: Column, array: pa.Array, order: IntArray, where: str) -> tuple[Lists, IntArray]:
    """A list array's rows, and the order in which they are still to be taken."""
    if array.null_count == 0 and array.values.null_count == 0:
        return Lists.of(_numbers(column.kind, array.values), np.asarray(array.offsets, np.int64)), order
    array = take_objects(array, order)
    _refuse_nulls(column, array.null_count, where)
    values = _filled(column, array.flatten(), where)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False), out=offsets[1:])
    return Lists.of(_numbers(column.kind, values), offsets), np.arange(len(array))


def _numbers(kind: Kind, array: pa.Array) -> Array:
    """int64 or float32 values of an Arrow array without nulls."""
    if kind is Kind.TIME and not pa.types.is_integer(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    dtype = _dtype(kind)
    found: Array = array.to_numpy(zero_copy_only=False)
    if found.dtype == dtype:
        return found
    values = pool_array(found.shape, dtype)
    with np.errstate(over="ignore"):  # becomes inf, which the check names
        np.copyto(values, found, casting="unsafe")
    return values


def _dtype(kind: Kind) -> type:
    return np.int64 if kind in (Kind.ID, Kind.IDS, Kind.TIME, Kind.POSITION) else np.float32


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
    if column.kind in (Kind.ID, Kind.IDS, Kind.POSITION):
        size = column.size or 0
        if int(np.max(values.view(np.uint64))) >= size:  # a negative number is a very large one
            bad = values[(values < 0) | (values >= size)][0]
            of, made_by = (
                (f"the places and 0, the unknown one; found {bad} in {where}", "the places")
                if column.kind is Kind.POSITION
                else (f"the size of vocabulary '{column.vocabulary}'; found {bad} in {where}", "the vocabulary")
            )
            raise SchemaError(
                f"column '{column.name}' must lie in [0, {size}), {of}. Build the table with {made_by} that the schema "
                "names"
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
    if kind in (Kind.ID, Kind.IDS, Kind.POSITION):
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
        Kind.POSITION: "an integer",
        Kind.TIME: "a timestamp, a date or whole microseconds",
        Kind.TEXT: "a string",
        Kind.IMAGE: "binary",
    }.get(column.kind, "numbers" if column.is_ragged or column.length is not None else "a number")
    return f"a list of {element}" if column.is_ragged or column.length is not None else element
