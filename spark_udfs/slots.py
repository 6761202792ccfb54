"""What a message says of an order and of how to reach the customer, by rules; and what is masked before it is kept.

No Spark. A slot is what one of the patterns finds, and nothing else: no other part of a message gets into a reply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from spark_udfs.text_terms import masked

LETTERS = 4_000  # of a message that are looked at
ORDER_NUMBER, EMAIL = "order_number", "email"
PHONE = re.compile(r"\+[0-9][0-9 ()/-]{5,20}")  # no order's number
NUMBER, DIGITS = re.compile(r"[0-9](?:[0-9.,-]*[0-9])?"), 3
PATTERNS: Mapping[str, str] = {
    ORDER_NUMBER: r"(?<![\w@.+$€£-])#?([A-Za-z]{0,6}-?[0-9][0-9-]{2,30}[0-9])(?![\w@])",
    EMAIL: r"(?<![\w.+-])([\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})(?![\w@])",
}


def slots_of(text: str, patterns: Mapping[str, str] = PATTERNS) -> dict[str, str]:
    """By slot the last thing in a text that its pattern finds: who corrects oneself does so at the end.

    Args:
        text: a message.
        patterns: regular expressions with one group, by slot.
    """
    found, read = {}, PHONE.sub(" ", text[:LETTERS])
    for name, pattern in patterns.items():
        if said := re.findall(pattern, read):
            found[name] = said[-1]
    return found


def numbers_of(text: str) -> set[str]:
    """Numbers of three digits or more: of orders, amounts, customers; none of telephones."""
    return {found for found in NUMBER.findall(PHONE.sub(" ", text)) if sum(map(str.isdigit, found)) >= DIGITS}


def plain(text: str, most: int) -> str:
    """A text as it may stand in a log, in a table or on a screen: in one line, without numbers and e-mail addresses,
    and without what steers a terminal."""
    seen = "".join(letter if letter.isprintable() else " " for letter in masked(text[:LETTERS]))
    short = " ".join(seen.replace(" 0 ", " ... ").split())
    return short if len(short) <= most else f"{short[:most]} ..."
