"""Placeholders by all their marks are filled, or the answer is out."""

from __future__ import annotations

import csv
import gzip
import re

import pytest

from jobs.settings import load_settings
from spark_udfs.fillings import Fillings
from spark_udfs.placeholders import filled, marks, placeholders, without
from tests.conftest import DATA


@pytest.mark.parametrize(
    "marked",
    [
        "{{ Order  Number }}",
        "{{order number anonymized}}",
        "{Order Number}",
        "${order number}",
        "[Order Number]",
        "<<Order Number>>",
        "<Order Number>",
        "\uff5b\uff5bOrder Number\uff5d\uff5d",
        "\uff3border number\uff3d",
    ],
)
def test_a_placeholder_is_filled_by_its_name(marked: str) -> None:
    text = f"Order {marked} is on its way."
    assert placeholders(text) == ["order number"]
    assert filled(text, {"order number": "123456"}) == "Order 123456 is on its way."
    assert without(text).split() == ["Order", "is", "on", "its", "way."]
    assert marks(text) == [marked]


@pytest.mark.parametrize(
    "text",
    [
        "see [this page](https://shop.example) or [1]",
        "<b>soon</b><br/> <a href='x'>here</a> <https://shop.example> <jo@shop.example>",
        "3 < 4, 5 > 4, My Account >> Orders, I <3 you",
    ],
)
def test_links_tags_and_signs_are_no_placeholders(text: str) -> None:
    assert marks(text) == placeholders(text) == []
    assert filled(text, {}) == text


def test_what_would_leave_marks_or_nothing_is_no_answer() -> None:
    assert filled("{{a}}", {"a": "{{b}}"}) is None
    assert filled("{{a}}", {"a": "[Bank]"}) is None
    assert filled("{{{a}}}", {"a": "x"}) is None
    assert filled("half of {{a mark", {}) is None
    assert filled(" \n", {}) is None


def test_no_answer_of_the_public_file_shows_a_mark() -> None:
    path = DATA / "bitext" / "customer_support.csv.gz"
    if not path.is_file():
        pytest.skip("the file of customers' questions is not at ../shared/data/bitext/customer_support.csv.gz")
    fills = load_settings("jobs/pipelines/service.yaml").options.model_dump()["fills"]
    held = Fillings(fills, {"order_number": "123456"}, None, has_orders=False)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        made = [held.put_in(row["response"]).text for row in csv.DictReader(file)]
    shown = [text for text in made if text is not None]
    assert 3_000 < len(shown) < len(made)
    assert not [text for text in shown if re.search(r"\[[A-Za-z][^\]]+\]|[{}]|<\w", text)]
