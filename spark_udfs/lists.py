"""Ranked items for every row of a DataFrame, by item vectors or by one order for all; long rows out.

Queries come as one row per user: `user` bigint, `seen` array<bigint> (item indices) and, for vectors, `vector`
array<float>. What comes back is `user, rank (from 1), item, score, fallback`: a model, a baseline and a table of
recommendations look the same to whoever judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import RANKED_TYPE, float_lists, ids_of, lists, ranked
from spark_udfs.column_types import type_problems
from spark_udfs.packed import pack
from spark_udfs.shared_matrix import digest_of, shared_matrix
from spark_udfs.top_k import Floats, Ints, Lists, first_unseen, no_lists, one_thread, top_k
from training.errors import DataError, SchemaError, TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class MatrixFile:
    """A matrix on disk that executors map; the path must be readable on each of them, or shipped (`on_this_host`).

    Attributes:
        path: a .npy file, a row per item index.
        digest: of its content, so that a file written anew under the same name is not mistaken for the old one.
    """

    path: str
    digest: str

    def open(self) -> npt.NDArray[Any]:
        """The matrix, memory-mapped, on the host that asks."""
        return np.asarray(np.load(on_this_host(self.path), mmap_mode="r"))


def save_matrix(path: str | Path, matrix: npt.NDArray[Any]) -> MatrixFile:
    """Write a matrix of float32 or int32 for executors to map."""
    content, target = np.ascontiguousarray(matrix), Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, content)
    return MatrixFile(str(target), digest_of(content.tobytes()))


def on_this_host(path: str) -> Path:
    """A file or folder as an executor sees it: at its own path, or among the files that Spark shipped.

    Raises:
        TableError: it is at neither place.
    """
    from pyspark import SparkFiles

    here = Path(path)
    if here.exists():
        return here
    shipped = Path(SparkFiles.get(here.name))
    if not shipped.exists():
        raise TableError(
            f"'{path}' cannot be read on this executor, and Spark shipped no file '{here.name}'; put it on a path that "
            "every host mounts, or ship it: spark.addArtifact(path, file=True), for a folder zip + '#' + name with "
            "archive=True (classic sessions of Spark 3.5: spark.sparkContext.addFile, addArchive)"
        )
    return shipped


def require_columns(df: DataFrame, what: str, columns: dict[str, str]) -> None:
    """Check columns and types.

    Raises:
        SchemaError: columns are missing or of another type; all of them are listed.
    """
    if problems := type_problems(df, columns):
        raise SchemaError(f"{what}: {'; '.join(problems)}; select or cast what is named here")


def by_inner_product(
    queries: DataFrame, items: MatrixFile, *, k: int, exclude_seen: bool, allowed: Ints | None = None
) -> DataFrame:
    """The K allowed items of the largest inner product with each row's `vector`.

    Args:
        queries: user, vector, seen.
        items: item vectors; an item's index is its row, and row 0 (unknown) is never recommended.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.
        allowed: item indices that may be recommended; None: all.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "vector": "array<float>", "seen": "array<bigint>"})
    sent = None if allowed is None else pack(allowed_ids(allowed))

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        one_thread()
        kept, matrix = _allowed_rows(items, None if sent is None else sent.unpack())
        for batch in batches:
            vectors = _matrix_of(batch.column(1), matrix.shape[1])
            seen = seen_of(batch.column(2), exclude_seen)
            found, scores = top_k(vectors, matrix, k, seen=seen, ids=kept)
            yield from ranked(ids_of(batch.column(0)), found, scores, np.zeros(len(found), np.bool_))

    return queries.select("user", "vector", "seen").mapInArrow(rank, RANKED_TYPE)


def by_order(queries: DataFrame, order: Ints, *, k: int, exclude_seen: bool) -> DataFrame:
    """The first K of one order for all rows; the score is the number of items behind.

    Args:
        queries: user, seen.
        order: item indices, best first, each once.
        k: at least 1.
        exclude_seen: leave out each row's `seen`.

    Raises:
        SchemaError: a column of `queries` is missing or of another type.
    """
    require_columns(queries, "queries", {"user": "bigint", "seen": "array<bigint>"})
    sent = pack(order)

    def rank(batches: Batches) -> Iterator[pa.RecordBatch]:
        order = sent.unpack()
        place = ranking_scores(order)
        for batch in batches:
            found = first_unseen(order, k, seen_of(batch.column(1), exclude_seen))
            yield from ranked(ids_of(batch.column(0)), found, place(found), np.zeros(len(found), np.bool_))

    return queries.select("user", "seen").mapInArrow(rank, RANKED_TYPE)


def ranking_scores(order: Ints) -> Callable[[Ints], Floats]:
    """Scores for items of an order: how many stand behind, so that a better place has a larger score."""
    places = np.zeros(int(np.max(order, initial=0)) + 1, np.float32)
    places[order] = np.arange(len(order), 0, -1)

    def score(found: Ints) -> Floats:
        return np.where(found >= 0, places[np.maximum(found, 0)], -np.inf).astype(np.float32)

    return score


def allowed_ids(allowed: Ints) -> Ints:
    """Ascending, each once, without the unknown item 0."""
    ids = np.unique(np.asarray(allowed, np.int64))
    return ids[ids > 0]


def seen_of(column: pa.Array, exclude_seen: bool) -> Lists:
    """The lists to leave out; empty ones where nothing is left out."""
    return lists(column) if exclude_seen else no_lists(len(column))


def _allowed_rows(items: MatrixFile, ids: Ints | None) -> tuple[Ints, Floats]:
    """The mapped matrix of the allowed items alone, and their ids."""

    def build() -> Floats:
        return np.asarray(items.open()[kept], np.float32)

    rows = len(items.open())
    kept = np.arange(1, rows) if ids is None else ids[ids < rows]
    return kept, shared_matrix(f"matrix-{items.digest}-{digest_of(kept.tobytes())}", build)


def _matrix_of(column: pa.Array, width: int) -> Floats:
    values, offsets = float_lists(column)
    lengths = np.diff(offsets)
    if (lengths != width).any():
        other = int(lengths[lengths != width][0])
        raise DataError(f"query vectors must have the items' {width} dimensions; one has {other}")
    return values.reshape(-1, width)
