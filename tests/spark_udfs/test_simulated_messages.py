"""Messages to the simulated shop: intents of the planted shares, and no reader who can know more than is planted."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import messages, tastes
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=6_000, items=60, days=90, orders_per_user=3.0, tastes=4, seed=9)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    made = messages.MESSAGES.make(np.arange(SHOP.users), SHOP)
    return {name: np.asarray(values) for name, values in made.items()}


def test_intents_have_their_shares(rows: dict[str, Any]) -> None:
    assert sum(messages.SHARES.values()) == pytest.approx(1)
    for intent, share in messages.SHARES.items():
        assert (rows["intent"] == intent).mean() == pytest.approx(share, abs=0.02)
    assert set(rows["style"]) == set(messages.STYLES)


def test_the_best_reader_is_as_good_as_planted(rows: dict[str, Any]) -> None:
    likeliest = np.asarray(messages.INTENTS)[messages.intent_probability().argmax(axis=1)][rows["wording"]]
    right = likeliest == rows["intent"]
    assert right.mean() == pytest.approx(rows["best_probability"].mean(), abs=0.01)
    assert 0.9 < right.mean() < 0.98
    sure = rows["best_probability"] == 1
    assert right[sure].all()
    probability = messages.intent_probability()
    assert probability.sum(axis=1) == pytest.approx(np.ones(len(messages.WORDINGS)))
    shared = rows["wording"] == len(messages.WORDINGS) - 1
    counted = (rows["intent"][shared] == "delete_account").mean()
    assert counted == pytest.approx(probability[-1, messages.INTENTS.index("delete_account")], abs=0.15)


def test_plain_texts_tell_their_wording(rows: dict[str, Any]) -> None:
    plain = rows["style"] == "plain"
    masked = [re.sub(r"\d{9}-\d{4}", "{order}", text) for text in rows["text"][plain]]
    assert masked == [messages.WORDINGS[number] for number in rows["wording"][plain]]


def test_styles_change_letters(rows: dict[str, Any]) -> None:
    angry = rows["text"][rows["style"] == "angry"]
    assert all(text == text.upper() and text.endswith("!!!") for text in angry)
    slipped = rows["style"] == "typing error"
    for text, number in zip(rows["text"][slipped][:200], rows["wording"][slipped], strict=False):
        plain = messages.WORDINGS[number]
        if "{order}" not in plain:
            assert sorted(text) == sorted(plain)


def test_a_message_is_about_the_customers_order(rows: dict[str, Any]) -> None:
    orders = tastes.orders_of(np.arange(SHOP.users), SHOP)
    for user, text in enumerate(rows["text"][:500]):
        for customer, order in re.findall(r"(\d{9})-(\d{4})", text):
            assert rows["style"][user] == "typing error" or (int(customer) == user and int(order) < orders[user])
