"""The best items of which a list has at most so many of each category, of all items or of some of them. No Spark.

A capped list is what is left of the whole list, in order, when it is walked through and items are passed over whose
category has its number already; items without a category are never passed over.

Shape suffixes: n rows, m items, D dimensions, c candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from spark_udfs.top_k import CELLS, GATHERED, Floats, Index, Ints, Lists, Mask, first_kept, is_in, take, top_k

DEEPER = 4  # times K: how far a list is looked through for what a cap leaves, before each category is searched


@dataclass(frozen=True)
class Search:
    """A search for the best items of some rows. Items are meant by their places, the rows of the matrix.

    Attributes:
        queries: (n, D) of the rows.
        items: (m, D) of all items; may be memory-mapped, it is not copied whole.
        seen: for each row the places to leave out.
        category: (m,) a number for each category, below 0: none; None: there is no cap.
        cap: items of one category that a list has at most; None: any.
        index: of all items, by which they are searched where there is no cap and all may be found; None: all are.
    """

    queries: Floats
    items: Floats
    seen: Lists
    category: Ints | None
    cap: int | None
    index: Index | None = None

    def best(self, k: int, among: Ints | None) -> tuple[Ints, Floats]:
        """The K best places that the cap leaves, and their scores; -1 and -inf where fewer are left.

        What the cap leaves of a list's beginning is the beginning of what it leaves of the whole list. Where that is
        too short, the best of each category are found, as many as the cap lets in: no other item can be listed.

        Args:
            k: at least 1.
            among: the places, ascending, that may be found; None: all.
        """
        if self.cap is None:
            return self._top(k, among)
        found, scores = self._top(DEEPER * k, among)
        kept, values = self._first(found, scores, k)
        unsure = np.flatnonzero((found[:, -1] >= 0) & (kept[:, -1] < 0))
        if len(unsure):
            rest = replace(self, queries=self.queries[unsure], seen=take(self.seen, unsure))
            kept[unsure], values[unsure] = rest._merged(k, rest._by_category(k, among))
        return kept, values

    def _top(self, k: int, among: Ints | None) -> tuple[Ints, Floats]:
        """The K best places without a cap."""
        if among is None:
            return top_k(self.queries, self.items, k, seen=self.seen, index=self.index)
        return replace(self, cap=None)._merged(k, ((part, k) for part in self._parts(among)))

    def _by_category(self, k: int, among: Ints | None) -> Iterator[tuple[Ints, int]]:
        """The places of each category, in parts, and how many of a part can be listed."""
        assert self.category is not None
        places = np.arange(len(self.items)) if among is None else among
        of_places = self.category[places]
        order = np.argsort(of_places, kind="stable")
        for one in np.split(order, np.flatnonzero(np.diff(of_places[order])) + 1):
            limit = k if self.cap is None or of_places[one[0]] < 0 else min(k, self.cap)
            yield from ((part, limit) for part in self._parts(places[one]))

    def _parts(self, places: Ints) -> Iterator[Ints]:
        """Places in parts whose vectors can be gathered."""
        step = max(1, GATHERED // max(1, self.items.shape[1]))
        yield from (places[start : start + step] for start in range(0, len(places), step))

    def _merged(self, k: int, parts: Iterable[tuple[Ints, int]]) -> tuple[Ints, Floats]:
        """The K best of what is best in each part: the cap leaves an item of the whole list in any part of it too."""
        rows = len(self.queries)
        held, wide = [(np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32))], k
        for part, limit in parts:
            few = min(limit, len(part))
            held.append(top_k(self.queries, self.items[part], few, seen=self.seen, ids=part))
            wide += few
            if wide * rows > CELLS:
                held, wide = [self._ordered(held, k)], k
        return self._ordered(held, k)

    def _ordered(self, held: list[tuple[Ints, Floats]], k: int) -> tuple[Ints, Floats]:
        found = np.concatenate([places for places, _ in held], axis=1)
        scores = np.concatenate([values for _, values in held], axis=1)
        return self._first(*at(found, scores, np.lexsort((found, -scores), axis=1)), k)

    def _first(self, found: Ints, scores: Floats, k: int) -> tuple[Ints, Floats]:
        """The first K that the cap leaves of a list in order."""
        return at(found, scores, first_kept(_left(found, self.category, self.cap), k))


def walked(ids: Ints, k: int, seen: Lists, category: Ints | None, cap: int | None) -> Ints:
    """The first K places that a cap leaves of one order for all rows, less what each row has seen.

    Args:
        ids: (m,) of the items, best first, each once.
        k: at least 1.
        seen: for each row the item ids to leave out.
        category: (m,) of the items, below 0: none; None: there is no cap.
        cap: items of one category at most; None: any.

    Returns:
        places (rows, k), -1 where fewer are left.
    """
    best = np.full((len(seen.offsets) - 1, k), -1, np.int64)
    left, start, width = np.arange(len(best)), 0, k + int(np.max(seen.lengths, initial=0))
    while len(left) and start < len(ids):
        stop = min(len(ids), start + min(width, max(1, CELLS // len(left))))
        shape = (len(left), stop - start)
        is_seen = is_in(np.broadcast_to(ids[start:stop], shape), take(seen, left))
        block = np.where(is_seen, -1, np.broadcast_to(np.arange(start, stop), shape))
        listed = np.concatenate([best[left], block], axis=1)
        columns = first_kept(_left(listed, category, cap), k)
        best[left] = np.where(columns >= 0, np.take_along_axis(listed, columns, axis=1), -1)
        left, start, width = left[best[left, -1] < 0], stop, DEEPER * width
    return best


def at(found: Ints, scores: Floats, columns: Ints) -> tuple[Ints, Floats]:
    """Candidates and scores in some columns of each row; none where the column is -1."""
    places, values = np.take_along_axis(found, columns, axis=1), np.take_along_axis(scores, columns, axis=1)
    return np.where(columns >= 0, places, -1), np.where(columns >= 0, values, np.float32(-np.inf))


def _left(places_nc: Ints, category: Ints | None, cap: int | None) -> Mask:
    """Which places of lists in order a cap leaves; -1 is none."""
    is_there = places_nc >= 0
    if cap is None:
        return is_there
    assert category is not None
    of_places = np.where(is_there, category[places_nc], -1)
    return is_there & ((of_places < 0) | (_nth(of_places) <= cap))


def _nth(values_nc: Ints) -> Ints:
    """For each value how often it has stood in its row by then, from 1."""
    order = np.argsort(values_nc, axis=1, kind="stable")
    ascending = np.take_along_axis(values_nc, order, axis=1)
    is_first = np.ones(values_nc.shape, np.bool_)
    is_first[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    columns = np.broadcast_to(np.arange(values_nc.shape[1]), values_nc.shape)
    first = np.maximum.accumulate(np.where(is_first, columns, 0), axis=1)
    nth = np.empty_like(values_nc)
    np.put_along_axis(nth, order, columns - first + 1, axis=1)
    return nth
