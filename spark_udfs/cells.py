"""Rows counted in cells by a number of theirs, the finest at the top, and what resamples of them add up to.

A cell is a range of the numbers that holds all rows of one number, so that equal ones are never told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES_AT_ONCE = 50
ROWS_AT_ONCE = 512  # whose weights are held at once: 512 x 1,000 doubles are 4 MB


def edges_of(wide: DataFrame, names: Sequence[str], cells: int, finest: float) -> list[Doubles]:
    """By model, where its cells begin, ascending: at numbers that a falling share of its rows reaches; exact up to
    100,000 rows.

    Args:
        wide: `scores`, an array with a number of each model.
        names: the models.
        cells: at most.
        finest: share of the rows in the highest cell.

    Raises:
        DataError: a model has no number of a row.
    """
    levels = F.array(*(F.lit(float(1 - share)) for share in np.geomspace(finest, 1, cells - 1)))
    scores = [F.col("scores")[place] for place in range(len(names))]
    missing = (F.count_if(score.isNull() | F.isnan(score)) for score in scores)
    found = wide.agg(*missing, *(F.percentile_approx(score, levels, F.lit(100_000)) for score in scores)).collect()[0]
    for name, left_out in zip(names, found, strict=False):
        if left_out:
            raise DataError(f"'{name}' must answer every row that is judged, and left out {left_out:,} of them")
    return [np.unique(np.asarray(held, np.float64)) for held in found[len(names) :]]


def cells_of(scores: Doubles, edges: Doubles) -> Ints:
    """The cell of each score; 0 is the highest."""
    return len(edges) - np.searchsorted(edges, scores, side="right")


def blocks(models: Iterable[int], numbers: Iterable[int], values: Sequence[Any], kind: pa.DataType) -> pa.RecordBatch:
    """What models have of blocks of resamples, by the blocks' numbers, as rows that can be added up by both."""
    columns = [pa.array(models, pa.int32()), pa.array(numbers, pa.int32()), pa.array(values, pa.list_(kind))]
    return pa.record_batch(columns, ["model", "block", "values"])
