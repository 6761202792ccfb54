"""Rows to counted groups, by which a batch is known: each value falls into a class of its column, in one pass.

There are so many classes of a column at most, whatever the rows (spark_udfs/counted_classes.py). Texts do not leave the
JVM, but for a sample of those that may be told: their hashes do. A list is known by its length and some of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_udfs.counted_classes import CELL, DAYS, HOURS, KEYS, LONGEST_WORD, NAMED, NUMBER, TEXT, Place, counted

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = (0.0, 0.13, 0.26, 0.39, 0.52, 0.65, 0.78, 0.91)  # how far into a list of numbers stand those that are looked at
SAMPLED_KEYS, SAMPLED_ROWS = 4096, 2048
DAY_US = 86_400_000_000


class Cells(NamedTuple):
    """Counted groups.

    Attributes:
        rows: of CELL.
        places: what each place is.
    """

    rows: DataFrame
    places: Sequence[Place]


class _Value(NamedTuple):
    """What goes to the count of a place: a number, a hash, a text."""

    x: Column | None = None
    h: Column | None = None
    t: Column | None = None


def cells(
    rows: DataFrame,
    *,
    part: str,
    since_us: Mapping[str, int],
    time: str | None,
    keys: Sequence[str],
    named: frozenset[str],
    about: int,
    until_us: int,
    label: str | None = None,
) -> Cells:
    """Count the groups of all columns of all parts.

    Args:
        rows: the batch; read once.
        part: the column that tells its parts, such as sources, apart.
        since_us: of each part the moment, in microseconds, up to which it came before; one that is not named is new.
        time: the column that says when a row is of.
        keys: the columns that tell rows apart.
        named: columns of texts whose values may be told.
        about: how many rows there are, for the samples of keys and of words.
        until_us: the moment, in microseconds, past which a time is wrong, and counts as no day.
        label: a column that is to be foretold.
    """
    key = F.xxhash64(*keys)
    is_told = F.pmod(key, F.lit(max(1, about // SAMPLED_ROWS))) == 0
    fields = [field for field in rows.schema.fields if field.name != part]
    held = [one for field in fields for one in _of_column(field, named, is_told)]
    if time is not None:
        moment = F.unix_micros(time)
        held.append((Place(time, DAYS), _Value(x=F.when(moment <= until_us, moment / DAY_US))))
    is_counted = F.pmod(key, F.lit(max(1, about // SAMPLED_KEYS))) == 0
    held.append((Place(", ".join(keys), KEYS), _Value(h=F.when(is_counted, key))))
    places = [place for place, _ in held]
    values = [
        column.cast(kind).alias(f"{letter}{number}")
        for number, (_, value) in enumerate(held)
        for letter, kind in (("x", "double"), ("h", "bigint"), ("t", "string"))
        if (column := getattr(value, letter)) is not None
    ]
    asked = rows.select(
        F.col(part).alias("part"),
        _is_later(part, since_us, time).alias("is_later"),
        (F.lit(None) if label is None else F.col(label)).cast("double").alias("y"),
        *values,
    )

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return counted(batches, places)

    return Cells(_together(asked.mapInArrow(count, CELL)), places)


def _together(of_tasks: DataFrame) -> DataFrame:
    """The groups of all tasks."""
    sums = ("rows", "total", "squares", "labelled", "label")
    held = of_tasks.groupBy("part", "is_later", "place", "bin", "text").agg(
        *(F.sum(name).alias(name) for name in sums), F.max("top").alias("top"), F.min("least").alias("least")
    )
    return held.select(*(field.split()[0] for field in CELL.split(", ")))


def _is_later(part: str, since_us: Mapping[str, int], time: str | None) -> Column:
    """Whether a row is of the part that is judged; one without a time is."""
    if time is None or not since_us:
        return F.lit(True)
    since = F.coalesce(*(F.when(F.col(part) == name, F.lit(at)) for name, at in since_us.items()))
    return F.coalesce(F.unix_micros(time) > since, F.lit(True))


def _of_column(field: T.StructField, named: frozenset[str], is_told: Column) -> list[tuple[Place, _Value]]:
    """The places of a column; of one of another kind it is but counted how often it is null."""
    name, kind, value = field.name, field.dataType, F.col(f"`{field.name}`")
    if isinstance(kind, T.NumericType | T.BooleanType):
        return [(Place(name, NUMBER), _Value(x=value))]
    if isinstance(kind, T.StringType):
        is_named = name in named
        hashed = F.when(value.isNotNull(), F.xxhash64(value))
        told = F.when(is_told & (F.length(value) <= LONGEST_WORD), value) if is_named else None
        return [(Place(name, NAMED if is_named else TEXT), _Value(F.length(value), hashed, told))]
    if isinstance(kind, T.TimestampType):
        return [(Place(name, HOURS), _Value(h=F.hour(value)))]
    if isinstance(kind, T.ArrayType):
        return _of_list(name, kind, value)
    return [(Place(name, TEXT), _Value(h=F.when(value.isNotNull(), 0)))]


def _of_list(name: str, kind: T.ArrayType, value: Column) -> list[tuple[Place, _Value]]:
    """How long it is, and some of its numbers."""
    length = F.when(value.isNotNull(), F.size(value))
    held = [(Place(f"{name}: length", NUMBER), _Value(x=length))]
    if isinstance(kind.elementType, T.NumericType):
        for share in PARTS:
            at = F.floor(length * share).cast("int")
            held.append((Place(f"{name}: {share:.0%} in", NUMBER), _Value(x=F.get(value, at))))
    return held
