"""Segments of customers by k-means, each with a name that says who they are: how often, how lately, for how much.

Customers are put on the logarithms of three numbers, each over its own spread, and k-means (Spark's own, from
k-means||) finds the centres on rows drawn by a hash. A customer belongs to the nearest centre. What a segment is called
is told by its middle customer: of the lower third of all who were drawn, of the upper third, or between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from pyspark.sql import Column, DataFrame

COLUMNS = ("order_days", "recency_days", "value")
WORDS = {
    "order_days": ("few orders", "some orders", "many orders"),
    "recency_days": ("lately", "a while ago", "long ago"),
    "value": ("little spent", "some spent", "much spent"),
}
LEAST_SPREAD = 1e-9  # of a number that is the same for all: it tells nobody apart


@dataclass(frozen=True)
class Segment:
    """Customers who are alike.

    Attributes:
        name: who they are.
        centre: of COLUMNS, as `_place` puts them.
        share: of the customers drawn.
        middle: the median of each of COLUMNS of these.
    """

    name: str
    centre: tuple[float, ...]
    share: float
    middle: tuple[float, ...]


@dataclass(frozen=True)
class Segments:
    """All segments, the largest value first.

    Attributes:
        spreads: what the logarithm of each of COLUMNS is divided by.
        all: the segments.
    """

    spreads: tuple[float, ...]
    all: tuple[Segment, ...]

    def of(self) -> Column:
        """The name of the nearest segment of a row with COLUMNS; null where there are none."""
        if not self.all:
            return F.lit(None).cast("string")
        at = [_place(F.col(name), spread) for name, spread in zip(COLUMNS, self.spreads, strict=True)]
        far = [
            reduce(add, ((place - F.lit(of)) * (place - F.lit(of)) for place, of in zip(at, one.centre, strict=True)))
            for one in self.all
        ]
        nearest = F.array_min(
            F.array(*(F.struct(far[number], F.lit(number)) for number in range(len(far)))).cast(
                "array<struct<far: double, number: int>>"
            )
        )
        return F.get(F.array(*(F.lit(one.name) for one in self.all)), nearest["number"])


def fit(customers: DataFrame, number: int, sample: int, seed: int = 0) -> Segments:
    """Find segments.

    Args:
        customers: user_id and COLUMNS, numbers of at least 0.
        number: of segments, at most: fewer where fewer customers differ.
        sample: customers, drawn by a hash, that are looked at; they go through one task.
        seed: of k-means.

    Returns:
        The segments; none where there are no customers.
    """
    drawn = customers.orderBy(F.xxhash64("user_id"), "user_id").limit(sample).select("user_id", *COLUMNS).coalesce(1)
    drawn = drawn.persist()
    try:
        held = drawn.agg(*(F.stddev_pop(F.log1p(name)).alias(name) for name in COLUMNS)).collect()[0]
        if held[COLUMNS[0]] is None:
            return Segments((1.0,) * len(COLUMNS), ())
        spreads = tuple(max(float(held[name]), LEAST_SPREAD) for name in COLUMNS)
        return Segments(spreads, _named(drawn, _centres(drawn, spreads, number, seed), spreads))
    finally:
        drawn.unpersist()


def _place(value: Column, spread: float) -> Column:
    return F.log1p(value.cast("double")) / F.lit(spread)


def _centres(drawn: DataFrame, spreads: tuple[float, ...], number: int, seed: int) -> list[tuple[float, ...]]:
    placed = drawn.select(
        *(_place(F.col(name), spread).alias(name) for name, spread in zip(COLUMNS, spreads, strict=True))
    )
    vectors = VectorAssembler(inputCols=list(COLUMNS), outputCol="place").transform(placed)
    if len(first := placed.distinct().limit(2).collect()) < 2:  # which k-means cannot tell apart
        return [tuple(first[0])]
    model = KMeans(k=number, seed=seed, featuresCol="place").fit(vectors)
    found: Iterable[npt.NDArray[np.float64]] = model.clusterCenters()
    return sorted({tuple(float(value) for value in centre) for centre in found})


def _named(drawn: DataFrame, centres: list[tuple[float, ...]], spreads: tuple[float, ...]) -> tuple[Segment, ...]:
    """The segments with their names, by what their customers among those drawn have."""
    bare = tuple(Segment(str(number), centre, 0, ()) for number, centre in enumerate(centres))
    thirds = drawn.agg(*(F.percentile(name, F.array(F.lit(1 / 3), F.lit(2 / 3))) for name in COLUMNS)).collect()[0]
    told = drawn.groupBy(Segments(spreads, bare).of().alias("name")).agg(
        F.count(F.lit(1)).alias("customers"), *(F.percentile(name, F.lit(0.5)).alias(name) for name in COLUMNS)
    )
    rows = sorted(told.collect(), key=lambda row: (-row["value"], row["name"]))
    customers, taken, found = sum(row["customers"] for row in rows), dict[str, int](), list[Segment]()
    for row in rows:
        middle = tuple(float(row[name]) for name in COLUMNS)
        words = ", ".join(
            WORDS[name][(value > of[0]) + (value > of[1])]
            for name, value, of in zip(COLUMNS, middle, thirds, strict=True)
        )
        taken[words] = taken.get(words, 0) + 1
        name = words if taken[words] == 1 else f"{words} ({taken[words]})"
        found.append(Segment(name, centres[int(row["name"])], row["customers"] / customers, middle))
    return tuple(found)
