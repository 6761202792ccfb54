"""What a text may say of a product: its own record's values and numbers, while it is written and when it is whole."""

from __future__ import annotations

import numpy as np
import pytest

from spark_udfs.faithful import Record, Rule, Values, named, words
from spark_udfs.written import Author, drawing

SHOP = Values(["red", "blue", "dark blue", "solid oak", "oak", "30 cm", "45", "a long value of more than six words"])
OWN = Record.of({"name": "Quiet lamp no.12", "colour": "dark blue", "size": "30 cm", "material": None})
RULE = Rule(SHOP, OWN)


@pytest.mark.parametrize(
    ("text", "breaches"),
    [
        ("The quiet lamp no.12 is dark blue, 30 cm tall.", []),
        ("A RED lamp.", ["red"]),
        ("Made of solid oak!", ["solid oak", "oak"]),
        ("It is 300 cm, and 3 m, no. 12", ["300", "3"]),
        ("reduced, oaken and a long value of more than six words", []),
        ("red, red, 45", ["red", "45"]),
        ("30cm", []),
    ],
)
def test_a_text_says_what_the_record_says(text: str, breaches: list[str]) -> None:
    assert RULE.breaches(text) == breaches
    assert RULE.may_end(text) is not breaches


def test_while_it_is_written_a_number_may_become_one_of_the_record() -> None:
    assert [RULE.allows(text) for text in ("It is 3", "It is 30", "It is 300", "It is 3 ", "of re", "of red")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert not RULE.may_end("It is 3")
    assert not RULE.may_end("  ")


def test_attributes_are_named_by_their_whole_value() -> None:
    said = {"colour": "dark blue", "size": "30 cm", "material": "oak", "brand": None}
    assert named("Dark blue, 30cm; no oaken thing", said) == ["colour", "size"]
    assert words("L-shaped, Größe 4") == ["l", "shaped", "größe", "4"]


def test_whatever_a_decoder_likes_its_text_keeps_to_the_rule() -> None:
    """Tokens that make every value of the shop, and logits that are drawn; the same ones by the same key."""
    tokens = [None, *(t.encode() for t in (" red", " re", "d", " dark", " blue", " 3", "0", " 4", "5", " oak", " so"))]
    tokens += [b" tall", b".", b"lid", "é".encode()[:1], "é".encode()[1:]]

    def text(key: str, rule: Rule | None) -> str:
        author, rng = Author(tokens, 0, rule, 1.0, drawing(7, key)), np.random.default_rng(len(key))
        for _ in range(60):
            if author.next(rng.normal(0, 2, len(tokens)).astype(np.float32)) is None:
                break
        return author.told()[0]

    keys = ["x" * n for n in range(1, 120)]
    made = [text(key, RULE) for key in keys]
    assert made == [text(key, RULE) for key in keys]
    assert not [one for one in made if RULE.breaches(one)]
    assert all(made)
    free = [text(key, None) for key in keys]
    assert len([one for one in free if RULE.breaches(one)]) > 60


def test_a_text_that_is_cut_off_ends_with_a_sentence() -> None:
    author = Author([None, b"It is blue. It"], 0, None, 0.0, drawing(0, "a"))
    author.next(np.asarray([0.0, 5.0], np.float32))
    assert author.told()[::2] == ("It is blue.", False)
