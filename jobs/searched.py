"""Items by what they are called: by the letters of names, and by what these mean where an encoder of texts is given.

    likeness = letters, or (letters + meaning) / 2

Letters find what is misspelt, a meaning what is called by other words: an encoder sees nothing like a misspelt word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spark_udfs.name_search import Doubles, NameIndex, index_of
from spark_udfs.shared_matrix import shared_matrix
from spark_udfs.top_k import no_lists

if TYPE_CHECKING:
    import numpy.typing as npt

    from spark_udfs.answers import Ranking
    from spark_udfs.top_k import Floats, Ints
    from training.batch import Batch
    from training.state.items import Items
    from training.state.text_encoder import Encoder

LEAST_LIKE, LEAST_HELD, LEAST_MEANT = (
    0.25,
    0.8,
    0.5,
)  # of what is found, one of: letters, query held, cosine of meanings
TASTE = 0.1  # of likeness, by which what suits a customer best is moved up, and the worst is not
ROUNDED = 6  # places in which likenesses must differ to be two: those of single precision


@dataclass(frozen=True)
class Like:
    """Some items, held against a query.

    Attributes:
        likeness: (items,) from 0 to 1.
        is_found: (items,) whether it is enough.
        bought: (items,) how many customers bought each of late.
        suits: (items,) from 0 to 1, how well each suits the customer.
    """

    likeness: Doubles
    is_found: npt.NDArray[np.bool_]
    bought: Ints
    suits: Doubles

    @property
    def places(self) -> Ints:
        """Of what is found."""
        return np.flatnonzero(self.is_found)

    def at(self, places: Ints) -> Like:
        """The same of items at some places."""
        return Like(self.likeness[places], self.is_found[places], self.bought[places], self.suits[places])

    def suiting(self, suits: Doubles) -> Like:
        """The same for a customer."""
        return replace(self, suits=suits)

    def best(self, most: int) -> Ints:
        """Places of what is found, the most alike first; of equals what more customers bought, then the first."""
        found = self.places
        like = (self.likeness + TASTE * self.suits)[found].round(ROUNDED)
        return found[np.lexsort((-self.bought[found], -like))][:most]


def suits(ranking: Ranking, places: Ints, customer: Batch) -> Doubles:
    """How well items suit a customer.

    Args:
        ranking: of the items.
        places: of those that are asked for.
        customer: one query.

    Returns:
        (items of the ranking,) from 1, the best of those asked for, down to 0; 0 of the others, and of all where
        nothing is known of the customer.
    """
    found = np.zeros(len(ranking.ids))
    if len(places):
        best = ranking.among(ranking.ids[places]).best(customer, no_lists(1), len(places))
        if not best.cold[0]:
            found[np.searchsorted(ranking.ids, best.items[0])] = np.linspace(1, 0, len(places))
    return found


@dataclass(frozen=True)
class Names:
    """The names of a bundle's items.

    Attributes:
        index: of their letters.
        bought: (items,) how many customers bought each of late.
        encoder: what says what a text means; None: nothing does.
        meanings: (items, width) what each name means; None without an encoder.
    """

    index: NameIndex
    bought: Ints
    encoder: Encoder | None
    meanings: Floats | None

    @classmethod
    def of(cls, items: Items, bundle: str, encoder: Encoder | None) -> Names:
        """Those of all items; meanings are computed once a host, and kept in a file."""
        meanings = None
        if encoder is not None:
            names = [name or "" for name in items.rows["name"].to_pylist()]
            key = f"{bundle}-names-{encoder.digest[:16]}"
            meanings = shared_matrix(key, lambda: encoder.vectors(names))
        return cls(index_of(items.rows["name"]), items.recent_customers(), encoder, meanings)

    def like(self, query: str) -> Like:
        """All items, held against a query."""
        likeness, held = self.index.likeness(query)
        is_found = (likeness >= LEAST_LIKE) | (held >= LEAST_HELD)
        if self.encoder is not None and self.meanings is not None:
            meant = (self.meanings @ self.encoder.vectors([query])[0]).astype(np.float64)
            likeness, is_found = (likeness + meant.clip(0)) / 2, is_found | (meant >= LEAST_MEANT)
        return Like(likeness, is_found, self.bought, np.zeros(len(likeness)))
