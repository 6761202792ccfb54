"""EASE: a weight for every pair of items, in closed form; a strong baseline where a catalogue's square fits a machine.

With X the users' items of 0 and 1 and P the inverse of X'X + l2 I, the weight of item i for item j is -P_ij / P_jj, and
0 for itself (Steck 2019, "Embarrassingly Shallow Autoencoders"). A user's score of an item is the sum of the weights
that the user's items have for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.arrow import RANKED_TYPE, fixed_lists, ids_of, lists, ranked
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.lists import Batches, require_columns
from spark_udfs.top_k import CELLS, Floats, Ints, Lists, rows_of
from training.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BYTES = 33  # of each pair of items while the inverse is made: four matrices of doubles, and what LAPACK works in


def see_that_it_fits(items: int, most: int) -> None:
    """See to the size of a catalogue, before anything is made of it.

    Raises:
        SettingsError: there are more items than `most`.
    """
    if items > most:
        raise SettingsError(
            f"evaluation.ease_items = {most:,} ({_gigabytes(most)}) must be at least the catalogue's {items:,} items; "
            f"their weights take {_gigabytes(items)} in one task (items x items x {BYTES} bytes); leave ease out of "
            "evaluation.baselines, or raise the bound where an executor has that much"
        )


def fit_ease(counts: DataFrame, allowed: ItemFile, folder: Path, *, l2: float) -> ItemFile:
    """Have an executor make the weights and put them where all can map them (`spark_udfs.item_files`).

    Args:
        counts: user, item (each pair once).
        allowed: the items that are ranked.
        folder: the same one on the driver and on every executor.
        l2: the ridge, in users: larger for fewer lines.

    Returns:
        `item` and `weights` (items,) of each: for every item, in the order of `item`.
    """

    def solve(batches: Batches) -> Iterator[pa.RecordBatch]:
        ids = allowed.open("item")
        gram = np.zeros((len(ids), len(ids)))
        for batch in batches:
            add_pairs(gram, rows_of(lists(batch.column(0)), ids, len(ids)))
        yield from _rows(ids, inverse(gram, l2))

    by_user = counts.groupBy("user").agg(F.collect_list("item").alias("items")).select("items").repartition(1)
    return save_items(by_user.mapInArrow(solve, "item bigint, weights array<float>"), folder, "ease")


def by_ease(queries: DataFrame, weights: ItemFile, *, k: int, exclude_seen: bool) -> DataFrame:
    """The items of the largest sums of weights; who has none of the items gets no rows.

    Args:
        queries: user, seen.
        weights: from `fit_ease`.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        ids, matrix = weights.open("item"), weights.open("weights")
        for batch in batches:
            found, scores = sums_of_weights(lists(batch.column(1)), ids, matrix, k, exclude_seen=exclude_seen)
            yield from ranked(ids_of(batch.column(0)), found, scores, np.zeros(len(found), np.bool_))

    return queries.select("user", "seen").mapInArrow(rank, RANKED_TYPE)


def add_pairs(gram: npt.NDArray[np.float64], sets: Lists) -> None:
    """Add to X'X what some users have together.

    Args:
        gram: (m, m)
        sets: of each user the items, as numbers below m, each once.
    """
    for start, end in zip(sets.offsets[:-1], sets.offsets[1:], strict=True):
        items = sets.values[start:end]
        for part in np.array_split(items, len(items) ** 2 // CELLS + 1):  # one with very many takes no second square
            gram[np.ix_(part, items)] += 1


def inverse(gram: npt.NDArray[np.float64], l2: float) -> npt.NDArray[np.float64]:
    """(m, m), of X'X + l2 I; `gram` is changed."""
    gram[np.diag_indices(len(gram))] += l2
    return np.linalg.inv(gram)


def _rows(ids: Ints, inverted: npt.NDArray[np.float64]) -> Iterator[pa.RecordBatch]:
    """A row an item: its weights for every item."""
    diagonal, step = inverted.diagonal(), max(1, CELLS // max(1, len(ids)))
    for start in range(0, len(ids), step):
        weights = -inverted[start : start + step] / diagonal
        places = np.arange(len(weights))
        weights[places, start + places] = 0
        columns = [pa.array(ids[start : start + step]), fixed_lists(weights)]
        yield pa.RecordBatch.from_arrays(columns, names=["item", "weights"])


def sums_of_weights(seen: Lists, ids: Ints, weights: Floats, k: int, *, exclude_seen: bool) -> tuple[Ints, Floats]:
    """The K largest sums of each row, (rows, k), ties by ascending id; -1 and -inf where there are fewer.

    Args:
        seen: of each row the items that it has.
        ids: (m,) ascending.
        weights: (m, m), row by row what an item adds to each.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.
    """
    rows = len(seen.offsets) - 1
    found, best = np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)
    held = rows_of(seen, ids, len(ids))
    step = max(1, CELLS // max(1, len(ids)))
    for row in np.flatnonzero(held.lengths).tolist():
        mine = held.values[held.offsets[row] : held.offsets[row + 1]]
        scores = np.zeros(len(ids), np.float32)
        for start in range(0, len(mine), step):
            scores += weights[mine[start : start + step]].sum(axis=0)
        if exclude_seen:
            scores[mine] = -np.inf
        count = min(k, len(ids) - (len(mine) if exclude_seen else 0))
        if count:
            likely = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
            order: Ints = np.lexsort((likely, -scores[likely]))[:count]
            first = likely[order]
            found[row, :count], best[row, :count] = ids[first], scores[first]
    return found, best


def _gigabytes(items: int) -> str:
    return f"{items**2 * BYTES / 1e9:,.1f} GB"
