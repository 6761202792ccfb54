"""What a shop rules of lists: who may be shown which items, how many of one category, from which score on, how alike.

No Spark: the job that scores everybody and whoever asks for one customer go through here. The rules come in this order:
what a row's segment may be shown, less what is left out of its list; at most so many of one category; from a score on;
and of so many candidates those that differ from what stands before them. Ties go to the smaller item id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spark_udfs.caps import DEEPER, Search, at, walked
from spark_udfs.diversity import Diversity, diversified
from spark_udfs.top_k import CELLS, Floats, Index, Ints, Lists, rows_of, take
from training.errors import SettingsError

BITS = 64  # segments in a word
LARGEST = 1e30  # of a score


@dataclass(frozen=True)
class Rules:
    """What is ruled of every list.

    Attributes:
        per_category: items of one category that a list has at most; items without a category are not counted.
        least_score: items below it are not shown; of a fallback it says nothing, whose scores are places.
        diversity: how lists are put into another order; a fallback is not.

    Raises:
        SettingsError: a value is out of its range.
    """

    per_category: int | None = None
    least_score: float | None = None
    diversity: Diversity | None = None

    def __post_init__(self) -> None:
        if self.per_category is not None and self.per_category < 1:
            raise SettingsError(f"per_category must be at least 1; got {self.per_category}: mask what none may be of")
        if self.least_score is not None and not abs(self.least_score) <= LARGEST:
            raise SettingsError(f"least_score must be a number that a score can be; got {self.least_score}")

    @property
    def look_at_categories(self) -> bool:
        """Whether they need the items' categories."""
        return self.per_category is not None or (self.diversity is not None and self.diversity.of == "category")


NO_RULES = Rules()


class Offer(NamedTuple):
    """Items that lists are made of, and what rules look at.

    Attributes:
        ids: (m,) of the items: ascending, or in one order for all.
        category: (m,) a number for each category, below 0: none; None: no rule looks at it.
        segments: (m, words) int64, a bit for each segment that may be shown the item; None: all may be.
    """

    ids: Ints
    category: Ints | None = None
    segments: Ints | None = None


def best_listed(
    queries_nD: Floats,
    items_mD: Floats,
    k: int,
    *,
    seen: Lists,
    offer: Offer,
    rules: Rules,
    segment: Ints,
    directions: int,
    index: Index | None = None,
) -> tuple[Ints, Floats]:
    """The K items of the largest inner product with each query that the rules leave, exactly, or by an index.

    Args:
        queries_nD: (n, D).
        items_mD: (m, D); may be memory-mapped, it is not copied whole.
        k: at least 1.
        seen: for each row the item ids to leave out.
        offer: what the rows of `items_mD` are; ids ascending.
        rules: what is ruled.
        segment: (n,) each row's; looked at where the offer has segments.
        directions: of an item's dimensions the first ones, whose cosines are likeness; biases come after them.
        index: of the items, as `top_k` takes it; it goes with `least_score` alone.

    Returns:
        ids (n, k), -1 where fewer are left, and scores (n, k), -inf there; by descending score, but for diversity.
    """
    assert index is None or (offer.segments is None and rules.per_category is None and rules.diversity is None)
    found = np.full((len(queries_nD), k), -1, np.int64)
    scores = np.full((len(queries_nD), k), -np.inf, np.float32)
    if not len(items_mD):
        return found, scores
    depth = k if rules.diversity is None else max(k, rules.diversity.candidates)
    of_seen = rows_of(seen, offer.ids, len(items_mD))
    for rows, among in _by_segment(offer, segment, depth if rules.per_category is None else DEEPER * depth):
        search = Search(queries_nD[rows], items_mD, take(of_seen, rows), offer.category, rules.per_category, index)
        places, values = search.best(depth, among)
        if rules.least_score is not None:
            is_shown = values >= np.float32(rules.least_score)
            places, values = np.where(is_shown, places, -1), np.where(is_shown, values, np.float32(-np.inf))
        if rules.diversity is not None:
            of_items = items_mD[:, :directions]
            places, values = at(
                places, values, diversified(places, values, k, of_items, offer.category, rules.diversity)
            )
        found[rows], scores[rows] = np.where(places >= 0, offer.ids[places], -1), values
    return found, scores


def first_listed(
    order: Offer, items: int, k: int, *, seen: Lists, per_category: int | None, segment: Ints
) -> tuple[Ints, Floats]:
    """The first K of one order for all that the rules leave.

    Args:
        order: items, best first, each once: all of them, or, without caps and segments, as many as are needed.
        items: how many the whole order has.
        k: at least 1.
        seen: for each row the item ids to leave out.
        per_category: items of one category that a list has at most; None: any.
        segment: (n,) each row's; looked at where the order has segments.

    Returns:
        ids (n, k), -1 where fewer are left, and scores (n, k), -inf there: an item's place from the order's end, of
        what the row may be shown.
    """
    found = np.full((len(segment), k), -1, np.int64)
    scores = np.full((len(segment), k), -np.inf, np.float32)
    if not len(order.ids):
        return found, scores
    for rows, among in _by_segment(order, segment, k):
        ids = order.ids if among is None else order.ids[among]
        category = order.category if among is None or order.category is None else order.category[among]
        places = walked(ids, k, take(seen, rows), category, per_category)
        found[rows] = np.where(places >= 0, ids[places], -1) if len(ids) else -1
        scores[rows] = np.where(places >= 0, (items if among is None else len(ids)) - places, -np.inf)
    return found, scores


def _by_segment(offer: Offer, segment: Ints, width: int) -> Iterator[tuple[Ints, Ints | None]]:
    """Rows of one segment, so many that `width` candidates of each are within the memory bound, and the places in the
    offer of what these may be shown, ascending; None: all."""
    step = max(1, CELLS // width)
    for rows, among in _groups(offer, segment):
        yield from ((rows[start : start + step], among) for start in range(0, len(rows), step))


def _groups(offer: Offer, segment: Ints) -> Iterator[tuple[Ints, Ints | None]]:
    if offer.segments is None:
        yield np.arange(len(segment)), None
        return
    for one in np.unique(segment).tolist():
        word, bit = divmod(one, BITS)
        of_bit = np.left_shift(np.int64(1), np.int64(bit))
        yield np.flatnonzero(segment == one), np.flatnonzero(offer.segments[:, word] & of_bit)
