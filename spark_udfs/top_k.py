"""Exact top-K by inner product with a mask per row: what a user has already is left out before the K are counted.

The candidates come from faiss (`faiss.knn`, blocked matrix products, a heap a row). Their scores are then computed
again, each as one product in a fixed order, so that neither the batch a user falls into nor an item's place in the
matrix changes a bit of it, and ties go to the smaller item id. A row whose candidates cannot be shown to hold the
answer (a tie, or a gap below rounding, where the list was cut) is scanned whole.

Shape suffixes: n queries, m items, D dimensions, c candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from training.errors import DataError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CELLS = 1 << 21  # candidates held at once: 2 M, about 40 MB with their keys
GATHERED = 1 << 23  # floats of item vectors gathered at once: 32 MB
MARGIN = 8  # candidates beyond K: what a tie at the cut or a difference of rounding may need


class Lists(NamedTuple):
    """Lists of item ids, row after row: row i is values[offsets[i]:offsets[i + 1]]."""

    values: Ints
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)


class Index(Protocol):
    """Says which rows of a matrix are looked at for a query, and finds the best of those."""

    @property
    def norm(self) -> float:
        """The largest norm of the matrix's rows."""

    def best(self, queries_nD: Floats, depth: int) -> tuple[Floats, Ints]:
        """Scores and rows of the best `depth` of those that are looked at, best first, -1 where there are fewer."""

    def looked_at(self, query_D: Floats) -> Ints:
        """The rows that are looked at for a query, ascending."""


def no_lists(rows: int) -> Lists:
    """An empty list for every row."""
    return Lists(np.zeros(0, np.int64), np.zeros(rows + 1, np.int64))


def top_k(
    queries_nD: Floats,
    items_mD: Floats,
    k: int,
    *,
    seen: Lists | None = None,
    ids: Ints | None = None,
    index: Index | None = None,
) -> tuple[Ints, Floats]:
    """The K items of the largest inner product with each query, exactly.

    Memory is bounded by blocks of rows; nothing of size n x m is ever held.

    Args:
        queries_nD: (n, D).
        items_mD: (m, D); may be memory-mapped, it is not copied.
        k: at least 1.
        seen: for each row the item ids to leave out; ids that are no items are passed over.
        ids: (m,) ascending item ids of the rows of `items_mD`; None: their row numbers.
        index: of these items; a query's K are then the best of those that it looks at, or of all items where fewer than
            K of those are left.

    Returns:
        ids (n, k), -1 where fewer than k are left, and scores (n, k), -inf there; best first, ties by ascending id.

    Raises:
        DataError: shapes that do not fit, a k below 1, or a vector that is not finite.
    """
    seen = seen if seen is not None else no_lists(len(queries_nD))
    queries_nD = np.ascontiguousarray(queries_nD, np.float32)
    _check(queries_nD, items_mD, k, seen, ids)
    norm = largest_norm(items_mD) if index is None else index.norm
    found = np.full((len(queries_nD), k), -1, np.int64)
    scores = np.full((len(queries_nD), k), -np.inf, np.float32)
    if not len(items_mD):
        return found, scores
    of_seen = rows_of(seen, ids, len(items_mD))
    for rows in _blocks(of_seen.lengths, k, len(items_mD), queries_nD.shape[1]):
        block = take(of_seen, rows)
        found[rows], scores[rows], unsure = _search(queries_nD[rows], items_mD, k, block, norm, index)
        for row in rows[unsure]:
            of_row = take(of_seen, np.array([row])).values
            among = None if index is None else index.looked_at(queries_nD[row])
            if among is not None and len(np.setdiff1d(among, of_row)) < k:
                among = None
            found[row], scores[row] = _scan(queries_nD[row], items_mD, k, of_row, among)
    if ids is not None:
        found = np.where(found >= 0, ids[found], -1)
    return found, scores


