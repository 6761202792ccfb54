"""Each item's nearest items by the cosine of their sets of users (Sarwar et al., 2001), counted item by item.

Every item of a user goes, with all items of that user, to the task that has this item; there they are counted and the
nearest kept. No row of a pair of items is ever made: of pairs there are as many as the square of a user's items, and in
a large shop nearly all of them are different ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.arrow import ids_of, lists
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.lists import Batches
from spark_udfs.top_k import Floats, Ints

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NEIGHBOURS = 50  # kept per item; with 100 the recall on Online Retail is a tenth lower
# Pairs grow with the square of a user's items: one reseller with 5,000 would make 12 M of them.
MAX_ITEMS_PER_USER = 500
FEW = 16  # so many items for each value that stands there, and sorting is quicker than a counter for every item
AT_ONCE = 1 << 20  # counts of one item that wait to be added up: 16 MB
ROWS = 4096  # items of one batch that comes out

Found = tuple[int, npt.NDArray[np.int32], Floats]


def save_neighbours(counts: DataFrame, folder: Path, *, top: int = NEIGHBOURS) -> ItemFile:
    """Have executors find each item's nearest items, and put them where all can map them (`spark_udfs.item_files`).

    A user with more than MAX_ITEMS_PER_USER items counts with that many of them, chosen by hash.

    Args:
        counts: user, item (each pair once); items below 2^31.
        folder: the same one on the driver and on every executor.
        top: neighbours kept per item, nearest first; ties go to the smaller index.

    Returns:
        `item` (those that have any), `neighbours` (top,) int32, 0 where an item has fewer, and `similarities` (top,).
    """
    pair = F.struct(F.xxhash64("user", "item").alias("draw"), F.col("item").cast("int").alias("item"))
    drawn = F.slice(F.sort_array(F.collect_list(pair)), 1, MAX_ITEMS_PER_USER)
    of_users = counts.groupBy("user").agg(F.transform(drawn, lambda row: row["item"]).alias("items"))
    of_items = of_users.select(F.explode("items").alias("item"), "items")
    sizes = of_items.groupBy("item").agg(F.count(F.lit(1)).alias("size"))
    users = save_items(sizes.select(F.col("item").cast("bigint"), "size"), folder, "buyers")

    def find(batches: Batches) -> Iterator[pa.RecordBatch]:
        rows = list[Found]()
        for found in nearest(batches, users.open("item"), users.open("size"), top):
            rows.append(found)
            if len(rows) == ROWS:
                yield _batch(rows)
                rows = []
        yield _batch(rows)

    near = of_items.repartition("item").sortWithinPartitions("item")
    kept = near.mapInArrow(find, "item bigint, neighbours array<int>, similarities array<float>")
    return save_items(kept, folder, "neighbours")


def nearest(batches: Batches, ids: Ints, sizes: Ints, top: int) -> Iterator[Found]:
    """Each item with its nearest ones and their cosines, of those that have any.

    Args:
        batches: item, and the items of one of its users; rows of an item stand side by side.
        ids: (m,) all items, ascending.
        sizes: (m,) users of each.
        top: how many; the rest is filled up with 0.
    """
    for item, counted in groupby(_counted(batches, int(ids[-1]) if len(ids) else 0), key=itemgetter(0)):
        others, together = _added_up(part for _, part in counted)
        kept = others != item
        others, together = others[kept], together[kept]
        if len(others):
            size = sizes[np.searchsorted(ids, item)]
            yield item, *_best(others, together / np.sqrt(size * sizes[np.searchsorted(ids, others)]), top)


def _counted(batches: Batches, largest: int) -> Iterator[tuple[int, tuple[Ints, Ints]]]:
    """How often other items stand beside an item, a part for each run of its rows."""
    for batch in batches:
        items, beside = ids_of(batch.column(0), "item"), lists(batch.column(1))
        starts = np.concatenate([[0], np.flatnonzero(np.diff(items)) + 1]) if len(items) else np.zeros(0, np.int64)
        for start, end in zip(starts, [*starts[1:], len(items)], strict=True):
            values = beside.values[beside.offsets[start] : beside.offsets[end]]
            yield int(items[start]), _count(values, largest)


def _count(values: Ints, largest: int) -> tuple[Ints, Ints]:
    """The values that occur, ascending, and how often: by sorting a few, by a counter for each value where there are
    many."""
    if len(values) * FEW < largest:
        return np.unique(values, return_counts=True)
    often = np.bincount(values)
    there = np.flatnonzero(often)
    return there, often[there]


def _added_up(parts: Iterable[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """The sum of all parts; those that wait for it are no longer than it is, or than AT_ONCE."""
    queue, waiting = list[tuple[Ints, Ints]](), 0
    for part in parts:
        queue.append(part)
        waiting += len(part[0])
        if waiting > max(AT_ONCE, 2 * len(queue[0][0])):
            queue, waiting = [_sum(queue)], 0
    return _sum(queue)


def _sum(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    if len(parts) == 1:
        return parts[0]
    values, places = np.unique(np.concatenate([values for values, _ in parts]), return_inverse=True)
    often = np.bincount(places, weights=np.concatenate([often for _, often in parts]), minlength=len(values))
    return values, often.astype(np.int64)


def _best(others: Ints, similarities: npt.NDArray[np.float64], top: int) -> tuple[npt.NDArray[np.int32], Floats]:
    if len(others) > top:
        least = np.partition(similarities, -top)[-top]
        others, similarities = others[similarities >= least], similarities[similarities >= least]
    order = np.lexsort((others, -similarities))[:top]
    filled = (0, top - len(order))
    return np.pad(others[order], filled).astype(np.int32), np.pad(similarities[order], filled).astype(np.float32)


def _batch(rows: list[Found]) -> pa.RecordBatch:
    columns = [
        pa.array([item for item, _, _ in rows], pa.int64()),
        pa.array([others for _, others, _ in rows], pa.list_(pa.int32())),
        pa.array([similarities for _, _, similarities in rows], pa.list_(pa.float32())),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["item", "neighbours", "similarities"])
