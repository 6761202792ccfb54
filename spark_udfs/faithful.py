"""What a text says of a product against the product's own record: values of attributes and numbers. No Spark.

A text breaks the rule where it says a value that some product of the shop has in one of its attributes and this
product's record does not say, or a number that the record does not say. So a text says of attributes what the record
does, as far as the shop has words for them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spark_udfs.text_terms import UNSPACED, usual

# Letters of a script with spaces; a sign of one without; a number with its points and commas. "30cm" are two.
WORDS = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]+|\d+(?:[.,]\d+)*")
RUNS = re.compile(r"[^\W_]+")
LONGEST, MOST = 6, 24  # words of a value, and those that signs of scripts without spaces make; a longer one is prose
LOOKED_AT = 400  # characters at the end of a text that is being written, in which what is new may be
NEW = 8  # words that a token may have made


def plain(text: str) -> str:
    """A text in small letters of Unicode's usual form (NFKC), and with digits of any script as 0 to 9."""
    small = usual(text).lower()
    return small if small.isascii() else re.sub(r"\d", lambda one: str(unicodedata.digit(one[0])), small)


def words(text: str) -> list[str]:
    """A text's words and numbers, as `plain` has them."""
    return WORDS.findall(plain(text))


def is_number(word: str) -> bool:
    """Whether one of `words` is a number."""
    return word[0].isdigit()


class Values:
    """The values that attributes have somewhere in the shop, by their last word.

    Args:
        values: texts; numbers alone, and values of more than LONGEST words, or MOST signs, are not held against.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._held: set[tuple[str, ...]] = set()
        self._lengths: dict[str, set[int]] = {}
        for value in values:
            said = tuple(words(value))
            if 0 < len(said) <= MOST and len(RUNS.findall(value)) <= LONGEST and not all(map(is_number, said)):
                self._held.add(said)
                self._lengths.setdefault(said[-1], set()).add(len(said))

    def ending_at(self, said: Sequence[str], place: int) -> list[tuple[str, ...]]:
        """The values that end with the word at a place, the longest first."""
        lengths = sorted(self._lengths.get(said[place], ()), reverse=True)
        tails = (tuple(said[place + 1 - length : place + 1]) for length in lengths if length <= place + 1)
        return [tail for tail in tails if tail in self._held]


@dataclass(frozen=True)
class Record:
    """What a product's record says.

    Attributes:
        phrases: its fields, word by word, with a bar between two of them.
        numbers: in digits, with their points and commas.
    """

    phrases: str
    numbers: frozenset[str]

    @classmethod
    def of(cls, fields: Mapping[str, str | None]) -> Record:
        """Of a record's fields by name; what a field is called counts for nothing."""
        said = [words(value) for value in fields.values() if value]
        phrases = " | ".join(" ".join(one) for one in said)
        return cls(f" {phrases} ", frozenset(word for one in said for word in one if is_number(word)))

    def says(self, value: Sequence[str]) -> bool:
        """Whether these words stand side by side in a field."""
        return f" {' '.join(value)} " in self.phrases


@dataclass(frozen=True)
class Rule:
    """The rule for texts of one product.

    Attributes:
        values: of the whole shop.
        record: the product's.
    """

    values: Values
    record: Record

    def breaches(self, text: str) -> list[str]:
        """What a whole text says that the record does not, each once, in its order."""
        said = words(text)
        found = [one for place in range(len(said)) for one in self._at(said, place)]
        return list(dict.fromkeys(found))

    def allows(self, text: str) -> bool:
        """Whether a text that goes on may end as it does: the last word may become a longer one, and a number too."""
        end = plain(text[-LOOKED_AT:])
        said = WORDS.findall(end)
        is_open = bool(said) and is_number(said[-1]) and end.endswith((said[-1], f"{said[-1]}.", f"{said[-1]},"))
        if is_open:
            number = end[end.rindex(said[-1]) :]
            is_whole = number[-1] in ".," and said[-1] in self.record.numbers
            if not is_whole and not any(own.startswith(number) for own in self.record.numbers):
                return False
        places = range(max(0, len(said) - NEW), len(said) - is_open)
        return not any(self._at(said, place) for place in places)

    def may_end(self, text: str) -> bool:
        """Whether a text is one, and says nothing that the record does not."""
        return bool(text.strip()) and not self.breaches(text)

    def _at(self, said: Sequence[str], place: int) -> list[str]:
        word, ending = said[place], self.values.ending_at(said, place)
        is_wrong_number = is_number(word) and word not in self.record.numbers
        return [word] * is_wrong_number + [" ".join(value) for value in ending if not self.record.says(value)]


def named(text: str, attributes: Mapping[str, str | None]) -> list[str]:
    """The attributes whose value a text says."""
    held = Record.of({"text": text})
    return [name for name, value in attributes.items() if value and (said := words(value)) and held.says(said)]
