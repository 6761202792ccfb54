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

RULES = 2  # a higher one where the same text has other terms: who learnt from those of before must learn anew
# What stands in scripts without spaces is a word each; the other words are letters and digits with what joins them.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
MASK = " 0 "
NO_WORD = frozenset({MASK.strip(), "!", "?"})
# A token ends at signs of any script, and where a script without spaces begins, or one that puts numbers next to words.
_ENDS = rf"\s?!,;\u060c\u061b\u061f\u3000-\u303f\uac00-\ud7af{UNSPACED}"
# Without going back, and looked for where a token begins: so work is linear in a text.
_MASKED = re.compile(rf"\{{\{{[^{{}}]{{0,100}}\}}\}}|(?<![^{_ENDS}])[^{_ENDS}\d@]*+[\d@](?:[^{_ENDS}]|\d)*+")
_LETTER = rf"[^\W_{UNSPACED}]"
_WORD = re.compile(rf"[{UNSPACED}]|{_LETTER}++(?:'{_LETTER}++)*+|[!?]|[\u2190-\u2bff\U0001f000-\U0001faff]")
PIECES = (3, 4, 5)  # letters of a piece; a word's two ends count as letters
PART = 1_000
LONGEST = 40  # letters of a word that are looked at


def masked(text: str) -> str:
    """A text with what is one customer's alone masked: tokens with a digit of any script or an @, and {{placeholders}};
    letters and signs are in their usual form (Unicode NFKC)."""
    return _MASKED.sub(MASK, usual(text))


def usual(text: str) -> str:
    """A text in Unicode's form NFKC, which is made PART letters at a time: it sorts the marks of a letter slowly, where
    a text has thousands of them in a row."""
    parts = (text[at : at + PART] for at in range(0, len(text), PART))
    return "".join(unicodedata.normalize("NFKC", part) for part in parts)


def alike(text: str) -> str:
    """A text in small letters, masked and with single blanks: the same of texts that differ in no more than that."""
    return " ".join(masked(text).lower().split())


def words(text: str, most: int) -> list[str]:
    """The first words of a masked text."""
    return tokens(masked(text), most)


def tokens(text: str, most: int) -> list[str]:
    """The first words of a text, small, at most so many; letters in their usual form (Unicode NFKC)."""
    plain = usual(text).lower().replace("\u2019", "'")
    return _WORD.findall(plain)[:most]


def terms(text: str, most: int, buckets: int) -> list[int]:
    """The terms of a text's first words, as numbers from 1 to `buckets`, each once, in the order in which they come;
    none where all that it says is masked: a number alone says nothing of what is wanted."""
    said = words(text, most)
    if NO_WORD.issuperset(said):
        return []
    ends = [f"{one} {other}" for one, other in pairwise(["^", *said, "$"])]
    found = dict.fromkeys([*said, *ends, *(piece for word in said for piece in pieces(word))])
    return list(dict.fromkeys(1 + crc32(term.encode("utf-8", "replace")) % buckets for term in found))


def pieces(word: str) -> list[str]:
    """The pieces of a word, marked so that none is taken for a word."""
    ended = f"<{word[:LONGEST]}>"
    return [f"~{ended[at : at + size]}" for size in PIECES for at in range(len(ended) - size + 1)]
