"""Items found by what they are called: pieces of words that a query and a name share, weighed by how rare they are.

    likeness = cosine of the sets of pieces, whose weights' squares are log(1 + names / names that have it)

A piece is two or three neighbours in a word, its ends among them (" r", "re", " re", "red"). So a misspelt word still
shares most of its pieces, and the order of words does not matter. Case, punctuation and the accents of Latin, Greek and
Cyrillic letters count for nothing. numpy and Arrow alone; an index takes 4 bytes a piece of a name, and 70 while it is
made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.errors import DataError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]

SPACE = ord(" ")
LENGTHS = (2, 3)  # of pieces, in signs; three at most, by BITS
BITS = 21  # of a sign, in a piece's number
SLICE = 20_000  # names whose pieces are found at once
MOST = 200  # signs of a name or a query that count
SHOWN = 100  # signs of a query that an error shows


@dataclass(frozen=True)
class NameIndex:
    """Which names have a piece, made by `index_of`.

    Attributes:
        pieces: ascending.
        starts: (pieces + 1,) where the places of each begin in `places`.
        places: of the names that have a piece, ascending for each.
        lengths: (names,) of each name's vector of weights; 0 of a name without a piece.
    """

    pieces: Codes
    starts: Ints
    places: npt.NDArray[np.int32]
    lengths: Doubles

    def likeness(self, query: str) -> tuple[Doubles, Doubles]:
        """(names,) cosines with a query: 1 where all pieces are the same, 0 where none is; and (names,) how much of the
        query a name has, by the squares of its pieces' weights."""
        asked = _pieces(pa.array([query]))[0]
        found = np.searchsorted(self.pieces, asked)
        is_known = found < len(self.pieces)
        is_known[is_known] = self.pieces[found[is_known]] == asked[is_known]
        known = found[is_known]
        counts = np.zeros(len(asked), np.int64)
        counts[is_known] = np.diff(self.starts)[known]
        squares = _squares(counts, len(self.lengths))
        sums = np.zeros(len(self.lengths))
        for piece, square in zip(known, squares[is_known], strict=True):
            sums[self.places[self.starts[piece] : self.starts[piece + 1]]] += square
        whole = squares.sum()
        both = self.lengths * np.sqrt(whole)
        return np.divide(sums, both, out=np.zeros_like(sums), where=both > 0), sums / max(whole, 1e-300)


def index_of(names: pa.Array) -> NameIndex:
    """The index of names.

    Args:
        names: strings; a null is a name without a piece.
    """
    found = [(pieces, rows + first) for first, names_of in _slices(names) for pieces, rows in [_pieces(names_of)]]
    pieces = np.concatenate([np.empty(0, np.uint64), *(one for one, _ in found)])
    rows = np.concatenate([np.empty(0, np.int64), *(one for _, one in found)])
    order = np.argsort(pieces, kind="stable")  # names stay ascending
    pieces, places = pieces[order], rows[order].astype(np.int32)
    known, starts = np.unique(pieces, return_index=True)
    starts = np.append(starts, len(pieces)).astype(np.int64)
    counts = np.diff(starts)
    squares = np.repeat(_squares(counts, len(names)), counts)
    lengths = np.sqrt(np.bincount(places, weights=squares, minlength=len(names)))
    return NameIndex(known, starts, places, lengths)


def _squares(counts: Ints, names: int) -> Doubles:
    """How much a piece says that so many names have, to the power of two."""
    return np.asarray(np.log1p(max(names, 1) / np.maximum(counts, 1)))


def _slices(names: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    for first in range(0, len(names), SLICE):
        yield first, names.slice(first, SLICE)


def _pieces(names: pa.Array) -> tuple[Codes, Ints]:
    """The pieces of each name, each once, and whose they are; ascending by name and piece."""
    texts = plain(names)
    signs = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    found = [_numbered(signs, row, many) for many in LENGTHS]
    codes, rows = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((codes, rows))
    codes, rows = codes[order], rows[order]
    is_first = np.append(True, (codes[1:] != codes[:-1]) | (rows[1:] != rows[:-1]))[: len(codes)]
    return codes[is_first], rows[is_first]


def _numbered(signs: Codes, row: Ints, many: int) -> tuple[Codes, Ints]:
    """The pieces of a length, by number, and whose they are: those within a word, or with one of its ends."""
    runs, rows = _runs(signs, row, many)
    is_within = (runs[:, 1:-1] != SPACE).all(1) & (runs != SPACE).any(1)
    shifts = np.arange(many, dtype=np.uint64) * np.uint64(BITS)
    return (runs[is_within] << shifts).sum(1, dtype=np.uint64), rows[is_within]


def _runs(signs: Codes, row: Ints, many: int) -> tuple[Codes, Ints]:
    """(runs, many) neighbours that stand in one name, and (runs,) whose they are."""
    if len(signs) < many:
        return np.empty((0, many), np.uint64), np.empty(0, np.int64)
    runs = np.lib.stride_tricks.sliding_window_view(signs, many)
    is_one = row[many - 1 :] == row[: len(row) - many + 1]
    return runs[is_one], row[: len(runs)][is_one]


def plain(names: pa.Array) -> list[str]:
    """Names in small letters without accents, a space about each word; one without a letter or digit is empty."""
    begun = pc.utf8_slice_codeunits(names.cast(pa.large_string()), 0, MOST)  # to sort many marks takes their square
    small = pc.utf8_lower(pc.utf8_slice_codeunits(pc.utf8_normalize(begun, "NFKD"), 0, MOST))
    bare = pc.replace_substring_regex(small, r"([\p{Latin}\p{Greek}\p{Cyrillic}])\p{M}+", r"\1")
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(bare, r"[^\p{L}\p{N}\p{M}]+", " "))
    return [f" {text} " if text else "" for text in words.to_pylist()]


def refuse_empty(query: str) -> None:
    """Refuse a query that can be like no name.

    Raises:
        DataError: it has no letter or digit.
    """
    if not isinstance(query, str) or not _is_text(query) or not plain(pa.array([query]))[0].strip():
        shown = repr(query if query is None else str(query)[:SHOWN])
        raise DataError(f"a query must have a letter or a digit; it is {shown}: write what the item is called")


def _is_text(query: str) -> bool:
    """Whether no half of a sign (a surrogate) stands in it."""
    return query.encode("utf-8", "replace").decode() == query
