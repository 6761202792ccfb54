"""Recommendations for a few customers, in a few lines, without Spark.

    recommender = Recommender.load("out/shop/run/bundles/two_tower-3f9c0a1b22d4", tables="out/shop/tables")
    recommender.recommend(["17850", "13047"], k=5)
    recommender.recommend(history=[["85123A", "71053"]], ages=[[40.0, 3.0]], k=5, mask=in_stock)
    recommender.similar_items(["85123A"], k=5)

Ids are the shop's own. What the bundle's numbers of items mean goes with the bundle (training/state/items.py); persons
do not: who they are and what they bought is read from the tables, where an erasure reaches it. The lists are those of
the job `score` for the same histories: both go through spark_udfs/answers.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from jobs.asked import Asked, count_of, of_categories, of_histories, of_users, refuse_other_ids, texts
from jobs.explained import Explanation, List, explain
from jobs.searched import Names, suits
from spark_udfs.answers import IF_ANY, QUERY_COLUMNS, Order, Ranking, known_to, to_batch, vectors_of
from spark_udfs.name_search import refuse_empty
from spark_udfs.rules import Rules
from spark_udfs.shared_matrix import shared_matrix
from spark_udfs.top_k import Floats, Ints, Lists, no_lists, top_k
from training.errors import BundleError, DataError, SettingsError
from training.schema import Column
from training.state.items import Items, open_items, shown
from training.state.names import ITEMS

if TYPE_CHECKING:
    from training.state.bundle import Bundle
    from training.state.text_encoder import Encoder

T = TypeVar("T")


class Recommendation(NamedTuple):
    """An item of a list.

    Attributes:
        item_id: the shop's.
        name: the shop's.
        score: the model's; of a fallback, how many items stand behind.
        fallback: whether nothing in the history is known, so that this is what sold most of late.
    """

    item_id: str
    name: str
    score: float
    fallback: bool


@dataclass(frozen=True)
class Recommender:
    """A bundle that ranks items, opened by `load`.

    Attributes:
        bundle: what it was loaded from.
        items: the ids and names of its items.
        ranking: its model, and the items that may be recommended: those that were sold before the training cut, and
            for a model that knows items by their attributes also those that were listed then.
        tables: root of the tables that customers are looked up in; None: there are none.
        encoder: what says what names mean; None: `search` goes by their letters alone.
    """

    bundle: Bundle
    items: Items
    ranking: Ranking
    tables: str | None
    encoder: Encoder | None = None

    @classmethod
    def load(cls, bundle: str | Path, tables: str | Path | None = None, encoder: Encoder | None = None) -> Recommender:
        """Open a bundle; its weights and items are mapped, its item matrix is made once a host.

        Args:
            bundle: its folder.
            tables: the tables' root (`tables.root`), for recommendations by user id.
            encoder: of texts (`training.state.text_encoder`), for `search` by what names mean.

        Raises:
            BundleError: it is none, is torn, ranks no items, or does not carry them; or the tables' numbers mean other
                ids than the bundle's.
            NoTableError: there are no such tables.
        """
        from training.models.base import RetrievalModel
        from training.state.bundle import load_bundle

        held = load_bundle(bundle)
        model = held.model()
        if not isinstance(model, RetrievalModel):
            raise BundleError(
                f"bundle '{held.path}' must be of a model that ranks items; it is of '{held.model_name}', which "
                "answers rows: give these to `spark_udfs.scoring.predicted`, or name another bundle"
            )
        if ITEMS not in held.attachments:
            raise BundleError(
                f"bundle '{held.path}' must carry its items' ids, and has no attachment '{ITEMS}': an earlier version "
                "trained it. Run `millrace train` with its settings: from its checkpoint it trains no step again, and "
                "writes a bundle that has them"
            )
        root = None if tables is None else str(tables)
        if root is not None:
            refuse_other_ids(held, root)
        items = open_items(held.attachment(ITEMS))
        ids, popular = known_to(model, items.offered()), items.popular()
        matrix = shared_matrix(f"{held.name}-offered", lambda: vectors_of(model, ids))
        return cls(held, items, Ranking(model, ids, matrix, Order(popular, len(popular))), root, encoder)

    def recommend(
        self,
        user_ids: Sequence[str] | None = None,
        *,
        history: Sequence[Sequence[str]] | None = None,
        ages: Sequence[Sequence[float]] | None = None,
        weights: Sequence[Sequence[float]] | None = None,
        k: int = 10,
        mask: Collection[str] | None = None,
        exclude_seen: bool = True,
        rules: Rules | None = None,
        categories: Mapping[str, str | None] | None = None,
    ) -> list[list[Recommendation]]:
        """The K best items of each customer, best first; fewer where fewer are left.

        Args:
            user_ids: customers, with their histories as of the last build's test cut.
            history: or what each has bought, item ids, the oldest first. Items that the bundle does not know count for
                nothing; without one that it knows a list is a fallback.
            ages: how many days ago, as `history`; None: all of it just now.
            weights: what each line is worth, as `history`, where the bundle learnt from lines of different worth;
                None: 1.
            k: at least 1.
            mask: ids of the items that alone may be recommended, e.g. what is in stock; None: all of the bundle's.
            exclude_seen: leave out what a customer has bought.
            rules: how many of a category, from which score on, how alike; None: no such rule.
            categories: of items by their ids, where rules look at them; an item without one is in none.

        Raises:
            SettingsError: both or neither of `user_ids` and `history`, lists that do not fit together, user ids
                where no tables were given, or rules that need categories without any.
            DataError: a user id is not in the tables; nothing of the mask can be recommended; k is no whole number or
                below 1; ids are no texts; ages or weights are no numbers, not finite or below 0.
        """
        k = count_of(k, self._most)
        asked = self._asked(user_ids, history, ages, weights)
        seen = asked.seen if exclude_seen else no_lists(asked.rows.num_rows)
        ranking = self._ruled(self._ranking(mask), rules, categories)
        best = ranking.best(to_batch(asked.rows, self._columns), seen, k)
        rows = zip(best.items, best.scores, best.cold, strict=True)
        return [self._shown(found, scores, bool(is_cold)) for found, scores, is_cold in rows]

    def similar_items(self, item_ids: Sequence[str], k: int = 10) -> list[list[Recommendation]]:
        """The K items whose vectors point most in each item's direction, of those that may be recommended.

        Args:
            item_ids: items that may be recommended.
            k: at least 1.

        Returns:
            Lists with cosines as scores, without the item itself.

        Raises:
            DataError: an item is not among those that may be recommended; k is below 1.
        """
        asked, ids = self._offered(item_ids), self.ranking.ids
        vectors = self._directions[np.searchsorted(ids, asked)]
        itself = Lists(asked, np.arange(len(asked) + 1))
        found, scores = top_k(vectors, self._directions, count_of(k, len(ids)), seen=itself, ids=ids)
        return [self._shown(*row, False) for row in zip(found, scores, strict=True)]

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        ages: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
        k: int = 10,
        mask: Collection[str] | None = None,
    ) -> list[Recommendation]:
        """Items that may be recommended and are called much as a query, best first: misspelt too, in any order; where
        the bundle was loaded with an encoder, also those whose names mean about the same.

        Of equally good ones those go first that more customers bought of late. A customer's taste moves what suits
        them up among what is found, by at most `searched.TASTE`; it finds nothing else.

        Args:
            query: some words.
            user_id: a customer, as `recommend`; None: nobody's taste.
            history: or what one has bought, with `ages` and `weights`, as `recommend`.
            k: at least 1.
            mask: ids of the items that alone may be found; None: all of the bundle's.

        Returns:
            At most K, with the likeness of their names as scores: 1 where it is the same, by meaning too.

        Raises:
            SettingsError, DataError: as `recommend`; or the query has no letter or digit.
        """
        refuse_empty(query)
        ranking = self._ranking(mask)
        found = self._names.like(query).at(np.searchsorted(self.items.numbers, ranking.ids))
        if user_id is not None or history is not None:
            asked = self._asked(_alone(user_id), _alone(history), _alone(ages), _alone(weights))
            found = found.suiting(suits(ranking, found.places, to_batch(asked.rows, self._columns)))
        best = found.best(count_of(k, len(ranking.ids)))
        return self._shown(ranking.ids[best], found.likeness[best].astype(np.float32), False)

    @cached_property
    def _names(self) -> Names:
        """Of all items of the bundle."""
        return Names.of(self.items, self.bundle.name, self.encoder)

    def explain(
        self,
        item_id: str,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        ages: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
        k: int = 10,
        mask: Collection[str] | None = None,
        exclude_seen: bool = True,
    ) -> Explanation:
        """Why an item stands in one customer's list, as `recommend` with the same arguments gives it.

        Raises:
            SettingsError: the bundle's model cannot say it, or as `recommend`.
            DataError: the item cannot be recommended; nothing in the history is known; the customer is unknown.
        """
        asked = self._asked(_alone(user_id), _alone(history), _alone(ages), _alone(weights))
        listed = List(self._ranking(mask), asked.seen if exclude_seen else no_lists(1), count_of(k, self._most))
        return explain(self.items, self.ranking, listed, asked.rows, self._columns, int(self._offered([item_id])[0]))

    @cached_property
    def _directions(self) -> Floats:
        """(items, D) unit vectors of the items that may be recommended; biases are no part of them."""
        dim = self.ranking.model.config.dim  # biases come after it
        return shared_matrix(f"{self.bundle.name}-directions", lambda: _units(self.ranking.matrix[:, :dim]))

    @cached_property
    def _columns(self) -> list[Column]:
        schema = self.bundle.schema
        return [schema[name] for name in (*QUERY_COLUMNS, *(name for name in IF_ANY if name in schema))]

    def _offered(self, item_ids: Sequence[str]) -> Ints:
        numbers = self.items.numbers_of(texts("items", item_ids))
        if unknown := [
            one for one, is_one in zip(item_ids, np.isin(numbers, self.ranking.ids), strict=True) if not is_one
        ]:
            raise DataError(
                f"items must be ones that bundle '{self.bundle.name}' can recommend; it cannot {shown(unknown)}: they "
                "are not in its vocabulary, or nobody had bought them when it was trained"
            )
        return numbers

    def _ranking(self, mask: Collection[str] | None) -> Ranking:
        if mask is None:
            return self.ranking
        named = texts("mask", mask)
        among = self.ranking.among(self.items.numbers_of(named))
        if not len(among.ids):
            raise DataError(
                f"mask must name an item that bundle '{self.bundle.name}' can recommend; of its {len(named)} ids none "
                "is: give ids of the catalogue, or leave it out"
            )
        return among

    def _ruled(self, ranking: Ranking, rules: Rules | None, categories: Mapping[str, str | None] | None) -> Ranking:
        if rules is None:
            return ranking
        if rules.look_at_categories and not categories:
            raise SettingsError(
                f"rules of categories must have those of items; got categories={categories}: give {{'85123A': 'LAMPS'}}"
            )
        return ranking.ruled(rules, *of_categories(self.items, categories or {}))

    def _asked(
        self,
        user_ids: Sequence[str] | None,
        history: Sequence[Sequence[str]] | None,
        ages: Sequence[Sequence[float]] | None,
        weights: Sequence[Sequence[float]] | None,
    ) -> Asked:
        if (user_ids is None) == (history is None):
            raise SettingsError("recommend takes either user_ids or history; give one of them")
        if history is not None:
            return of_histories(self.bundle, self.items, history, ages, weights)
        assert user_ids is not None
        if ages is not None or weights is not None:
            raise SettingsError("ages and weights go with history: of user_ids the tables say them; leave them out")
        if self.tables is None:
            raise SettingsError(
                "a bundle knows no persons: to recommend by user_ids load it with tables='TABLES ROOT', where they are "
                "looked up; or give their history"
            )
        return of_users(self.tables, user_ids, [column.name for column in self._columns])

    @property
    def _most(self) -> int:
        """How many items a list can have."""
        return max(len(self.ranking.ids), len(self.ranking.order.first))

    def _shown(self, found: Ints, scores: Floats, is_fallback: bool) -> list[Recommendation]:
        there = found >= 0
        rows = zip(self.items.named(found[there]), scores[there].tolist(), strict=True)
        return [Recommendation(item_id, name, score, is_fallback) for (item_id, name), score in rows]


def _alone(one: T | None) -> list[T] | None:
    return None if one is None else [one]


def _units(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
