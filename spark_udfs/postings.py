"""Texts by term, and what the terms of asked texts add up to in each: inverted lists in numpy. No Spark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

CELLS = 1 << 21  # sums that are held at once: 16 MB


class Postings(NamedTuple):
    """Texts by term.

    Attributes:
        starts: (terms + 1,) where the texts of a term begin.
        text: which these are.
        weight: what the term counts in each.
        texts: how many there are.
    """

    starts: Ints
    text: Ints
    weight: Doubles
    texts: int


def postings(terms: Ints, text: Ints, weight: Doubles, *, texts: int, count: int) -> Postings:
    """Sort terms of texts by term.

    Args:
        terms: of all texts, numbers below `count`.
        text: of each term the text that it stands in.
        weight: what it counts there.
        texts: how many there are.
        count: of numbers of terms.
    """
    order = np.argsort(terms, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(terms, minlength=count))])
    return Postings(starts, text[order], weight[order], texts)


def sums(held: Postings, terms: Ints, offsets: Ints, weight: Doubles) -> Iterator[Doubles]:
    """Some asked texts after the others, (asked, texts) each: sums over terms of what a term counts in both.

    Args:
        held: the texts.
        terms: of all asked texts, one after the other.
        offsets: (asked + 1,) where each begins.
        weight: what each term counts there.
    """
    step = max(1, CELLS // max(1, held.texts))
    for start in range(0, len(offsets) - 1, step):
        ends = offsets[start : start + step + 1]
        part = slice(ends[0], ends[-1])
        yield _sums(held, terms[part], ends - ends[0], weight[part])


def _sums(held: Postings, terms: Ints, offsets: Ints, weight: Doubles) -> Doubles:
    asked = len(offsets) - 1
    row = np.repeat(np.arange(asked), np.diff(offsets))
    begin, count = held.starts[terms], held.starts[terms + 1] - held.starts[terms]
    places = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(count.sum())
    cells = np.repeat(row, count) * held.texts + held.text[places]
    found = np.bincount(cells, np.repeat(weight, count) * held.weight[places], minlength=asked * held.texts)
    return np.asarray(found.reshape(asked, held.texts))
