"""Texts to terms: words, pairs of neighbours and pieces of words, as numbers that need no vocabulary. No Spark.

    text --masked--> numbers, e-mail addresses and {{placeholders}} all alike
         --words---> words of any script, `!`, `?` and symbols
         --terms---> hashes of words, of pairs and of pieces of 3 to 5 letters, each once

A job that scores tables and a conversation in a terminal go through here, so that both read the same in a text. Pieces
of words keep a misspelt word near the right one. A hash (CRC-32) needs no table of terms: nothing has to be joined, and
no word that only one person says is kept anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from zlib import crc32

# Of Java and Python alike, and without going back: looked for where a token begins, so that work is linear in a text.
_ENDS = r" \t\n\r\f?!,;"
MASKED = rf"\{{\{{[^{{}}]{{0,100}}\}}\}}|(?<![^{_ENDS}])[^{_ENDS}0-9@]*+[0-9@][^{_ENDS}]*+"
MASK = " 0 "
# What stands in scripts without spaces is a word each; the other words are letters and digits with what joins them.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W_{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTER}++(?:'{_LETTER}++)*+|[!?]|[\u2190-\u2bff\U0001f000-\U0001faff]")
_MASKED = re.compile(MASKED)
PIECES = (3, 4, 5)  # letters of a piece; a word's two ends count as letters
LONGEST = 40  # letters of a word that are looked at


def masked(text: str) -> str:
    """A text with what is one customer's alone masked: tokens with a digit or an @, and {{placeholders}}."""
    return _MASKED.sub(MASK, text)


def words(text: str, most: int) -> list[str]:
    """The first words of a masked text."""
    return tokens(masked(text), most)


def tokens(text: str, most: int) -> list[str]:
    """The first words of a text, small, at most so many; letters in their usual form (Unicode NFKC)."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return _WORD.findall(plain)[:most]


def terms(text: str, most: int, buckets: int) -> list[int]:
    """The terms of a text's first words, as numbers from 1 to `buckets`, each once, in the order in which they come."""
    said = words(text, most)
    ends = [f"{one} {other}" for one, other in pairwise(["^", *said, "$"])] if said else []
    found = dict.fromkeys([*said, *ends, *(piece for word in said for piece in pieces(word))])
    return list(dict.fromkeys(1 + crc32(term.encode("utf-8", "replace")) % buckets for term in found))


def pieces(word: str) -> list[str]:
    """The pieces of a word, marked so that none is taken for a word."""
    ended = f"<{word[:LONGEST]}>"
    return [f"~{ended[at : at + size]}" for size in PIECES for at in range(len(ended) - size + 1)]
