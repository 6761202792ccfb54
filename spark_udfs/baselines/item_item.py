"""Item-item: what is bought by the same users as what a user has bought. The third thing that a model has to beat.

Each item has its nearest ones (spark_udfs/baselines/neighbours.py), and a user's score of an item is the sum of its
similarities to all that the user has bought.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import RANKED_TYPE, ids_of, lists, ranked
from spark_udfs.item_files import ItemFile
from spark_udfs.lists import Batches, require_columns
from spark_udfs.top_k import CELLS, Floats, Ints, Lists, rows_of, take

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Neighbours(NamedTuple):
    """Each item's nearest items, nearest first.

    Attributes:
        ids: (m,) the items that have any, ascending.
        items: (m, N) int32, their neighbours; 0 where an item has fewer.
        similarities: (m, N) float32.
    """

    ids: Ints
    items: npt.NDArray[np.int32]
    similarities: Floats


def item_item(queries: DataFrame, near: ItemFile, *, k: int, exclude_seen: bool) -> DataFrame:
    """The items most similar to all that a user has bought: the sum of similarities over `seen`.

    A user whose items have fewer than K neighbours gets fewer rows.

    Args:
        queries: user, seen.
        near: from `save_neighbours`.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        nearest = Neighbours(*(near.open(column) for column in ("item", "neighbours", "similarities")))
        for batch in batches:
            found, scores = sums_of_neighbours(lists(batch.column(1)), nearest, k, exclude_seen=exclude_seen)
            yield from ranked(ids_of(batch.column(0)), found, scores, np.zeros(len(found), np.bool_))

    return queries.select("user", "seen").mapInArrow(rank, RANKED_TYPE)


def sums_of_neighbours(seen: Lists, near: Neighbours, k: int, *, exclude_seen: bool) -> tuple[Ints, Floats]:
    """The K largest sums of similarities of each row, (rows, k), -1 and -inf where there are fewer."""
    rows = len(seen.offsets) - 1
    found, scores = np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)
    of_seen = rows_of(seen, near.ids, len(near.ids))
    # A block holds so many rows that their neighbours stay within the memory bound; one row always fits.
    block_of = (of_seen.offsets[1:] * near.items.shape[1]) // CELLS
    for block in np.split(np.arange(rows), np.flatnonzero(np.diff(block_of)) + 1):
        place, row, item, sums = _best(take(of_seen, block), near, k, exclude_seen)
        found[block[row], place], scores[block[row], place] = item, sums
    return found, scores


def _best(mine: Lists, near: Neighbours, k: int, mask: bool) -> tuple[Ints, Ints, Ints, Floats]:
    """Place, row, item and sum of the K largest sums of each row."""
    span = np.int64(near.ids[-1] + 1) if len(near.ids) else np.int64(1)
    row_of = np.repeat(np.arange(len(mine.offsets) - 1), mine.lengths)
    neighbours_tN = near.items[mine.values]
    there = neighbours_tN > 0
    keys, places = np.unique((row_of[:, None] * span + neighbours_tN)[there], return_inverse=True)
    sums = np.bincount(places, weights=near.similarities[mine.values][there], minlength=len(keys))
    if mask:
        unseen = ~np.isin(keys, row_of * span + near.ids[mine.values])
        keys, sums = keys[unseen], sums[unseen]
    row, item = keys // span, keys % span
    order = np.lexsort((item, -sums, row))
    row, item, sums = row[order], item[order], sums[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < k
    return place[kept], row[kept], item[kept], sums[kept].astype(np.float32)
