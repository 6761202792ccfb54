"""A bundle's model asked: Arrow rows to its batches, and the K best items of each. No Spark.

The job that scores everybody and whoever asks for one customer go through here, so that both get the same lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import float_lists, lists
from spark_udfs.rules import NO_RULES, Offer, Rules, best_listed, first_listed
from spark_udfs.top_k import Floats, Index, Ints, Lists, Mask, one_thread, take
from training.errors import SchemaError
from training.schema import Column, Kind

if TYPE_CHECKING:
    from training.batch import Batch, Value

Doubles = npt.NDArray[np.float64]

QUERY_COLUMNS = ("user", "history", "history_age")
IF_ANY = ("history_weight",)  # a part of a query where the bundle's schema has it


class Order(NamedTuple):
    """Items in one order for all, as much of it as anybody's list needs.

    Attributes:
        first: item indices, best first: K and as many as the longest list that is left out has; all, where rules look
            at categories or segments.
        items: how many the whole order has.
        category, segments: of the first, as an `Offer` has them.
    """

    first: Ints
    items: int
    category: Ints | None = None
    segments: Ints | None = None


def ranking_scores(order: Order) -> Callable[[Ints], Floats]:
    """Scores for items of an order: how many stand there and behind, so that a better place has a larger score."""
    by_item = np.argsort(order.first)
    ascending = order.first[by_item]

    def score(found: Ints) -> Floats:
        places = by_item[np.minimum(np.searchsorted(ascending, found), len(by_item) - 1)] if len(by_item) else found
        return np.where(found >= 0, order.items - places, -np.inf).astype(np.float32)

    return score


class Best(NamedTuple):
    """The best items of some rows.

    Attributes:
        items: (rows, k) their indices, -1 where fewer are left.
        scores: (rows, k), -inf there.
        cold: (rows,) whether a row has no known item in its history, so that these are the first of the order for all.
    """

    items: Ints
    scores: Floats
    cold: Mask


@dataclass(frozen=True)
class Ranking:
    """A model, and the items that it may recommend.

    Attributes:
        model: a `RetrievalModel`.
        ids: (items,) indices of the items, ascending.
        matrix: (items, D) their vectors; may be memory-mapped.
        order: what those without one known item in their history get.
        rules: what is ruled of lists.
        category, segments: of the items, as an `Offer` has them.
        index: of the items, by which they are searched; None: all of them are looked at.
    """

    model: Any
    ids: Ints
    matrix: Floats
    order: Order
    rules: Rules = NO_RULES
    category: Ints | None = None
    segments: Ints | None = None
    index: Index | None = None

    def best(self, batch: Batch, seen: Lists, k: int, segment: Ints | None = None) -> Best:
        """The K best items of each row that the rules leave, less what it has seen.

        Args:
            batch: queries.
            seen: for each the items to leave out.
            k: at least 1.
            segment: each row's, where items have segments.
        """
        cold = cold_rows(batch["history"])
        found = np.full((len(cold), k), -1, np.int64)
        scores = np.full((len(cold), k), -np.inf, np.float32)
        segment = np.zeros(len(cold), np.int64) if segment is None else segment
        warm, rest = np.flatnonzero(~cold), np.flatnonzero(cold)
        if len(warm):
            found[warm], scores[warm] = best_listed(
                self.model.queries(batch).numpy()[warm],
                self.matrix,
                k,
                seen=take(seen, warm),
                offer=Offer(self.ids, self.category, self.segments),
                rules=self.rules,
                segment=segment[warm],
                directions=self.model.config.dim,
                index=self.index,
            )
        if len(rest):
            found[rest], scores[rest] = first_listed(
                Offer(self.order.first, self.order.category, self.order.segments),
                self.order.items,
                k,
                seen=take(seen, rest),
                per_category=self.rules.per_category,
                segment=segment[rest],
            )
        return Best(found, scores, cold)

    def among(self, items: Ints) -> Ranking:
        """The same of some items alone; their vectors are copied."""
        kept, order = np.isin(self.ids, items), self.order.first[np.isin(self.order.first, items)]
        return Ranking(self.model, self.ids[kept], self.matrix[kept], Order(order, len(order)))

    def ruled(self, rules: Rules, items: Ints, category: Ints) -> Ranking:
        """The same under rules.

        Args:
            rules: what is ruled of lists.
            items: some items, ascending, each once.
            category: of each its category's number; other items have none.
        """
        order = self.order._replace(category=_of(self.order.first, items, category))
        return replace(self, rules=rules, order=order, category=_of(self.ids, items, category))

    def scores(self, batch: Batch, item: int) -> Doubles:
        """(rows,) of one of the items."""
        return np.asarray(self.model.queries(batch).numpy().astype(np.float64) @ self._vector(item))

    def shares(self, batch: Batch, items: Ints) -> Floats:
        """(lines, C) what each line of each row's history adds to the scores of some items.

        Args:
            batch: queries.
            items: (rows, C) of the items.
        """
        import torch

        vectors = torch.from_numpy(np.array(self.matrix[np.searchsorted(self.ids, items)]))
        return np.asarray(self.model.shares(batch, vectors).numpy())

    def _vector(self, item: int) -> Floats:
        return np.array(self.matrix[np.searchsorted(self.ids, item)])


def one_thread_each() -> None:
    """Keep this process's products and searches to one thread: Spark runs one task per core, all of them at once."""
    import torch

    torch.set_num_threads(1)
    one_thread()


