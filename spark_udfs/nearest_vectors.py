"""The vectors nearest to a row's own, exactly: which rows these are, and which class most of them have.

The vectors that are compared with lie in a file that all workers map (spark_udfs/item_files.py); blocks of rows are
compared at a time (spark_udfs/top_k.py), so that nothing of rows x vectors is ever held. Vectors have length 1, so that
a product is a cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.answers import named
from spark_udfs.arrow import float_lists
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.top_k import Lists, top_k
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ROWS = 4_096  # that are compared at once


def save(rows: DataFrame, folder: Path, name: str) -> ItemFile:
    """Vectors to compare with, in a file.

    Args:
        rows: key (string), vector (array<float>, all of one length); with `label` (bigint), if there are classes.
        folder: the same one on the driver and on every executor.
        name: of the file.

    Raises:
        DataError: two keys have one hash, or a key stands twice.
        TableError: an executor has another folder there, or none.
    """
    more = [name for name in rows.columns if name == "label"]
    held = rows.select(F.xxhash64("key").alias("item"), "vector", *more)
    twice = held.groupBy("item").count().where("count > 1").limit(1).collect()
    if twice:
        raise DataError(
            f"rows to compare with must be told apart by their key's hash; {twice[0]['count']} have the hash "
            f"{twice[0]['item']}: leave out all but one of them"
        )
    return save_items(held, folder, name)


def classes(asked: DataFrame, file: ItemFile, neighbours: int) -> DataFrame:
    """Of each row `key`, `class` (bigint: that of most of its neighbours, of equally many that of the smaller number)
    and `p` (the share of them).

    Args:
        asked: key (string), vector.
        file: from `save`, with labels.
        neighbours: how many are asked, at most all there are.
    """

    def of(key: pa.Array, vectors: Floats) -> pa.RecordBatch:
        items, label, matrix = file.open("item"), file.open("label"), file.open("vector")
        found, _ = top_k(vectors, matrix, min(neighbours, file.rows), ids=items)
        best, share = most_frequent(label[np.searchsorted(items, found)])
        return pa.record_batch([key, pa.array(best, pa.int64()), pa.array(share, pa.float64())], ["key", "class", "p"])

    return _answered(asked, of, "key string, class bigint, p double")


def most_frequent(votes: Ints) -> tuple[Ints, npt.NDArray[np.float64]]:
    """(rows,) the most frequent number of each row, of equally many the smallest, and its share; of (rows, votes)."""
    held = np.sort(votes, axis=1)
    place = np.arange(held.shape[1])
    begins = np.where(np.diff(held, axis=1, prepend=held[:, :1] - 1) != 0, place, 0)
    alike = place - np.maximum.accumulate(begins, axis=1) + 1  # of a run of equal ones so many so far
    ends, rows = alike.argmax(axis=1), np.arange(len(held))
    return held[rows, ends], alike[rows, ends] / held.shape[1]


def similar(asked: DataFrame, file: ItemFile, most: int) -> DataFrame:
    """`key`, `rank` (from 1), `item` (the hash of another row's key) and `cosine`, of the most similar rows but itself.

    Args:
        asked: key (string), vector; rows of `file`, or others.
        file: from `save`.
        most: of each, where there are so many.
    """

    def of(key: pa.Array, own: Ints, vectors: Floats) -> pa.RecordBatch:
        itself = Lists(own, np.arange(len(own) + 1))
        found, scores = top_k(vectors, file.open("vector"), most, seen=itself, ids=file.open("item"))
        row, rank = np.nonzero(np.isfinite(scores))
        columns = [
            key.take(pa.array(row)),
            pa.array(rank + 1, pa.int32()),
            pa.array(found[row, rank]),
            pa.array(scores[row, rank], pa.float32()),
        ]
        return pa.record_batch(columns, ["key", "rank", "item", "cosine"])

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch, vectors in _pieces(batches):
            yield of(named(batch, "key"), named(batch, "own").to_numpy(), vectors)

    given = asked.select("key", "vector", F.xxhash64("key").alias("own"))
    return given.mapInArrow(answer, "key string, rank int, item bigint, cosine float")


def _answered(asked: DataFrame, of: Callable[[pa.Array, Floats], pa.RecordBatch], schema: str) -> DataFrame:
    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch, vectors in _pieces(batches):
            yield of(named(batch, "key"), vectors)

    return asked.select("key", "vector").mapInArrow(answer, schema)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, Floats]]:
    """Some rows at a time, with their vectors (rows, D)."""
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            part = batch.slice(start, ROWS)
            values, _ = float_lists(named(part, "vector"))
            yield part, np.asarray(values.reshape(part.num_rows, -1), np.float32)
