"""Item-item: what is bought by the same users as what a user has bought. The third thing that a model has to beat.

The similarity of two items is the cosine of their sets of users (Sarwar et al., 2001), counted in Spark SQL; each item
keeps its nearest ones, and a user's score of an item is the sum of its similarities to all that the user has bought.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.arrow import RANKED_TYPE, ids_of, lists, ranked
from spark_udfs.lists import Batches, MatrixFile, require_columns, save_matrix
from spark_udfs.packed import pack
from spark_udfs.top_k import CELLS, Floats, Ints, Lists, take

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NEIGHBOURS = 50  # kept per item; with 100 the recall on Online Retail is a tenth lower
PAIRS = 1 << 23  # counted at once: 64 MB of keys
# Pairs grow with the square of a user's items: one reseller with 5,000 would make 12 M of them.
MAX_ITEMS_PER_USER = 500


@dataclass(frozen=True)
class NeighbourFiles:
    """Each item's nearest items, where executors can map them: a row per item index, nearest first.

    Attributes:
        items: int32 (items, neighbours) indices; 0 where an item has fewer.
        similarities: float32 (items, neighbours).
    """

    items: MatrixFile
    similarities: MatrixFile


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
        pairs.join(F.broadcast(sizes), on="item", how="inner")
        .join(F.broadcast(its_sizes), on="neighbour", how="inner")
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


def save_neighbours(near: DataFrame, folder: Path, *, top: int = NEIGHBOURS) -> NeighbourFiles:
    """Put neighbours where executors can map them; what passes through the driver is bounded by the items.

    Args:
        near: what `neighbours` returns.
        folder: readable on every executor; neighbours.npy and similarities.npy are written there.
        top: neighbours per item.
    """
    row = F.sort_array(F.collect_list(F.struct("similarity", (-F.col("neighbour")).alias("neighbour"))), asc=False)
    rows = near.groupBy("item").agg(row.alias("row"))
    columns = rows.select(
        "item",
        F.transform("row", lambda pair: -pair["neighbour"]).alias("neighbours"),
        F.transform("row", lambda pair: pair["similarity"].cast("float")).alias("similarities"),
    ).toPandas()
    size = int(columns["item"].max()) + 1 if len(columns) else 1
    items, similarities = np.zeros((size, top), np.int32), np.zeros((size, top), np.float32)
    for item, its, how in zip(columns["item"], columns["neighbours"], columns["similarities"], strict=True):
        items[item, : len(its)] = its
        similarities[item, : len(how)] = how
    return NeighbourFiles(
        save_matrix(folder / "neighbours.npy", items), save_matrix(folder / "similarities.npy", similarities)
    )


def item_item(queries: DataFrame, near: NeighbourFiles, allowed: Ints, *, k: int, exclude_seen: bool) -> DataFrame:
    """The items most similar to all that a user has bought: the sum of similarities over `seen`.

    A user whose items have fewer than K neighbours gets fewer rows.

    Args:
        queries: user, seen.
        near: from `save_neighbours`.
        allowed: item indices that may be recommended.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})
    sent = pack(np.unique(allowed))

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        items, similarities = near.items.open(), near.similarities.open()
        may = np.isin(np.arange(len(items)), sent.unpack())
        may[0] = False
        for batch in batches:
            seen = _inside(lists(batch.column(1)), len(items))
            found, scores = sums_of_neighbours(seen, items, similarities, may, k, exclude_seen=exclude_seen)
            yield from ranked(ids_of(batch.column(0)), found, scores, np.zeros(len(found), np.bool_))

    return queries.select("user", "seen").mapInArrow(rank, RANKED_TYPE)


def sums_of_neighbours(
    seen: Lists,
    items_mN: npt.NDArray[np.int32],
    similarities_mN: Floats,
    may: npt.NDArray[np.bool_],
    k: int,
    *,
    exclude_seen: bool,
) -> tuple[Ints, Floats]:
    """The K largest sums of similarities of each row, (rows, k), -1 and -inf where there are fewer."""
    rows = len(seen.offsets) - 1
    found, scores = np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)
    # A block holds so many rows that their neighbours stay within the memory bound; one row always fits.
    block_of = (seen.offsets[1:] * items_mN.shape[1]) // CELLS
    for block in np.split(np.arange(rows), np.flatnonzero(np.diff(block_of)) + 1):
        mine = take(seen, block)
        found[block], scores[block] = _sums(mine, items_mN, similarities_mN, may, k, exclude_seen)
    return found, scores


def _sums(
    seen: Lists,
    items_mN: npt.NDArray[np.int32],
    similarities_mN: Floats,
    may: npt.NDArray[np.bool_],
    k: int,
    mask: bool,
) -> tuple[Ints, Floats]:
    rows, span = len(seen.offsets) - 1, np.int64(len(items_mN))
    row_of = np.repeat(np.arange(rows), seen.lengths)
    neighbours_tN = items_mN[seen.values]
    kept = may[neighbours_tN]
    keys, places = np.unique((row_of[:, None] * span + neighbours_tN)[kept], return_inverse=True)
    sums = np.bincount(places, weights=similarities_mN[seen.values][kept], minlength=len(keys))
    if mask:
        unseen = ~np.isin(keys, row_of * span + seen.values)
        keys, sums = keys[unseen], sums[unseen]
    row, item = keys // span, keys % span
    order = np.lexsort((item, -sums, row))
    first = np.searchsorted(row, np.arange(rows))
    place = np.arange(len(keys)) - first[row[order]]
    top = order[place < k]
    found, scores = np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)
    found[row[top], place[place < k]] = item[top]
    scores[row[top], place[place < k]] = sums[top]
    return found, scores


def _inside(seen: Lists, m: int) -> Lists:
    """The lists without what is no item of the matrix."""
    inside = (seen.values > 0) & (seen.values < m)
    counted = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
    return Lists(seen.values[inside], counted[seen.offsets])
