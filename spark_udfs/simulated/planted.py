"""A simulated table: what it holds, and its rows made where Spark wants them.

A table is made from units (customers, items), each of which makes its rows by its number alone: a Spark task that is
run again makes the same rows, and nothing depends on how units are partitioned. Truth stands in columns of its own,
which are made only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.simulated.tastes import Ints, ShopSize

ROWS_PER_CHUNK = 200_000  # what a task holds in memory at once
Rows = Mapping[str, "NDArray[Any] | pa.Array"]
ARROW = {
    "string": pa.string(),
    "bigint": pa.int64(),
    "int": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "array<double>": pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class Field:
    """A column.

    Attributes:
        name: of the column.
        type: a key of ARROW. Rows give a timestamp as seconds and a date as days since 1970-01-01; NaN is no time.
        meaning: for the page of all tables.
        pattern: of an id, for a printf of its parts; null where the first part is negative.
        parts: the numbers that the pattern prints; default: the column's own.
    """

    name: str
    type: str
    meaning: str
    pattern: str | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planted:
    """A table of a simulated shop.

    Attributes:
        name: of the table.
        meaning: what a row is.
        fields: the columns that a shop would have.
        truth: the columns that only a simulated shop has.
        units: how many units make the rows.
        rows_per_unit: about how many rows a unit makes.
        make: the rows of some units, a numpy or Arrow array for each column or part of an id.
    """

    name: str
    meaning: str
    fields: tuple[Field, ...]
    truth: tuple[Field, ...]
    units: Callable[[ShopSize], int]
    rows_per_unit: Callable[[ShopSize], float]
    make: Callable[[Ints, ShopSize], Rows]


def planted(table: Planted, units: DataFrame, shop: ShopSize, *, truth: bool = False) -> DataFrame:
    """The rows of a table.

    Args:
        table: the table.
        units: one row per unit: `id`, a number from 0.
        shop: the shop's size.
        truth: with the columns of the truth.
    """
    fields = table.fields + (table.truth if truth else ())
    numbers = _numbers(fields)
    schema = pa.schema([(name, ARROW[kind]) for name, kind in numbers.items()])

    def generate(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        per_chunk = max(1, int(ROWS_PER_CHUNK / table.rows_per_unit(shop)))
        for batch in batches:
            ids = batch.column(0).to_numpy()
            for first in range(0, len(ids), per_chunk):
                rows = table.make(ids[first : first + per_chunk], shop)
                yield pa.RecordBatch.from_arrays([_arrow(rows[part.name], part.type) for part in schema], schema=schema)

    ddl = ", ".join(f"{name} {kind}" for name, kind in numbers.items())
    return units.select(F.col("id").cast("bigint")).mapInArrow(generate, ddl).select(*map(_column, fields))


def words(texts: tuple[str, ...] | list[str], number: Ints) -> pa.Array:
    """The texts of these numbers; null where one is negative."""
    return pa.array(texts, pa.string()).take(pa.array(number, mask=number < 0))


def _numbers(fields: tuple[Field, ...]) -> dict[str, str]:
    """Names and types of what a unit makes: ids as the numbers in them."""
    numbers: dict[str, str] = {}
    for field in fields:
        if field.pattern is None:
            numbers[field.name] = field.type
        else:
            numbers |= dict.fromkeys(field.parts or (field.name,), "bigint")
    return numbers


def _arrow(values: NDArray[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if pa.types.is_timestamp(kind):
        unknown = np.isnan(values)
        return pa.array((np.where(unknown, 0, values) * 1e6).astype(np.int64), pa.int64(), mask=unknown).cast(kind)
    if pa.types.is_date(kind):
        return pa.array(values.astype(np.int32), pa.int32()).cast(kind)
    return pa.array(values.astype(kind.to_pandas_dtype()), kind)


def _column(field: Field) -> Column:
    if field.pattern is None:
        return F.col(field.name)
    parts = field.parts or (field.name,)
    return F.when(F.col(parts[0]) >= 0, F.format_string(field.pattern, *parts)).alias(field.name)
