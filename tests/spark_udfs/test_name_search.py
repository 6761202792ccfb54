"""Names found by their pieces, against sets of pieces made by hand."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from spark_udfs import name_search
from spark_udfs.name_search import index_of, plain, refuse_empty
from training.errors import DataError

NAMES = ["Red Lantern", "LANTERN, RED!", "Café crème", None, "...", "red", "大红灯笼", "Reed lamp"]


def pieces(text: str) -> set[str]:
    words = [f" {word} " for word in text.split()]
    return {word[at : at + many] for word in words for many in (2, 3) for at in range(len(word) - many + 1)}


def cosines(query: str, names: list[str]) -> list[float]:
    held = [pieces(name) for name in names]
    asked = pieces(query)

    def length(of: set[str]) -> float:
        return math.sqrt(sum(weight(one) ** 2 for one in of))

    def weight(one: str) -> float:
        return math.sqrt(math.log1p(len(names) / max(sum(one in each for each in held), 1)))

    both = [sum(weight(one) ** 2 for one in asked & each) for each in held]
    return [sum_ / (length(asked) * length(each)) if sum_ else 0.0 for sum_, each in zip(both, held, strict=True)]


def test_likeness_is_the_cosine_of_weighed_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [text.strip() for text in plain(pa.array([name or "" for name in NAMES]))]
    assert shown[:3] == ["red lantern", "lantern red", "cafe creme"]
    for size in (100_000, 3):
        monkeypatch.setattr(name_search, "SLICE", size)
        index = index_of(pa.array(NAMES))
        for query in ("red lantern", "lantren", "CAFÉ", "灯笼", "zz"):
            (asked,) = plain(pa.array([query]))
            np.testing.assert_allclose(index.likeness(query)[0], cosines(asked, shown), rtol=1e-12)
    found, held = index.likeness("lantern red")
    assert held[:2] == pytest.approx([1.0, 1.0])
    assert found[:2] == pytest.approx([1.0, 1.0])
    assert found[3:5].tolist() == [0.0, 0.0]


def test_marks_that_make_other_letters_count_and_many_take_no_time() -> None:
    shown = ["unicode", "елка", "か", "か\u3099", "पानी", "पन"]
    assert [one.strip() for one in plain(pa.array(["Ünïcode", "Ёлка", "か", "が", "पानी", "पन"]))] == shown
    assert plain(pa.array(["a" + "\u0301\u0327" * 500_000])) == [" a "]
    with pytest.raises(DataError) as error:
        refuse_empty("!" * 1_000_000)
    assert len(str(error.value)) < 300


def test_no_names_and_names_without_a_letter_are_like_nothing() -> None:
    for names in ([], [None], ["?", ""]):
        assert index_of(pa.array(names, pa.string())).likeness("red")[0].tolist() == [0.0] * len(names)
