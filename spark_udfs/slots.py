"""What a message says of an order and of how to reach the customer, by rules; and what is masked before it is kept.

No Spark. A slot is what one of the patterns finds, and nothing else: no other part of a message gets into a reply.
"""

from __future__ import annotations

import re
import unicodedata

from spark_udfs.text_terms import UNSPACED, masked, usual

LETTERS = 4_000  # of a message that slots are looked for in
ORDER_NUMBER, EMAIL = "order_number", "email"
SLOTS = (ORDER_NUMBER, EMAIL)
BEFORE = 40  # letters before a number that say what it is
STEERS_NOT = "\n\u200c\u200d"  # a line's end, and what joins or parts the letters of some scripts

# What a number may not touch: in scripts without spaces, and in Korean, it touches its neighbours.
_WORD = rf"[^\W\uac00-\ud7af{UNSPACED}]"
_MONEY = r"[$€£¥₹]|\b(?:usd|eur|gbp|chf|dollars?|euros?|pounds?)\b"
_NO_ORDER = re.compile(
    r"\+[0-9][0-9 ()/-]{5,20}"  # a telephone's
    r"|(?<![0-9])[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?![0-9])"  # a card's
    r"|\b[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3}\b)?"  # an account's
    r"|(?<![\w-])(?:(?:19|20)[0-9]{2}-[0-9]{1,2}-[0-9]{1,2}|(?:[0-9]{1,2}-){1,2}(?:19|20)[0-9]{2}"
    r"|[0-9]{1,2}-[0-9]{1,2}-[0-9]{2})(?![\w-])"  # a day
)
_NUMBER = re.compile(
    rf"(?<!{_WORD})(?<![@.+$€£¥₹/-])#?([A-Za-z]{{0,6}}-?[0-9][0-9-]{{2,30}}[0-9])(?!{_WORD}|@|[-/.]\w)"
)
_EMAIL = re.compile(r"(?<![\w.+-])([\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})(?![\w@])")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}|2100")
# Before a number, and after it, what says that it is an order's, or something else's.
_OF_ORDER = re.compile(
    r"(?:\b(?:order|purchase|number|nr|sorry|mean|meant|rather|correction)\b|\bno[.,]|[#№])[\s.,:#№]*"
    r"(?:(?:no|nr|number|id|is)\b[\s.,:#№]*)*$",
    re.IGNORECASE,
)
_OF_OTHER = re.compile(
    rf"(?:{_MONEY}|\b(?:tele)?phone|\b(?:mobile|cell|tel|fax|call|zip|plz|card|iban|account|post\s?code|postal code)\b)"
    r"[\s.:#]*(?:(?:me|at|on|code|number|no|nr|is)\b[\s.:#]*)*[\s()/0-9-]*$",
    re.IGNORECASE,
)
_PRICED = re.compile(rf"\s?(?:{_MONEY})", re.IGNORECASE)
# Of an answer: the numbers of a list's points are nobody's; of what is left, what has a digit or is an address.
_POINTS = re.compile(r"^[ \t*_#>-]{0,20}[0-9]{1,2}[.):](?=\s|\*)|\b24/7\b", re.MULTILINE)
_OWN = re.compile(r"\S*[\d@]\S*")
_EDGES = "#.,:;!?()[]\"'`*_“”‘’«»"


def with_digits(text: str) -> str:
    """A text in its usual form, with digits of any script as 0 to 9."""
    plain = usual(text)
    return plain if plain.isascii() else "".join(str(unicodedata.decimal(one, one)) for one in plain)


def slots_of(text: str) -> dict[str, str]:
    """By slot the last thing in a text that is one: who corrects oneself does so at the end.

    Of numbers one that is said to be an order's goes before others. A telephone's, a card's, a day, a year, a price and
    what is said to be a postcode or the like are none.
    """
    read = _NO_ORDER.sub(" ", with_digits(text[:LETTERS]))
    numbers = [found for found in _NUMBER.finditer(read) if not _is_other(read, found)]
    of_order = [found for found in numbers if _OF_ORDER.search(_before(read, found)) or found[0].startswith("#")]
    numbers = of_order or [found for found in numbers if not _YEAR.fullmatch(found[1])]
    said = {ORDER_NUMBER: [found[1] for found in numbers], EMAIL: _EMAIL.findall(read)}
    return {name: found[-1] for name, found in said.items() if found}


def _is_other(read: str, found: re.Match[str]) -> bool:
    return bool(_OF_OTHER.search(_before(read, found)) or _PRICED.match(read, found.end()))


def _before(read: str, found: re.Match[str]) -> str:
    return read[max(0, found.start() - BEFORE) : found.start()]


def persons_own(text: str) -> set[str]:
    """What of an answer may be one customer's: addresses and all that has a digit, but for points of a list."""
    return {found.strip(_EDGES) for found in _OWN.findall(_POINTS.sub(" ", with_digits(text)))}


def printable(text: str) -> str:
    """A text without what steers a terminal, or turns the direction of what follows."""
    return "".join(one if one.isprintable() or one in STEERS_NOT else " " for one in text)


def in_line(text: str, most: int) -> str:
    """A text in one line, of so many letters at most, without what steers a terminal."""
    short = " ".join(printable(text).split())
    return short if len(short) <= most else f"{short[:most]} ..."


def plain(text: str, most: int) -> str:
    """A text as it may stand in a log, in a table or on a screen: `in_line`, without numbers and e-mail addresses."""
    return in_line(masked(text).replace(" 0 ", " ... "), most)
