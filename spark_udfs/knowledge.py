"""A shop's answers, and which of them fit a message, by BM25. No Spark.

BM25 is that of Robertson and Zaragoza ("The probabilistic relevance framework", 2009), with the inverse frequency of
Lucene, which is never negative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spark_udfs.placeholders import without
from spark_udfs.postings import Postings, postings, sums
from spark_udfs.text_terms import pieces, tokens

K1, B = 1.2, 0.75  # how soon a word's repetition says no more, and how much a long answer is held back
WORDS = 400  # of a text that are read

Numbers = npt.NDArray[Any]  # of 32 bits: an answer of 100 words has some 800


class Known(NamedTuple):
    """An answer of the shop's.

    Attributes:
        answer_id: the shop's own.
        intent: what it answers.
        text: with placeholders, as {{Order Number}} (`placeholders`).
    """

    answer_id: str
    intent: str
    text: str


def parts(text: str) -> list[str]:
    """What texts are compared by: words, numbers too, and pieces of words, for those that are bent or misspelt."""
    said = tokens(text, WORDS)
    return said + [piece for word in said for piece in pieces(word)]


def id_of(intent: str, text: str) -> str:
    """What names an answer that has no id of its own."""
    return hashlib.sha256(f"{intent}\n{text}".encode()).hexdigest()[:12]


class Knowledge:
    """Answers that are searched.

    Args:
        answers: all of them; they are held in memory, with 8 bytes for each of their parts.
    """

    def __init__(self, answers: Sequence[Known]) -> None:
        self.answers = answers
        self._of_intent: dict[str, list[int]] = {}
        for place, one in enumerate(answers):
            self._of_intent.setdefault(one.intent, []).append(place)
        self._numbers: dict[str, int] = {}
        self._held = self._by_word()

    def best(self, text: str, intent: str, most: int) -> list[Known]:
        """The answers that fit a message best, those first; of equal ones the first.

        Args:
            text: the message.
            intent: what answers must be of.
            most: answers.
        """
        places = self._of_intent.get(intent, [])
        if not places:
            return []
        known = {self._numbers[word] for word in parts(text) if word in self._numbers}
        asked = np.asarray(sorted(known), np.int64)
        (scores,) = sums(self._held, asked, np.asarray([0, len(asked)], np.int64), np.ones(len(asked)))
        own = np.asarray(places)
        order = own[np.argsort(-scores[0][own], kind="stable")]
        return [self.answers[place] for place in order[:most]]

    def _by_word(self) -> Postings:
        of_word: dict[str, list[int]] = {}
        found = [self._counted(one.text, of_word) for one in self.answers]
        sizes = np.asarray([len(numbers) for numbers, _ in found], np.int64)
        term = _joined([numbers for numbers, _ in found], np.int32)
        times = _joined([times for _, times in found], np.float32)
        text: Numbers = np.repeat(np.arange(len(found), dtype=np.int32), sizes)
        length = np.bincount(text, times, minlength=len(found))
        having = np.bincount(term, minlength=len(self._numbers))
        idf = np.log1p((len(found) - having + 0.5) / (having + 0.5)).astype(np.float32)
        long = (K1 * (1 - B + B * length / max(float(length.mean()) if len(length) else 1.0, 1.0))).astype(np.float32)
        weight = idf[term] * times * (K1 + 1) / (times + long[text])
        return postings(term, text, weight, texts=len(found), count=len(self._numbers))

    def _counted(self, text: str, of_word: dict[str, list[int]]) -> tuple[Numbers, Numbers]:
        """The numbers of an answer's parts, each once, and how often each stands there; of words that were met before
        these are at hand."""
        found: list[int] = []
        for word in tokens(without(text), WORDS):
            if word not in of_word:
                of_word[word] = [self._numbers.setdefault(part, len(self._numbers)) for part in (word, *pieces(word))]
            found += of_word[word]
        numbers, times = np.unique(np.asarray(found, np.int32), return_counts=True)
        return numbers, times.astype(np.float32)


def _joined(parts: Sequence[Numbers], kind: type[np.int32 | np.float32]) -> Numbers:
    return np.concatenate([np.zeros(0, kind), *parts])


def knowledge_of(answers: Sequence[Known]) -> Knowledge:
    """Answers that are searched, made once a process as long as they are the same: a worker gets many partitions."""
    digest = hashlib.sha256()
    for one in answers:
        digest.update("\0".join(one).encode("utf-8", "replace") + b"\n\0")
    key = digest.hexdigest()
    if key not in _MADE:
        _MADE.clear()
        _MADE[key] = Knowledge(answers)
    return _MADE[key]


_MADE: dict[str, Knowledge] = {}
