"""Counted groups of a column's values, and what they say: how many texts differ, which words, and of the label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from spark_udfs.counted_classes import BUCKETS, NULL

OFTEN = 10  # a word is kept that so many rows of the sample have, a mean of so many values
ROWS_A_CLASS, SIGMAS = 3, 4  # at least, and by how much chance makes classes tell something of the label
FULL = 0.7  # of the buckets; past it they are too full to be counted alone


class Cell(NamedTuple):
    """A group of values of a column: what spark_udfs/counted_classes.py counts.

    Attributes:
        place: which of the columns.
        bin: the class that the values fall into.
        text: the value, of a sample.
        rows: how many.
        total, squares: sums of the values, and of their squares.
        top: the largest of them.
        least: the smallest hash of them, from 0 to 1.
        labelled, label: rows with a label, and the sum of these.
    """

    place: int
    bin: int
    text: str | None
    rows: int
    total: float | None
    squares: float | None
    top: float | None
    least: float | None
    labelled: int
    label: float | None


def distinct(cells: Sequence[Cell]) -> float:
    """How many different texts there are, by the buckets that are empty, or by the least hash of each bucket.

    The least of m hashes is 1/(m+1) on average, so that many buckets' least ones tell how many fell into each; the
    error is 3 % (Giroire, Order statistics and estimating cardinalities of massive data sets, 2009).
    """
    least: dict[int, float] = {}
    for cell in cells:
        if cell.bin != NULL and cell.least is not None:
            least[cell.bin] = min(cell.least, least.get(cell.bin, 1.0))
    if len(least) < FULL * BUCKETS:
        return -BUCKETS * math.log1p(-len(least) / BUCKETS)
    return BUCKETS * (BUCKETS - 1) / (sum(least.values()) + (BUCKETS - len(least)))


def words(cells: Sequence[Cell]) -> dict[int, str]:
    """The text of each class, several where they fell into one; of classes each of whose texts has many rows."""
    found: dict[int, dict[str, int]] = {}
    for cell in cells:
        if cell.text is not None:
            found.setdefault(cell.bin, {})[cell.text] = cell.rows
    often = {number: texts for number, texts in sorted(found.items()) if min(texts.values()) >= OFTEN}
    return {number: " or ".join(sorted(texts)) for number, texts in often.items()}


def tells(cells: Sequence[Cell], variance: float) -> float | None:
    """The share of the label's variance between the classes, less what chance alone would give so many."""
    labelled: dict[int, tuple[int, float]] = {}
    for cell in cells:
        rows, total = labelled.get(cell.bin, (0, 0.0))
        labelled[cell.bin] = (rows + cell.labelled, total + (cell.label or 0.0))
    classes = [held for held in labelled.values() if held[0]]
    rows, total = sum(held[0] for held in classes), sum(held[1] for held in classes)
    if variance <= 0 or rows < ROWS_A_CLASS * len(classes):
        return None
    between = sum(of**2 / count for count, of in classes) - total**2 / rows
    share = 1 - (1 - min(1.0, between / variance)) * (rows - 1) / (rows - len(classes))
    return max(0.0, share - SIGMAS * math.sqrt(2 * len(classes)) / (rows - len(classes)))
