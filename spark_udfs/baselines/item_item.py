"""Item-item: what is bought by the same users as what a user has bought. The third thing that a model has to beat.

The similarity of two items is the cosine of their sets of users (Sarwar et al., 2001), counted in Spark SQL; each item
keeps its nearest ones, and a user's score of an item is the sum of its similarities to all that the user has bought.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.arrow import RANKED_TYPE, ids_of, lists, ranked
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.lists import Batches, require_columns
from spark_udfs.top_k import CELLS, Floats, Ints, Lists, rows_of, take

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NEIGHBOURS = 50  # kept per item; with 100 the recall on Online Retail is a tenth lower
PAIRS = 1 << 23  # counted at once: 64 MB of keys
# Pairs grow with the square of a user's items: one reseller with 5,000 would make 12 M of them.
MAX_ITEMS_PER_USER = 500


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


def neighbours(counts: DataFrame, *, top: int = NEIGHBOURS) -> DataFrame:
    """Each item's most similar items by the cosine of their sets of users: item, neighbour, similarity.

    A user with more than MAX_ITEMS_PER_USER items counts with that many of them, chosen by hash.

    Args:
        counts: user, item (each pair once).
        top: neighbours kept per item; ties go to the smaller index.
    """
    pair = F.struct(F.xxhash64("user", "item").alias("draw"), "item")
    drawn = F.slice(F.sort_array(F.collect_list(pair)), 1, MAX_ITEMS_PER_USER)
    by_user = counts.groupBy("user").agg(F.array_sort(F.transform(drawn, lambda row: row["item"])).alias("items"))
    sizes = by_user.select(F.explode("items").alias("item")).groupBy("item").agg(F.count(F.lit(1)).alias("size"))
    parts = by_user.select("items").mapInArrow(_count_pairs, "item bigint, neighbour bigint, together bigint")
    pairs = parts.groupBy("item", "neighbour").agg(F.sum("together").alias("together"))
    its_sizes = sizes.select(F.col("item").alias("neighbour"), F.col("size").alias("its_size"))
    cosine = F.col("together") / F.sqrt(F.col("size") * F.col("its_size"))
    similar = (
        pairs.join(sizes, on="item", how="inner")
        .join(its_sizes, on="neighbour", how="inner")
        .select("item", "neighbour", cosine.alias("similarity"))
    )
    turned = similar.select(F.col("neighbour").alias("item"), F.col("item").alias("neighbour"), "similarity")
    nearest = Window.partitionBy("item").orderBy(F.desc("similarity"), "neighbour")
    return (
        similar.unionByName(turned)
        .withColumn("nth", F.row_number().over(nearest))
        .where(F.col("nth") <= top)
        .select("item", "neighbour", "similarity")
    )


def _count_pairs(batches: Batches) -> Iterator[pa.RecordBatch]:
    """How many of these users have both items, of each pair item < neighbour: a partial count per block of users."""
    for batch in batches:
        sets = lists(batch.column(0))
        pairs_before = np.concatenate([[0], np.cumsum(sets.lengths * (sets.lengths - 1) // 2)])
        for block in np.split(np.arange(len(sets.lengths)), np.flatnonzero(np.diff(pairs_before[1:] // PAIRS)) + 1):
            first, second = pairs_of(take(sets, block))
            keys, together = np.unique((first << 32) | second, return_counts=True)
            columns = [keys >> 32, keys & 0xFFFFFFFF, together.astype(np.int64)]
            yield pa.RecordBatch.from_arrays(list(map(pa.array, columns)), names=["item", "neighbour", "together"])


def pairs_of(sets: Lists) -> tuple[Ints, Ints]:
    """Every pair of a list's elements, the earlier one first, of all lists."""
    places = np.arange(len(sets.values))
    later = np.repeat(sets.offsets[1:], sets.lengths) - places - 1  # elements of the same list that follow
    before = np.cumsum(later) - later
    second = np.repeat(places + 1 - before, later) + np.arange(int(later.sum()))
    return np.repeat(sets.values, later), sets.values[second]


def save_neighbours(near: DataFrame, folder: Path, *, top: int = NEIGHBOURS) -> ItemFile:
    """Have an executor put neighbours where all can map them (`spark_udfs.item_files`).

    Args:
        near: what `neighbours` returns.
        folder: the same one on the driver and on every executor.
        top: neighbours per item.
    """
    pairs = F.sort_array(F.collect_list(F.struct("similarity", (-F.col("neighbour")).alias("neighbour"))), asc=False)
    rows = near.groupBy("item").agg(pairs.alias("pairs"))
    none = F.struct(F.lit(0.0).alias("similarity"), F.lit(0).cast("bigint").alias("neighbour"))
    filled = rows.withColumn("pairs", F.concat("pairs", F.array_repeat(none, F.lit(top) - F.size("pairs"))))
    columns = filled.select(
        "item",
        F.transform("pairs", lambda pair: (-pair["neighbour"]).cast("int")).alias("neighbours"),
        F.transform("pairs", lambda pair: pair["similarity"].cast("float")).alias("similarities"),
    )
    return save_items(columns, folder, "neighbours")


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
