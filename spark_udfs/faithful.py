"""What a text says of a product against the product's own record: values of attributes and numbers. No Spark.

A text breaks the rule where it says a value that some product of the shop has in one of its attributes and this
product's record does not say, or a number that the record does not say. So a text says of attributes what the record
does, as far as the shop has words for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WORDS = re.compile(r"[^\W\d_]+|\d+")  # of letters, or of digits: "30cm" are two
LONGEST = 6  # words of a value; a longer one is prose, and none
LOOKED_AT = 120  # characters at the end of a text that is being written, in which what is new may be


def words(text: str) -> list[str]:
    """A text's words and numbers, in small letters."""
    return WORDS.findall(text.lower())


class Values:
    """The values that attributes have somewhere in the shop, by their last word.

    Args:
        values: texts; numbers alone, and values of more than LONGEST words, are not held against.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._by_last: dict[str, set[tuple[str, ...]]] = {}
        for value in values:
            said = tuple(words(value))
            if 0 < len(said) <= LONGEST and not all(word.isdigit() for word in said):
                self._by_last.setdefault(said[-1], set()).add(said)

    def ending_at(self, said: Sequence[str], place: int) -> list[tuple[str, ...]]:
        """The values that end with the word at a place, the longest first."""
        held = self._by_last.get(said[place], ())
        found = [value for value in held if tuple(said[max(0, place + 1 - len(value)) : place + 1]) == value]
        return sorted(found, key=len, reverse=True)


@dataclass(frozen=True)
class Record:
    """What a product's record says.

    Attributes:
        phrases: its fields, word by word, with a bar between two of them.
        numbers: in digits.
    """

    phrases: str
    numbers: frozenset[str]

    @classmethod
    def of(cls, fields: Mapping[str, str | None]) -> Record:
        """Of a record's fields by name; what a field is called counts for nothing."""
        said = [words(value) for value in fields.values() if value]
        phrases = " | ".join(" ".join(one) for one in said)
        return cls(f" {phrases} ", frozenset(word for one in said for word in one if word.isdigit()))

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
        said = words(text[-LOOKED_AT:])
        open_number = bool(said) and said[-1].isdigit() and text[-1:].isdigit()
        if open_number and not any(own.startswith(said[-1]) for own in self.record.numbers):
            return False
        places = range(max(0, len(said) - 3), len(said) - open_number)
        return not any(self._at(said, place) for place in places)

    def may_end(self, text: str) -> bool:
        """Whether a text is one, and says nothing that the record does not."""
        return bool(text.strip()) and not self.breaches(text)

    def _at(self, said: Sequence[str], place: int) -> list[str]:
        word, ending = said[place], self.values.ending_at(said, place)
        is_wrong_number = word.isdigit() and word not in self.record.numbers
        return [word] * is_wrong_number + [" ".join(value) for value in ending if not self.record.says(value)]


def named(text: str, attributes: Mapping[str, str | None]) -> list[str]:
    """The attributes whose value a text says."""
    held = Record.of({"text": text})
    return [name for name, value in attributes.items() if value and (said := words(value)) and held.says(said)]
