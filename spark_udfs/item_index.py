"""Approximate search: items lie in lists, each with the centre that is nearest to it, and a query looks at some lists.

An inverted file (Jegou, Douze and Schmid, 2011), faiss's `IndexIVFFlat`. Which lists a query looks at is decided by
`top_k` of the centres, and what it finds there by `top_k` too: the answer is exactly the best of the items in those
lists, in the stated order. Neither the batch that a query falls into nor the host changes it, for one file serves all.

Shape suffixes: n queries, m items, D dimensions, p lists that are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spark_udfs.top_k import Floats, Ints, Lists, faiss_set, largest_norm, slices, take, top_k

SEED = 1234
ROUNDS = 10  # of k-means
SAMPLED = 64  # items of a list from which its centre is learnt, on average
LISTS = 4  # times the root of the items: the centres cost a query then as much as some lists


@dataclass(frozen=True)
class IndexFile:
    """An index on disk, of a bundle's vectors of some items.

    Attributes:
        path: the file; it must be readable on every executor.
        lists: how many it has.
        probes: how many of them are looked at for a query.
        least: items that any so many lists have at least.
    """

    path: str
    lists: int
    probes: int
    least: int


@dataclass(frozen=True)
class ItemIndex:
    """An index, opened: an `Index` of `top_k`.

    Attributes:
        inverted: faiss's.
        norm: the largest norm of an item's vector.
        probes: lists that are looked at for a query.
    """

    inverted: Any
    norm: float
    probes: int

    @cached_property
    def centres(self) -> Floats:
        """(lists, D)."""
        return np.asarray(self.inverted.quantizer.reconstruct_n(0, self.inverted.nlist), np.float32)

    @cached_property
    def sizes(self) -> Ints:
        """(lists,) how many items each has."""
        held = self.inverted.invlists
        return np.array([held.list_size(one) for one in range(self.inverted.nlist)], np.int64)

    @property
    def least(self) -> int:
        """How many items a query looks at, at least."""
        return int(np.sort(self.sizes)[: self.probes].sum())

    def best(self, queries_nD: Floats, depth: int) -> tuple[Floats, Ints]:
        """Scores and rows of the best `depth` in the lists that are looked at, (n, depth); -1 where there are fewer."""
        lists_np, scores_np = top_k(queries_nD, self.centres, self.probes)
        scores, rows = self.inverted.search_preassigned(queries_nD, depth, lists_np, scores_np)
        return scores, rows

    def looked_at(self, query_D: Floats) -> Ints:
        """The rows in the lists that are looked at for a query, ascending."""
        lists_1p, _ = top_k(query_D[None, :], self.centres, self.probes)
        return np.sort(np.concatenate([self._rows(one) for one in lists_1p[0].tolist()]))

    def is_short(self, queries_nD: Floats, k: int, seen: Lists) -> npt.NDArray[np.bool_]:
        """(n,) whose lists hold fewer than K items that are not seen, so that all items are looked at.

        Args:
            queries_nD: (n, D).
            k: at least 1.
            seen: for each the rows to leave out, each once.
        """
        lists_np, _ = top_k(queries_nD, self.centres, self.probes)
        held = self.sizes[lists_np].sum(axis=1)
        short = held - seen.lengths < k
        for row in np.flatnonzero(short & (held >= k)):
            inside = np.isin(take(seen, np.array([row])).values, self.looked_at(queries_nD[row]))
            short[row] = held[row] - inside.sum() < k
        return np.asarray(short & (held < self.inverted.ntotal), np.bool_)

    def _rows(self, one: int) -> Ints:
        held, faiss = self.inverted.invlists, faiss_set()
        size = held.list_size(one)
        return np.array(faiss.rev_swig_ptr(held.get_ids(one), size)) if size else np.zeros(0, np.int64)


def build_index(items_mD: Floats, lists: int | None, path: Path) -> None:
    """Write an index of items; the same vectors give the same one.

    Args:
        items_mD: (m, D), of one item at least; may be memory-mapped. It is copied.
        lists: how many, one an item at most; None: LISTS times the root of the items.
        path: the file.
    """
    faiss, (m, dimensions) = faiss_set(), items_mD.shape
    count = min(m, ceil(LISTS * sqrt(m)) if lists is None else lists)
    means = faiss.Kmeans(
        dimensions, count, niter=ROUNDS, seed=SEED, min_points_per_centroid=1, max_points_per_centroid=SAMPLED
    )
    means.train(items_mD)
    nearest = faiss.IndexFlatL2(dimensions)
    nearest.add(means.centroids)
    inverted = faiss.IndexIVFFlat(nearest, dimensions, count, faiss.METRIC_INNER_PRODUCT)
    for part in slices(items_mD):
        inverted.add(part)
    faiss.write_index(inverted, str(path))


def open_index(path: Path, items_mD: Floats, probes: int) -> ItemIndex:
    """Map an index of these items.

    Args:
        path: the file.
        items_mD: (m, D), those that it was built of.
        probes: lists to look at for a query, of those that there are.
    """
    faiss = faiss_set()
    inverted = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    inverted.nprobe = min(probes, inverted.nlist)
    return ItemIndex(inverted, largest_norm(items_mD), inverted.nprobe)
