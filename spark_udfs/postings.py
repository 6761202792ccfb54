"""Texts by term, and what the terms of asked texts add up to in each: inverted lists in numpy. No Spark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

CELLS = 1 << 21  # sums that are held at once: 16 MB
PAIRS = 1 << 20  # terms in texts that are added up at once: 40 MB; one term's are never parted


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
    found = np.zeros(asked * held.texts)
    first = np.repeat(np.arange(asked) * held.texts, np.diff(offsets))
    begin, count = held.starts[terms], held.starts[terms + 1] - held.starts[terms]
    before = np.cumsum(count) - count
    cuts = np.unique([0, *np.flatnonzero(np.diff(before // PAIRS)) + 1, len(terms)])  # 0 alone of no terms
    for low, high in pairwise(cuts):
        some = slice(low, high)
        places = np.repeat(begin[some] - (before[some] - before[low]), count[some]) + np.arange(count[some].sum())
        cells = np.repeat(first[some], count[some]) + held.text[places]
        # One after the other, so that what texts add up to does not depend on what is asked beside them.
        np.add.at(found, cells, np.repeat(weight[some], count[some]) * held.weight[places])
    return found.reshape(asked, held.texts)
