"""A table of past shares: rows fall into bands of some columns, and a row is answered with the mean of its cell.

By one column it is a rule such as recency; by recency, frequency and value it is the RFM table of direct marketing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

PRIOR = 1.0  # the mean of all rows counts in a cell as so many


@dataclass(frozen=True)
class Table:
    """A fitted table.

    Attributes:
        edges: by column, ascending: a band begins at each.
        cells: a row a cell that has any: `band_COLUMN` of each, and the labels' means.
        means: the labels' means over all rows, for cells that have none.
    """

    edges: Mapping[str, Sequence[float]]
    cells: DataFrame
    means: Mapping[str, float]


def fit(rows: DataFrame, names: Sequence[str], labels: Sequence[str], *, bands: int) -> Table:
    """Cells of about equally many rows, by each column alone; what comes to the driver is their edges.

    Args:
        rows: `names` and `labels`, numbers.
        names: the columns that make a cell.
        labels: what is answered, not null.
        bands: of each column, at most; columns with few values have fewer.
    """
    shares = [place / bands for place in range(1, bands)]
    found = rows.agg(
        *(F.percentile_approx(name, shares).alias(f"edges {name}") for name in names),
        *(F.avg(label).alias(f"mean {label}") for label in labels),
    ).collect()[0]
    edges = {name: sorted({float(edge) for edge in found[f"edges {name}"]}) for name in names}
    means = {label: float(found[f"mean {label}"]) for label in labels}
    of_cell = {
        label: (F.sum(label) + F.lit(PRIOR * mean)) / (F.count(F.lit(1)) + F.lit(PRIOR))
        for label, mean in means.items()
    }
    cells = rows.groupBy(*_bands(edges)).agg(*(value.alias(label) for label, value in of_cell.items()))
    return Table(edges, cells, means)


def answer(asked: DataFrame, table: Table) -> DataFrame:
    """`key` and each label's mean (double) in the cell that a row falls into; that of all where nobody fell into it.

    Args:
        asked: key, and the table's columns.
        table: from `fit`.
    """
    named = asked.select("key", *_bands(table.edges))
    found = named.join(F.broadcast(table.cells), on=[f"band_{name}" for name in table.edges], how="left")
    return found.select(
        "key", *(F.coalesce(label, F.lit(mean)).cast("double").alias(label) for label, mean in table.means.items())
    )


def _bands(edges: Mapping[str, Sequence[float]]) -> list[Column]:
    """The band of each column."""
    return [_band(name, held).alias(f"band_{name}") for name, held in edges.items()]


def _band(name: str, edges: Sequence[float]) -> Column:
    """How many edges lie at a column's value or below."""
    return F.size(F.filter(F.array(*(F.lit(edge) for edge in edges)), lambda edge: edge <= F.col(name)))
