"""Lists in an order in which each item differs from those before it: maximal marginal relevance. No Spark.

Shape suffixes: n rows, m items, D dimensions, c candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from spark_udfs.top_k import GATHERED, Floats, Ints, Mask
from training.errors import SettingsError

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Diversity:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998).

    Each next item is the one with the largest `relevance` * r - (1 - `relevance`) * s: r is its score, scaled so that a
    row's candidates span 0 to 1; s is how like it is to the most alike item before it.

    Attributes:
        relevance: from 0 to 1; of 1 a list stays as it is.
        candidates: the best items of a row, of which the K are taken; K where K is more.
        of: what likeness is: the cosine of the items' vectors, or 1 within a category and 0 otherwise.

    Raises:
        SettingsError: a value is out of its range.
    """

    relevance: float = 0.7
    candidates: int = 100
    of: Literal["vectors", "category"] = "vectors"

    def __post_init__(self) -> None:
        if not 0 <= self.relevance <= 1:
            raise SettingsError(f"relevance must be from 0 to 1; got {self.relevance}: 1 leaves lists as they are")
        if self.candidates < 1:
            raise SettingsError(f"candidates must be at least 1; got {self.candidates}: K or more of them")
        if self.of not in ("vectors", "category"):
            raise SettingsError(f"likeness must be of 'vectors' or 'category'; got '{self.of}'")


def diversified(
    places_nc: Ints, scores_nc: Floats, k: int, items_mD: Floats, category: Ints | None, diversity: Diversity
) -> Ints:
    """Which K candidates are listed, in this order, as (n, k) columns, -1 where fewer are left; ties as they stand.

    Args:
        places_nc: rows of `items_mD`, -1: none.
        scores_nc: theirs.
        k: at least 1.
        items_mD: whose cosines are likeness; may be memory-mapped.
        category: (m,) of the items, below 0: none; looked at where likeness is of these.
        diversity: see there.
    """
    chosen = np.full((len(places_nc), k), -1, np.int64)
    step = max(1, GATHERED // max(1, places_nc.shape[1] * items_mD.shape[1]))
    for start in range(0, len(places_nc), step):
        rows = slice(start, start + step)
        alike = _Alike(places_nc[rows], items_mD, category if diversity.of == "category" else None)
        chosen[rows] = _marginal(places_nc[rows] >= 0, scores_nc[rows], k, alike, diversity.relevance)
    return chosen


def _marginal(is_there_nc: Mask, scores_nc: Floats, k: int, alike: _Alike, relevance: float) -> Ints:
    chosen, free = np.full((len(scores_nc), k), -1, np.int64), is_there_nc.copy()
    worth, nearest = relevance * _scaled(scores_nc, is_there_nc), np.zeros(scores_nc.shape)
    rows = np.arange(len(scores_nc))
    for place in range(min(k, scores_nc.shape[1])):
        value = np.where(free, worth - (1 - relevance) * nearest, -np.inf)
        best = np.argmax(value, axis=1)  # of equal ones the first
        chosen[:, place] = np.where(free[rows, best], best, -1)
        free[rows, best] = False
        nearest = alike.to(best) if place == 0 else np.maximum(nearest, alike.to(best))
    return chosen


def _scaled(scores_nc: Floats, is_there_nc: Mask) -> Doubles:
    """Scores on their way from a row's least to its largest, 0 to 1; 1 where all are the same."""
    held = np.where(is_there_nc, scores_nc, 0).astype(np.float64)
    low = np.min(held, axis=1, initial=np.inf, where=is_there_nc)[:, None]
    span = np.max(held, axis=1, initial=-np.inf, where=is_there_nc)[:, None] - low
    return np.asarray(np.divide(held - low, span, out=np.ones_like(held), where=is_there_nc & (span > 0)))


class _Alike:
    """How like each candidate is to one of its row: by category where there are any, else by the vectors' cosine."""

    def __init__(self, places_nc: Ints, items_mD: Floats, category: Ints | None) -> None:
        self._category = None if category is None else np.where(places_nc >= 0, category[places_nc], -1)
        if category is None:
            vectors = items_mD[places_nc]
            lengths = np.sqrt(np.einsum("ncd,ncd->nc", vectors, vectors))[:, :, None]
            self._units = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

    def to(self, columns: Ints) -> Doubles:
        """(n, c) to the candidate in this column of each row."""
        rows = np.arange(len(columns))
        if self._category is None:
            return np.asarray(np.einsum("ncd,nd->nc", self._units, self._units[rows, columns]), np.float64)
        theirs = self._category[rows, columns][:, None]
        return np.asarray((self._category == theirs) & (theirs >= 0), np.float64)