def known_to(model: Any, ids: Ints) -> Ints:
    """Of ascending indices of items those that a model's vocabulary has; not the unknown one."""
    return ids[known_rows(model, ids)]


def known_rows(model: Any, ids: Ints) -> slice:
    """Where these stand."""
    return slice(int(np.searchsorted(ids, 1)), int(np.searchsorted(ids, model.schema["history"].size or 0)))


def _of(ids: Ints, items: Ints, category: Ints) -> Ints:
    """The categories' numbers of ids, -1 of those that are not among some items."""
    if not len(items):
        return np.full(len(ids), -1, np.int64)
    places = np.minimum(np.searchsorted(items, ids), len(items) - 1)
    return np.where(items[places] == ids, category[places], -1)


def vectors_of(model: Any, ids: Ints) -> Floats:
    """(items, D) of some items."""
    return np.asarray(model.item_matrix().numpy()[ids], np.float32)


def to_batch(rows: pa.RecordBatch, columns: Sequence[Column]) -> Batch:
    """Arrow columns as a model takes them, whole columns at a time; ids out of range become 0."""
    return {column.name: _value(named(rows, column.name), column) for column in columns}


def rows_of(batch: Batch, rows: Ints) -> Batch:
    """Some rows of a batch, which are given ascending."""
    import torch

    from training.batch import batch_size, chosen

    keep = torch.zeros(batch_size(batch), dtype=torch.bool)
    keep[torch.from_numpy(rows)] = True
    return chosen(batch, keep)


def cold_rows(history: Any) -> Mask:
    """Rows without one known item in their history."""
    values, offsets = history.values.numpy(), history.offsets.numpy()
    known = np.concatenate([[0], np.cumsum(values > 0)])
    return np.asarray(known[offsets[1:]] == known[offsets[:-1]], np.bool_)


def _value(array: pa.Array, column: Column) -> Value:
    import torch

    from training.batch import Ragged

    if column.kind is Kind.IMAGE:
        return [picture or b"" for picture in array.to_pylist()]  # one that is not there has too few bytes
    if column.kind is Kind.IDS:
        values, offsets = lists(array)
        return Ragged(torch.from_numpy(_known(values, column)), torch.from_numpy(offsets))
    if column.kind is Kind.POSITION:  # below the last place that differs all are as it
        places = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return torch.from_numpy(places.clip(0, (column.size or 1) - 1))
    if column.kind is Kind.ID:
        return torch.from_numpy(_known(array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), column))
    if column.is_ragged:
        floats, offsets = float_lists(array)
        return Ragged(torch.from_numpy(_finite(floats, column)), torch.from_numpy(offsets))
    if column.length is not None:
        floats, offsets = float_lists(array)
        return torch.from_numpy(_finite(_even(floats, offsets, column), column))
    return torch.from_numpy(_finite(array.cast(pa.float32()).to_numpy(zero_copy_only=False), column))


def _known(values: Ints, column: Column) -> Ints:
    size = column.size or 0
    return np.where((values >= 0) & (values < size), values, 0)


def _even(values: Floats, offsets: Ints, column: Column) -> Floats:
    """(rows, length) of lists of a fixed length: others would move into their neighbours' places."""
    if (other := np.diff(offsets)[np.diff(offsets) != column.length]).size:
        raise SchemaError(
            f"column '{column.name}' must have lists of {column.length} numbers, not null; {other.size} rows have "
            f"others, as one of {other[0]}: make the features as the bundle's task does"
        )
    return values.reshape(len(offsets) - 1, column.length or 0)


def _finite(values: Floats, column: Column) -> Floats:
    bad = ~np.isfinite(values)
    if bad.any() and column.fill is None:
        raise SchemaError(
            f"column '{column.name}' must be finite and not null; it is not in {int(bad.sum())} places: "
            "fill them, or give the column a fill in the task's schema"
        )
    return np.where(bad, np.float32(column.fill or 0), values)


def named(rows: pa.RecordBatch, name: str) -> pa.Array:
    return rows.column(rows.schema.get_field_index(name))
