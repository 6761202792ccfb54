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


def test_numbers_are_whole_whatever_their_points_and_script() -> None:
    rule = Rule(
        SHOP, Record.of({"name": "Lamp of 1.5 kg", "price": "1,299", "size": "\uff14\u00a0m", "year": "\u0662"})
    )
    assert rule.breaches("1.5 kg, 1,299, 4 m, \u0664 m, 2") == []
    assert rule.breaches("1 kg, 15 kg, 5 kg, 1.50 kg, 299, 1299, 1.5.2") == [
        "1",
        "15",
        "5",
        "1.50",
        "299",
        "1299",
        "1.5.2",
    ]
    written = ["It is 1", "It is 1.", "It is 1.5", "It is 1.5.", "It is 1. ", "It is 1.2", "It is 1,2", "It is 4."]
    assert [rule.allows(text) for text in written] == [True, True, True, True, False, False, True, True]


def test_values_of_scripts_without_spaces_are_seen_in_a_run() -> None:
    shop = Values(["\u7ea2\u8272", "\u84dd\u8272", "\u0e41\u0e14\u0e07", "caf\u00e9"])
    rule = Rule(shop, Record.of({"name": "\u706f\u7b3c", "colour": "\u7ea2\u8272"}))
    assert rule.breaches("\u8fd9\u662f\u7ea2\u8272\u706f\u7b3c\u3002") == []
    assert rule.breaches("\u8fd9\u662f\u84dd\u8272\u706f\u7b3c") == ["\u84dd \u8272"]
    assert rule.breaches("x\u0e41\u0e14\u0e07x") == ["\u0e41 \u0e14 \u0e07"]
    assert rule.breaches("a cafe\u0301") == ["caf\u00e9"]
    assert not rule.allows("\u8fd9\u662f\u84dd\u8272")


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
    def cut(text: str) -> str:
        author = Author([None, text.encode()], 0, None, 0.0, drawing(0, "a"))
        author.next(np.asarray([0.0, 5.0], np.float32))
        told, _, whole = author.told()
        assert not whole
        return told

    asked = ["It is blue. It", "It is blue. It has 1.", "It has 1.5 kg of", "It is blue.", "\u706f\u3002\u7ea2"]
    assert [cut(text) for text in asked] == [
        "It is blue.",
        "It is blue.",
        "It has 1.5 kg",
        "It is blue.",
        "\u706f\u3002",
    ]
