"""How far a task's answers have moved from those that it published before.

Both are dealt to ten classes: of a number, such as a probability, by its deciles among the answers before; of an id,
such as an item, by how often it stood in them, in classes that had a tenth of the answers each, and an eleventh of ids
that stood in none. What is said is the total variation between the two, half the sum of the differences of the
classes' shares: 0, the same; 1, nothing in common.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.sessions import persisted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame

TENTHS = [tenth / 10 for tenth in range(1, 10)]
ACCURACY = 10_000  # of deciles: a rank is off by a ten-thousandth of the rows
UNSEEN = -1
Counts = tuple[int, int]  # of answers before, and now


def drift(rows: DataFrame, before: DataFrame, column: str) -> float | None:
    """The total variation between two sets of answers; None where one of them is empty.

    Args:
        rows: the new ones; read once.
        before: those to compare with; read twice where the column is a number, else once.
        column: a number or an id, in both of one type.
    """
    if dict(rows.dtypes)[column] in ("float", "double"):
        return _between(_of_numbers(rows, before, column))
    return _between(_of_ids(rows, before, column))


def _of_numbers(rows: DataFrame, before: DataFrame, column: str) -> list[Counts]:
    edges = before.agg(F.percentile_approx(column, TENTHS, ACCURACY)).collect()[0][0]
    place = _place(F.col(column), edges or [])
    of_both = before.select(place, F.lit(1).alias("old"), F.lit(0).alias("new")).unionByName(
        rows.select(place, F.lit(0).alias("old"), F.lit(1).alias("new"))
    )
    return _counts(of_both)


def _of_ids(rows: DataFrame, before: DataFrame, column: str) -> list[Counts]:
    counted = [one.groupBy(column).agg(F.count(F.lit(1)).alias(name)) for one, name in ((before, "old"), (rows, "new"))]
    both = counted[0].join(counted[1], on=column, how="full_outer").fillna(0, ["old", "new"]).select("old", "new")
    with persisted(both) as of_id:
        # Not the items' tenths, but the answers': a row counts as often as it was given.
        tenths = f"percentile(old, array({', '.join(map(str, TENTHS))}), old)"
        edges = of_id.where("old > 0").agg(F.expr(tenths)).collect()[0][0]
        return _counts(of_id.select(_place(F.col("old"), edges or [], is_count=True), "old", "new"))


def _place(value: Column, edges: Sequence[float], *, is_count: bool = False) -> Column:
    """Which class a value is of: how many edges lie below it."""
    place = reduce(add, ((value > F.lit(edge)).cast("int") for edge in edges), F.lit(0))
    return (F.when(value == 0, UNSEEN).otherwise(place) if is_count else place).alias("place")


def _counts(placed: DataFrame) -> list[Counts]:
    """Of each class how many answers it has, before and now: eleven at most."""
    found = placed.groupBy("place").agg(F.sum("old").alias("old"), F.sum("new").alias("new")).collect()
    return [(row["old"], row["new"]) for row in found]


def _between(classes: Sequence[Counts]) -> float | None:
    old, new = (sum(counts) for counts in zip(*classes, strict=True)) if classes else (0, 0)
    if not old or not new:
        return None
    return sum(abs(before / old - now / new) for before, now in classes) / 2
