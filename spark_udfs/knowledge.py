"""A shop's answers: which fit a message, by BM25, and how their placeholders are filled. No Spark.

BM25 is that of Robertson and Zaragoza ("The probabilistic relevance framework", 2009), with the inverse frequency of
Lucene, which is never negative.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spark_udfs.postings import Postings, postings, sums
from spark_udfs.text_terms import pieces, tokens

K1, B = 1.2, 0.75  # how soon a word's repetition says no more, and how much a long answer is held back
WORDS = 400  # of a text that are read
PLACEHOLDER = re.compile(r"\{\{\s*([^{}]{1,100}?)\s*\}\}")
BRACES = ("{{", "}}")


class Known(NamedTuple):
    """An answer of the shop's.

    Attributes:
        answer_id: the shop's own.
        intent: what it answers.
        text: with placeholders, as {{Order Number}}.
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
        answers: all of them; they are held in memory.
    """

    def __init__(self, answers: Sequence[Known]) -> None:
        self.answers = answers
        self._of_intent: dict[str, list[int]] = {}
        for place, one in enumerate(answers):
            self._of_intent.setdefault(one.intent, []).append(place)
        self._numbers: dict[str, int] = {}
        self._held = self._by_word()

    def best(self, text: str, intent: str | None, most: int) -> list[Known]:
        """The answers that fit a message best, those first; of equal ones the first.

        Args:
            text: the message.
            intent: what answers must be of; None: of any.
            most: answers.
        """
        places = range(len(self.answers)) if intent is None else self._of_intent.get(intent, [])
        if not places:
            return []
        known = {self._numbers[word] for word in parts(text) if word in self._numbers}
        asked = np.asarray(sorted(known), np.int64)
        (scores,) = sums(self._held, asked, np.asarray([0, len(asked)], np.int64), np.ones(len(asked)))
        own = np.asarray(places)
        order = own[np.argsort(-scores[0][own], kind="stable")]
        return [self.answers[place] for place in order[:most]]

    def _by_word(self) -> Postings:
        counts = [Counter(parts(PLACEHOLDER.sub(" ", one.text))) for one in self.answers]
        for word in (word for own in counts for word in own):
            self._numbers.setdefault(word, len(self._numbers))
        term = np.asarray([self._numbers[word] for own in counts for word in own], np.int64)
        times = np.asarray([times for own in counts for times in own.values()], np.float64)
        text = np.repeat(np.arange(len(counts)), [len(own) for own in counts])
        length = np.bincount(text, times, minlength=len(counts))
        having = np.bincount(term, minlength=len(self._numbers))
        idf = np.log1p((len(counts) - having + 0.5) / (having + 0.5))
        long = K1 * (1 - B + B * length[text] / max(float(length.mean()) if len(length) else 1.0, 1.0))
        weight = idf[term] * times * (K1 + 1) / (times + long)
        return postings(term, text, weight, texts=len(counts), count=len(self._numbers))


def name_of(placeholder: str) -> str:
    """A placeholder's name as fillings are looked up by: small letters and single blanks."""
    return " ".join(placeholder.lower().removesuffix("anonymized").split())


def placeholders(text: str) -> list[str]:
    """The names of an answer's placeholders, as `name_of` has them, each once."""
    return list(dict.fromkeys(name_of(found) for found in PLACEHOLDER.findall(text)))


def filled(text: str, known: Mapping[str, str]) -> str | None:
    """An answer with its placeholders filled; None where two braces would be left, whatever they are.

    Args:
        text: the answer.
        known: what to put in, by `name_of`, of each placeholder.
    """
    made = PLACEHOLDER.sub(lambda found: known[name_of(found[1])], text)
    return None if any(braces in made for braces in BRACES) else made