def first_unseen(order: Ints, k: int, seen: Lists) -> Ints:
    """The first K of one order for all rows, less what each row has seen.

    Args:
        order: item ids, best first, each once.
        k: at least 1.
        seen: for each row the item ids to leave out.

    Returns:
        ids (rows, k), -1 where fewer than k are left.
    """
    found = np.full((len(seen.offsets) - 1, k), -1, np.int64)
    if not len(order):
        return found
    for rows in _blocks(seen.lengths, k, len(order), 1):
        block = take(seen, rows)
        depth = min(len(order), k + int(np.max(block.lengths, initial=0)))
        candidates = np.broadcast_to(order[:depth], (len(rows), depth))
        kept = first_kept(~is_in(candidates, block), k)
        found[rows] = np.where(kept >= 0, order[kept], -1)
    return found


def _check(queries_nD: Floats, items_mD: Floats, k: int, seen: Lists, ids: Ints | None) -> None:
    if k < 1:
        raise DataError(f"k must be at least 1; got {k}")
    if queries_nD.ndim != 2 or items_mD.ndim != 2 or queries_nD.shape[1] != items_mD.shape[1]:
        raise DataError(f"queries and items must be matrices of one width; got {queries_nD.shape} and {items_mD.shape}")
    if len(seen.offsets) != len(queries_nD) + 1:
        given = len(seen.offsets) - 1
        raise DataError(f"each of the {len(queries_nD)} queries needs a list of seen items, not {given}")
    if ids is not None and len(ids) != len(items_mD):
        raise DataError(f"each of the {len(items_mD)} item vectors needs an id; got {len(ids)}")
    if not np.isfinite(queries_nD).all():
        row = int(np.flatnonzero(~np.isfinite(queries_nD).all(axis=1))[0])
        raise DataError(f"query vectors must be finite; row {row} is not: look for a training that diverged")


def largest_norm(items_mD: Floats) -> float:
    """Of item vectors, (m, D).

    Raises:
        DataError: one is not finite.
    """
    squares = [float(np.einsum("md,md->m", block, block).max()) for block in slices(items_mD)]
    norm = math.sqrt(max(squares, default=0.0))
    if not np.isfinite(norm):
        raise DataError(f"item vectors must be finite; the largest norm is {norm}: look for a training that diverged")
    return norm


