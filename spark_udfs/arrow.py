"""Arrow columns to numpy and back, whole columns at a time: no Python object per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.top_k import Floats, Ints, Lists, Mask
from training.errors import DataError
from training.schema import Column, Kind

RANKED_TYPE = "user bigint, rank int, item bigint, score float, fallback boolean"
ROWS_PER_BATCH = 1 << 18  # of the long output: about 6 MB

_RANKED = pa.schema(
    [
        ("user", pa.int64()),
        ("rank", pa.int32()),
        ("item", pa.int64()),
        ("score", pa.float32()),
        ("fallback", pa.bool_()),
    ]
)


def arrow_type(column: Column) -> pa.DataType:
    """The type of a column of a bundle's schema."""
    if column.kind is Kind.IMAGE:
        return pa.binary()
    one = pa.int64() if column.kind in (Kind.ID, Kind.IDS, Kind.POSITION) else pa.float32()
    return pa.list_(one) if column.is_ragged or column.length is not None else one


def lists(column: pa.Array) -> Lists:
    """A list column of integers; a null list is empty, a null element is 0 (unknown)."""
    values, offsets = _flat(column)
    return Lists(values.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False), offsets)


def float_lists(column: pa.Array) -> tuple[Floats, Ints]:
    """A list column of floats as values and offsets; a null list is empty, a null element is NaN."""
    values, offsets = _flat(column)
    return values.cast(pa.float32()).to_numpy(zero_copy_only=False), offsets


def fixed_lists(rows: npt.NDArray[Any]) -> pa.Array:
    """A matrix as a column of lists of float32, one a row."""
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.asarray(rows, np.float32).ravel()))


def ids_of(column: pa.Array, name: str = "user") -> Ints:
    """A column of ids.

    Raises:
        DataError: an id is null.
    """
    if column.null_count:
        raise DataError(f"column '{name}' must not be null; it is in {column.null_count} rows: filter them out")
    return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


def _flat(column: pa.Array) -> tuple[pa.Array, Ints]:
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return column.flatten(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ranked(
    users: Ints, ids_nk: Ints, scores_nk: Floats, fallback: Mask, more: Mapping[str, pa.Array] = MappingProxyType({})
) -> Iterator[pa.RecordBatch]:
    """Long rows (user, rank from 1, item, score, fallback) of the places that hold an item (id >= 0).

    Args:
        users: (rows,) whose lists these are.
        ids_nk, scores_nk: (rows, K).
        fallback: (rows,).
        more: further columns, of these places row after row.
    """
    k = ids_nk.shape[1]
    step, given = max(1, ROWS_PER_BATCH // k), 0
    for start in range(0, len(users), step):
        rows, places = np.nonzero(ids_nk[start : start + step] >= 0)
        rows = rows + start
        columns = [
            users[rows].astype(np.int64),
            (places + 1).astype(np.int32),
            ids_nk[rows, places],
            scores_nk[rows, places].astype(np.float32),
            fallback[rows],
        ]
        first = pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=_RANKED)
        beside = [column.slice(given, len(rows)) for column in more.values()]
        yield pa.record_batch([*first.columns, *beside], [*_RANKED.names, *more])
        given += len(rows)
