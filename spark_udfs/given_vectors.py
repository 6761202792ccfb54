"""Vectors of items that a table brings: of pictures, of sounds, of any model that the shop has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


class Told(NamedTuple):
    """What a column of vectors holds.

    Attributes:
        items: with a vector that is not empty.
        others: of these, with one of another length than it should have.
        least: the least length; None where there is no vector.
        greatest: the greatest.
        unfit: of those of the right length, with a number that is null, NaN or not finite in 32 bits.
    """

    items: int
    others: int
    least: int | None
    greatest: int | None
    unfit: int


def look_into(values: DataFrame, widths: Mapping[str, int]) -> dict[str, Told]:
    """What columns of vectors hold, in one pass.

    Args:
        values: with a column of lists of numbers for each.
        widths: how many numbers a vector has, by column.
    """
    sums = []
    for name, width in widths.items():
        length = F.when(F.size(name) > 0, F.size(name))
        is_unfit = (length == width) & fit(F.col(name), width).isNull()
        of_name = F.count(length), F.count_if(length != width), F.min(length), F.max(length), F.count_if(is_unfit)
        sums.append(
            F.struct(*(part.alias(field) for part, field in zip(of_name, Told._fields, strict=True))).alias(name)
        )
    (found,) = values.agg(*sums).collect()
    return {name: Told(*found[name]) for name in widths}


def fit(vector: Column, width: int) -> Column:
    """A list of numbers as a vector (array<float>); null where it is of another length, or not all finite."""
    numbers = vector.cast("array<float>")
    are_finite = F.forall(numbers, lambda number: number.isNotNull() & (F.abs(number) < F.lit(float("inf"))))
    return F.when((F.size(numbers) == width) & are_finite, numbers)
