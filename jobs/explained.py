"""Why an item stands in a customer's list: what each bought item adds to its score, and without which it would not.

Imports no Spark.

What an item adds is its share of the difference that the history makes (`training.models.base.RetrievalModel.shares`):
all shares add up to the score less the score without any history. What is removed is removed from what the model sees
alone: nobody is offered again what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, tee
from math import comb
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from spark_udfs.answers import Doubles, Ranking, named, to_batch
from spark_udfs.arrow import lists
from spark_udfs.top_k import Ints, Lists
from training.errors import DataError
from training.schema import Column
from training.state.items import Items

WEIGHED = 50_000_000  # items that are weighed for a list, over all removals: 5,000 of a catalogue of 10,000
TRIED = 5_100  # removals that are tried one after the other: of one or two items those of a history of 100
AT_ONCE = 512  # removals in one search
CLOSE = 1e-3  # how far the shares' sum may lie from what the history makes of the score


class Reason(NamedTuple):
    """An item that the customer has bought.

    Attributes:
        item_id: the shop's.
        name: the shop's.
        share: what it adds to the score; below 0: it speaks against.
    """

    item_id: str
    name: str
    share: float


@dataclass(frozen=True)
class Explanation:
    """Why an item is recommended.

    Attributes:
        item_id: the shop's.
        name: the shop's.
        score: the model's.
        without_history: the score of the same customer if they had bought nothing; `score` less this is what the
            reasons add up to.
        reasons: what was bought, by how much it adds, most first.
        rank: of the item in the list of K, from 1; None: it does not stand there.
        drops_without: ids of items without which the item is no longer in the list; none where it is not there, None
            where it stays as long as anything is left of the history.
        is_fewest: whether that is sure: all smaller sets of items were tried, or, where it stays, all there are.
    """

    item_id: str
    name: str
    score: float
    without_history: float
    reasons: tuple[Reason, ...]
    rank: int | None
    drops_without: tuple[str, ...] | None
    is_fewest: bool


class Split(NamedTuple):
    """A score, split.

    Attributes:
        items: the known items of the history, each once.
        shares: what each adds.
        score: with all of them.
        without: with none.
    """

    items: Ints
    shares: Doubles
    score: float
    without: float


class Dropped(NamedTuple):
    """What makes an item leave the list.

    Attributes:
        items: what is removed; None: nothing that was tried does.
        is_fewest: whether that is sure.
    """

    items: tuple[int, ...] | None
    is_fewest: bool


class List(NamedTuple):
    """How one customer's list is made.

    Attributes:
        ranking: the model, and what may be recommended.
        seen: what is left out.
        k: its length.
    """

    ranking: Ranking
    seen: Lists
    k: int

    def of(self, rows: pa.RecordBatch, columns: Sequence[Column]) -> Ints:
        """(rows, k) the items of the list, if the history were each of these."""
        values, many = self.seen.values, rows.num_rows
        seen = Lists(np.tile(values, many), np.arange(many + 1) * len(values))
        return self.ranking.best(to_batch(rows, columns), seen, self.k).items


def explain(
    items: Items, ranking: Ranking, listed: List, rows: pa.RecordBatch, columns: Sequence[Column], item: int
) -> Explanation:
    """Why an item is in a list.

    Args:
        items: the bundle's.
        ranking: its model, and all that may be recommended.
        listed: the list; of a mask it has these items alone.
        rows: one row, the query.
        columns: of a query.
        item: the number of the item, one of those that may be recommended.

    Raises:
        DataError, SettingsError: as `split`.
    """
    row = rows.select([column.name for column in columns])
    parts = split(ranking, row, columns, item)
    left_out = dropped(listed, row, columns, item, parts)
    place = np.flatnonzero(listed.of(row, columns)[0] == item)
    order = np.argsort(-parts.shares, kind="stable")
    reasons = zip(items.named(parts.items[order]), parts.shares[order].tolist(), strict=True)
    names = None if left_out.items is None else items.named(np.array(left_out.items, np.int64))
    return Explanation(
        *items.named(np.array([item]))[0],
        score=parts.score,
        without_history=parts.without,
        reasons=tuple(Reason(*named_so, share) for named_so, share in reasons),
        rank=int(place[0]) + 1 if len(place) else None,
        drops_without=None if names is None else tuple(item_id for item_id, _ in names),
        is_fewest=left_out.is_fewest,
    )


def split(ranking: Ranking, row: pa.RecordBatch, columns: Sequence[Column], item: int) -> Split:
    """What each item of one row's history adds to the score of an item.

    Raises:
        DataError: there is no known item in the history; or the shares do not add up, as of a model that is not smooth.
        SettingsError: the model cannot be split.
    """
    batch = to_batch(row, columns)
    of_lines = ranking.shares(batch, np.array([[item]]))[:, 0].astype(np.float64)
    lines = batch["history"].values.numpy()  # type: ignore[union-attr]
    score, without = ranking.scores(
        to_batch(_without(row, [(), lists(named(row, "history")).values]), columns), item
    ).tolist()
    items, where = np.unique(lines[lines > 0], return_inverse=True)
    if not len(items):
        raise DataError("only a history with an item that the bundle knows can be explained; this one has none")
    if abs(of_lines.sum() - (score - without)) > CLOSE:
        raise DataError(
            f"shares must add up to what the history makes of the score, {score - without:.4f}; they are "
            f"{of_lines.sum():.4f}: the model's customer without a history has no direction; train it longer"
        )
    return Split(items, np.bincount(where, of_lines[lines > 0], len(items)), score, without)


def dropped(listed: List, row: pa.RecordBatch, columns: Sequence[Column], item: int, parts: Split) -> Dropped:
    """The fewest items of a history without which an item is not in the list; some of the history must be left.

    All sets of one item are tried, then of two, and so on, TRIED of them at most, or, where the catalogue is large, as
    many as weigh WEIGHED items, the single ones in any case; then the items that add most are left out one after the
    other, and put back where it goes without.
    """
    most = max(len(parts.items), min(TRIED, WEIGHED // len(listed.ranking.ids)))
    stays = _stays(listed, row, columns, item)
    if not next(stays([()])):
        return Dropped((), True)
    by_share = parts.items[np.argsort(-parts.shares, kind="stable")].tolist()
    size, tried = 1, 0
    while size < len(by_share) and (tried := tried + comb(len(by_share), size)) <= most:
        if found := _first_without(stays, combinations(by_share, size)):
            return Dropped(found, True)
        size += 1
    found = _first_without(stays, (tuple(by_share[:length]) for length in range(size, len(by_share))))
    if found is None:
        return Dropped(None, size >= len(by_share))
    for one in found:
        fewer = tuple(other for other in found if other != one)
        if not next(stays([fewer])):
            found = fewer
    return Dropped(found, len(found) == size)


Stays = Callable[[Iterable[tuple[int, ...]]], Iterator[bool]]


def _first_without(stays: Stays, sets: Iterable[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The first set without which the item is not in the list."""
    ours, theirs = tee(sets)
    return next((one for one, stayed in zip(ours, stays(theirs), strict=True) if not stayed), None)


def _stays(listed: List, row: pa.RecordBatch, columns: Sequence[Column], item: int) -> Stays:
    """Sets of items -> whether an item is still in the list without each."""

    def stays(sets: Iterable[tuple[int, ...]]) -> Iterator[bool]:
        left = iter(sets)
        while some := list(islice(left, AT_ONCE)):
            yield from (listed.of(_without(row, some), columns) == item).any(axis=1).tolist()

    return stays


def _without(row: pa.RecordBatch, sets: Sequence[Sequence[int] | Ints]) -> pa.RecordBatch:
    """A row for each set: the one that is given, without the lines of these items."""
    history = lists(named(row, "history")).values
    kept = np.stack([~np.isin(history, np.asarray(one, np.int64)) for one in sets])
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    lines, first = pa.array(np.nonzero(kept)[1]), pa.array(np.zeros(len(sets), np.int64))

    def left(column: pa.Array) -> pa.Array:
        if not pa.types.is_list(column.type):
            return column.take(first)
        return pa.ListArray.from_arrays(offsets, column.flatten().take(lines))

    return pa.record_batch([left(column) for column in row.columns], row.schema.names)
