"""The values of a task's rows counted by class, by numpy on Arrow batches: state that does not grow with the rows.

A class of a column is a number's sign and size (four to a doubling), a text's hash, a moment's hour, its day, or, of a
sample of keys, the key itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NUMBER, TEXT, NAMED, HOURS, DAYS, KEYS = "number", "text", "named", "hours", "days", "keys"
LOW_BITS = 10  # of a text's hash, that are its class
BUCKETS = 1 << LOW_BITS
OF_DAYS = 4096  # days, in a circle
NULL, NO_NUMBER = -(1 << 20), 1 << 20  # classes of their own
PER_DOUBLING, LOWEST, CLASSES = 4, -20, 321  # numbers below 2**-20 are one class, and those above 2**60
LONGEST_WORD = 64  # characters of a text that may be told
LARGEST = 1e100  # so that no sum of squares overflows
SIZES = {NUMBER: 2 * CLASSES + 1, TEXT: BUCKETS, NAMED: BUCKETS, HOURS: 24, DAYS: OF_DAYS}  # classes, but for these
CELL = (
    "part string, is_later boolean, place int, bin bigint, text string, rows bigint, total double, squares double, "
    "top double, least double, labelled bigint, label double"
)
_ARROW = {"string": pa.string(), "boolean": pa.bool_(), "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64()}
SCHEMA = pa.schema([(name, _ARROW[kind]) for name, kind in (field.split() for field in CELL.split(", "))])
Values = npt.NDArray[Any]


class Place(NamedTuple):
    """What a cell's place means: a column's name, or what else is counted, and its kind."""

    name: str
    kind: str


def counted(batches: Iterable[pa.RecordBatch], places: Sequence[Place]) -> Iterator[pa.RecordBatch]:
    """The groups of a task's rows.

    Args:
        batches: `part`, `is_later`, `y` (the label), and of each place, by its number, `xN` (a number), `hN` (a hash,
            an hour, a key) or both, and `tN` (the text, of a sample) where it is NAMED.
        places: what they are.

    Returns:
        Rows of CELL.
    """
    held: dict[tuple[str, bool], list[_Counts]] = {}
    for batch in batches:
        for group, rows in _groups(batch):
            if group not in held:
                held[group] = [_Counts(place.kind) for place in places]
            y = _floats(rows["y"])
            for number, counts in enumerate(held[group]):
                counts.add(y, *(rows.get(f"{letter}{number}") for letter in "xht"))
    cells = [
        (*group, number, *cell)
        for group, of_places in held.items()
        for number, counts in enumerate(of_places)
        for cell in counts.cells()
    ]
    columns = zip(*cells, strict=True) if cells else [()] * len(SCHEMA)
    yield pa.record_batch([pa.array(column, one.type) for column, one in zip(columns, SCHEMA, strict=True)], SCHEMA)


def _groups(batch: pa.RecordBatch) -> Iterator[tuple[tuple[str, bool], dict[str, pa.Array]]]:
    """A batch's columns, for each part and whether it is later."""
    parts = batch.column("part").dictionary_encode()
    codes = 2 * parts.indices.to_numpy() + batch.column("is_later").to_numpy(zero_copy_only=False)
    for code in np.unique(codes).tolist():
        part = batch if (codes == code).all() else batch.take(pa.array(np.flatnonzero(codes == code)))
        columns = dict(zip(batch.schema.names, part.columns, strict=True))
        yield (parts.dictionary[code // 2].as_py(), bool(code % 2)), columns


class _Counts:
    """What was counted in a place, of one part: arrays with an element a class, one for NULL and one for NO_NUMBER."""

    def __init__(self, kind: str) -> None:
        self._kind, self._classes = kind, SIZES.get(kind, 0)
        size = self._classes + 2
        self._rows, self._labelled = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._total, self._squares, self._label = np.zeros(size), np.zeros(size), np.zeros(size)
        self._top, self._least = np.full(size, -np.inf), np.full(size, np.inf)
        self._texts, self._keys = Counter[tuple[int, str]](), dict[int, int]()

    def add(self, y: Values, x: pa.Array | None, hashed: pa.Array | None, texts: pa.Array | None) -> None:
        """Count more values."""
        if self._kind == KEYS:
            assert hashed is not None
            keys, rows = np.unique(hashed.drop_null().to_numpy(zero_copy_only=False), return_counts=True)
            for key, count in zip(keys.tolist(), rows.tolist(), strict=True):
                self._keys[key] = self._keys.get(key, 0) + count
            return
        numbers = None if x is None else _floats(x)
        at = self._at(x, numbers, hashed)
        self._rows += np.bincount(at, minlength=len(self._rows))
        self._add_labels(at, y)
        if numbers is not None:
            self._add_numbers(at, np.where(np.abs(numbers) < LARGEST, numbers, 0.0))
        if hashed is not None and self._kind in (TEXT, NAMED):
            is_there = at < self._classes
            rest = (_whole(hashed)[is_there].view(np.uint64) >> np.uint64(LOW_BITS)) / float(1 << (64 - LOW_BITS))
            np.minimum.at(self._least, at[is_there], rest)
        if texts is not None:
            told = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
            self._texts.update(zip(at[told].tolist(), texts.take(pa.array(told)).to_pylist(), strict=True))

    def _at(self, x: pa.Array | None, numbers: Values | None, hashed: pa.Array | None) -> Values:
        """The element that each value counts in."""
        if self._kind in (NUMBER, DAYS):
            assert x is not None
            assert numbers is not None
            nulls, wrong = _nulls(x), ~(np.abs(numbers) < LARGEST)
            safe = np.where(wrong, 0.0, numbers)
            at = np.floor(safe).astype(np.int64) % OF_DAYS if self._kind == DAYS else _size(safe) + CLASSES
            at[wrong] = self._classes + 1
        else:
            assert hashed is not None
            nulls, at = _nulls(hashed), _whole(hashed) & (BUCKETS - 1)
        at[nulls] = self._classes
        return at

    def _add_labels(self, at: Values, y: Values) -> None:
        said = ~np.isnan(y)
        if said.any():
            self._labelled += np.bincount(at[said], minlength=len(self._rows))
            self._label += np.bincount(at[said], weights=y[said], minlength=len(self._rows))

    def _add_numbers(self, at: Values, numbers: Values) -> None:
        self._total += np.bincount(at, weights=numbers, minlength=len(self._rows))
        self._squares += np.bincount(at, weights=numbers * numbers, minlength=len(self._rows))
        if self._kind == DAYS:
            np.maximum.at(self._top, at, numbers)

    def cells(self) -> Iterator[tuple[Any, ...]]:
        """The fields of CELL from `bin` on."""
        for at in np.flatnonzero(self._rows).tolist():
            top, least = (float(one[at]) if np.isfinite(one[at]) else None for one in (self._top, self._least))
            sums = float(self._total[at]), float(self._squares[at])
            said = int(self._labelled[at]), float(self._label[at])
            yield self._bin(at), None, int(self._rows[at]), *sums, top, least, *said
        for (at, text), rows in sorted(self._texts.items()):
            yield self._bin(at), text, rows, 0.0, 0.0, None, None, 0, 0.0
        for key, rows in self._keys.items():
            yield key, None, rows, 0.0, 0.0, None, None, 0, 0.0

    def _bin(self, at: int) -> int:
        if at >= self._classes:
            return (NULL, NO_NUMBER)[at - self._classes]
        return at - CLASSES if self._kind == NUMBER else at


def _size(numbers: Values) -> Values:
    """The class of finite numbers: 0, or by how large they are, with their sign."""
    with np.errstate(divide="ignore"):
        sizes = np.floor(np.log2(np.abs(numbers)) * PER_DOUBLING) + (1 - LOWEST * PER_DOUBLING)
    signed: Values = np.sign(numbers) * np.clip(sizes, 0, CLASSES)
    return signed.astype(np.int64)


def _floats(values: pa.Array) -> Values:
    """NaN for null."""
    held: Values = values.to_numpy(zero_copy_only=False)
    return held.astype(np.float64)


def _whole(values: pa.Array) -> Values:
    held: Values = values.fill_null(0).to_numpy(zero_copy_only=False)
    return held.astype(np.int64)


def _nulls(values: pa.Array) -> Values:
    held: Values = values.is_null().to_numpy(zero_copy_only=False)
    return held
