"""Placeholders of a shop's answers, however they are marked, and how they are filled. No Spark.

    {{Order Number}}  {Order Number}  ${Order Number}  [Order Number]  <<Order Number>>  <Order Number>

and the full-width signs of these. A link's text, [this page](https://...), is none, nor is a tag of HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# What stands between marks that mean something else too begins with a letter.
_NAME = r"([^\W\d_][^{}｛｝\[\]［］<>＜＞\n]{0,99}?)\s*"
_TAGS = "a|b|blockquote|br|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|small|span|strong|sub|sup|table|tbody|td|th|tr|u|ul"
_MARKS = (
    r"[{｛]{2}\s*([^{}｛｝]{1,100}?)\s*[}｝]{2}",
    rf"\$?[{{｛]\s*{_NAME}[}}｝]",
    rf"[<＜]{{2}}\s*{_NAME}[>＞]{{2}}",
    rf"[\[［]\s*{_NAME}[\]］](?![(\[])",
    rf"[<＜](?!(?:{_TAGS})(?![^\W_])[^<>]*[>＞])(?=[^<>=:/@\"]*[>＞]){_NAME}[>＞]",
)
PLACEHOLDER = re.compile("|".join(_MARKS), re.IGNORECASE)
_TORN = re.compile(r"[{}｛｝]")  # what is left of one that is none of the above


def name_of(placeholder: str) -> str:
    """A placeholder's name as fillings are looked up by: small letters and single blanks."""
    return " ".join(placeholder.lower().removesuffix("anonymized").split())


def placeholders(text: str) -> list[str]:
    """The names of an answer's placeholders, as `name_of` has them, each once."""
    return list(dict.fromkeys(_name(found) for found in PLACEHOLDER.finditer(text)))


def marks(text: str) -> list[str]:
    """All of a text that marks placeholders, or is left of such marks."""
    return [found[0] for found in PLACEHOLDER.finditer(text)] or _TORN.findall(text)


def without(text: str) -> str:
    """A text without its placeholders."""
    return PLACEHOLDER.sub(" ", text)


def filled(text: str, known: Mapping[str, str]) -> str | None:
    """An answer with its placeholders filled; None where marks would be left, whatever they are, or nothing but blanks.

    Args:
        text: the answer.
        known: what to put in, by `name_of`, of each placeholder.
    """
    made = PLACEHOLDER.sub(lambda found: known[_name(found)], text)
    return made if made.strip() and not marks(made) else None


def _name(found: re.Match[str]) -> str:
    return name_of(found[found.lastindex or 0])
