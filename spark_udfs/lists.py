"""Ranked items for every row of a DataFrame, by item vectors or by one order for all; long rows out.

Queries come as one row per user: `user` bigint, `seen` array<bigint> (item indices) and, for vectors, `vector`
array<float>. What comes back is `user, rank (from 1), item, score, fallback`: a model, a baseline and a table of
recommendations look the same to whoever judges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.answers import Order, ranking_scores
from spark_udfs.arrow import RANKED_TYPE, float_lists, ids_of, lists, ranked
from spark_udfs.column_types import type_problems
from spark_udfs.item_files import ItemFile
from spark_udfs.top_k import Floats, Lists, first_unseen, no_lists, one_thread, top_k
from training.errors import DataError, SchemaError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Batches = Iterable[pa.RecordBatch]


def longest(queries: DataFrame) -> int:
    """The length of the longest list of `seen`."""
    found = queries.agg(F.max(F.size("seen"))).collect()[0][0]
    return max(int(found or 0), 0)


def require_columns(df: DataFrame, what: str, columns: dict[str, str]) -> None:
    """Check columns and types.

    Raises:
        SchemaError: columns are missing or of another type; all of them are listed.
    """
    if problems := type_problems(df, columns):
        raise SchemaError(f"{what}: {'; '.join(problems)}; select or cast what is named here")


def by_inner_product(queries: DataFrame, items: ItemFile, *, k: int, exclude_seen: bool) -> DataFrame:
    """The K items of the largest inner product with each row's `vector`.

    Args:
        queries: user, vector, seen.
        items: `item` and `vector` (float32 numbers).
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "vector": "array<float>", "seen": "array<bigint>"})

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        one_thread()
        ids, matrix = items.open("item"), items.open("vector")
        for batch in batches:
            vectors = _matrix_of(batch.column(1), matrix.shape[1])
            seen = seen_of(batch.column(2), exclude_seen)
            found, scores = top_k(vectors, matrix, k, seen=seen, ids=ids)
            yield from ranked(ids_of(batch.column(0)), found, scores, np.zeros(len(found), np.bool_))

    return queries.select("user", "vector", "seen").mapInArrow(rank, RANKED_TYPE)


def by_order(queries: DataFrame, order: Order, *, k: int, exclude_seen: bool) -> DataFrame:
    """The first K of one order for all rows; the score is how many items stand there and behind.

    Args:
        queries: user, seen.
        order: deep enough for K and the longest `seen` that is left out.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        place = ranking_scores(order)
        for batch in batches:
            found = first_unseen(order.first, k, seen_of(batch.column(1), exclude_seen))
            yield from ranked(ids_of(batch.column(0)), found, place(found), np.zeros(len(found), np.bool_))

    return queries.select("user", "seen").mapInArrow(rank, RANKED_TYPE)


def seen_of(column: pa.Array, exclude_seen: bool) -> Lists:
    """The lists to leave out; empty ones where nothing is left out."""
    return lists(column) if exclude_seen else no_lists(len(column))


def _matrix_of(column: pa.Array, width: int) -> Floats:
    values, offsets = float_lists(column)
    lengths = np.diff(offsets)
    if (lengths != width).any():
        other = int(lengths[lengths != width][0])
        raise DataError(f"query vectors must have the items' {width} dimensions; one has {other}")
    return values.reshape(-1, width)