def slices(items_mD: Floats) -> Iterator[Floats]:
    """The rows of a matrix in parts within the memory bound."""
    step = max(1, GATHERED // max(1, items_mD.shape[1]))
    for start in range(0, len(items_mD), step):
        yield items_mD[start : start + step]


def rows_of(seen: Lists, ids: Ints | None, m: int) -> Lists:
    """Ids to row numbers of the matrix, ascending; what is no item, or stands twice in one list, is dropped."""
    values = seen.values
    inside = (values >= 0) & (values < m)
    if ids is not None:
        places = np.searchsorted(ids, values)
        inside = places < m
        inside[inside] = ids[places[inside]] == values[inside]
        values = places
    rows = np.repeat(np.arange(len(seen.offsets) - 1), seen.lengths)
    keys = np.unique(rows[inside] * np.int64(m) + values[inside])
    counts = np.bincount(keys // m, minlength=len(seen.offsets) - 1)
    return Lists(keys % m, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _blocks(lengths: Ints, k: int, m: int, dimensions: int) -> Iterator[Ints]:
    """Row numbers in blocks of like list lengths, each within the memory bound."""
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order]
    start = 0
    while start < len(order):
        # All rows of a block are searched as deep as its longest list asks: at most twice as deep as its shortest.
        depth = 2 * (k + int(ascending[start]))
        like = int(np.searchsorted(ascending, depth - k, side="right"))
        rows = min(CELLS // max(1, min(m, depth + MARGIN)), GATHERED // ((k + MARGIN) * max(1, dimensions)))
        stop = min(like, start + max(1, rows))
        yield order[start:stop]
        start = stop


def take(lists: Lists, rows: Ints) -> Lists:
    """The lists of some rows."""
    lengths = lists.lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.repeat(lists.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Lists(lists.values[places], offsets)


def is_in(candidates_nc: Ints, lists: Lists) -> Mask:
    """Whether each candidate stands in its row's list."""
    if not len(lists.values):
        return np.zeros(candidates_nc.shape, np.bool_)
    span = np.int64(max(int(np.max(lists.values)), int(np.max(candidates_nc, initial=0))) + 2)
    rows = np.repeat(np.arange(len(candidates_nc)), lists.lengths)
    keys = np.sort(rows * span + lists.values + 1)
    wanted = np.arange(len(candidates_nc))[:, None] * span + candidates_nc + 1
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[places] == wanted, np.bool_)


def first_kept(keep_nc: Mask, count: int) -> Ints:
    """Positions of the first `count` True of each row, (n, count), -1 where there are fewer."""
    nth = np.cumsum(keep_nc, axis=1)
    rows, columns = np.nonzero(keep_nc & (nth <= count))
    positions = np.full((len(keep_nc), count), -1, np.int64)
    positions[rows, nth[rows, columns] - 1] = columns
    return positions


def _search(
    queries_nD: Floats, items_mD: Floats, k: int, seen: Lists, norm: float, index: Index | None
) -> tuple[Ints, Floats, Mask]:
    """Top-K of a block, and which rows must be scanned because what was cut off might belong to it."""
    depth = int(min(len(items_mD), k + MARGIN + int(np.max(seen.lengths, initial=0))))
    if index is None:
        approximate, rows = faiss_set().knn(queries_nD, items_mD, depth, metric=faiss_set().METRIC_INNER_PRODUCT)
    else:
        approximate, rows = index.best(queries_nD, depth)
    places = first_kept((rows >= 0) & ~is_in(rows, seen), k + MARGIN)
    candidates = np.where(places >= 0, np.take_along_axis(rows, places, axis=1), -1)
    found, scores = _ranked(queries_nD, items_mD, candidates)
    # Whatever is not a candidate has at most the last candidate's score, or the list's end where it ran out (of what
    # an index looks at nothing is left then), as faiss rounds; two roundings of one product differ by less than
    # `slack`.
    last = np.where(places[:, -1] >= 0, places[:, -1], depth - 1)
    bound = np.take_along_axis(approximate, last[:, None], axis=1)[:, 0]
    slack = 2.0 * 2.0**-23 * items_mD.shape[1] * norm * np.sqrt(np.einsum("nd,nd->n", queries_nD, queries_nD))
    whole = (index is None) & (depth == len(items_mD)) & (places[:, -1] < 0)
    return found[:, :k], scores[:, :k], ~whole & ~(scores[:, k - 1] > bound + slack)


def _ranked(queries_nD: Floats, items_mD: Floats, candidates_nc: Ints) -> tuple[Ints, Floats]:
    """Candidates (-1: none) by descending score, ties by ascending row number."""
    scores = np.einsum("ncd,nd->nc", items_mD[candidates_nc], queries_nD)
    scores[candidates_nc < 0] = -np.inf
    order = np.lexsort((candidates_nc, -scores), axis=1)
    return np.take_along_axis(candidates_nc, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _scan(query_D: Floats, items_mD: Floats, k: int, seen: Ints, among: Ints | None = None) -> tuple[Ints, Floats]:
    """Top-K of one row over some items or every one, block after block."""
    best = np.full((1, k), -1, np.int64)
    scores = np.full((1, k), -np.inf, np.float32)
    for part in _parts(among, *items_mD.shape):
        rows = np.setdiff1d(part, seen, assume_unique=True)
        if not len(rows):
            continue
        candidates = np.concatenate([best[best >= 0], rows])[None, :]
        ranked, ranked_scores = _ranked(query_D[None, :], items_mD, candidates)
        kept = min(k, ranked.shape[1])
        best[:, :kept], scores[:, :kept] = ranked[:, :kept], ranked_scores[:, :kept]
    return best[0], scores[0]


def _parts(among: Ints | None, m: int, dimensions: int) -> Iterator[Ints]:
    """Rows of the matrix, all or some, so many at a time that their vectors can be gathered."""
    step = max(1, GATHERED // max(1, dimensions))
    for start in range(0, m if among is None else len(among), step):
        yield np.arange(start, min(start + step, m)) if among is None else among[start : start + step]


def one_thread() -> None:
    """Keep this process's searches to one thread: Spark runs one task per core, all of them at once."""
    faiss_set().omp_set_num_threads(1)


def faiss_set() -> Any:
    """faiss, set for batches of small vectors: by default it leaves matrix products for 20 queries or more."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 1
    return faiss
