"""Reviews in the simulated shop: texts that say what is known of them, labels and returns that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_udfs.simulated import bayes, reviews
from spark_udfs.simulated.draws import sigmoid
from spark_udfs.simulated.shop import Shop

SHOP = Shop(users=1_500, items=120, days=120, orders_per_user=6.0, tastes=6, seed=6)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return dict(reviews.REVIEWS.make(np.arange(SHOP.users), SHOP))


def test_labels_follow_their_probability(rows: dict[str, Any]) -> None:
    p, negative = rows["negative_probability"], ~rows["recommended"]
    assert 0.15 < negative.mean() < 0.35
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1)):
        inside = (low <= p) & (p < high)
        assert negative[inside].sum() == pytest.approx(p[inside].sum(), abs=4 * np.sqrt((p * (1 - p))[inside].sum()))
    assert bayes.auc(p) > bayes.auc(sigmoid(rows["text_log_odds"] - 1.2)) > 0.85


def test_texts_say_what_is_known_of_them(rows: dict[str, Any]) -> None:
    """Read sentence by sentence, negations understood."""
    for text, told in zip(rows["text"].to_pylist()[:300], rows["text_log_odds"], strict=False):
        sentences = text.split(". ")
        negative = sum(("not " in one) != any(word in one for word in reviews.BAD) for one in sentences)
        known = reviews.text_log_odds(np.asarray(negative), np.asarray(len(sentences) - negative))
        assert told == pytest.approx(float(known))
    assert len(set(rows["text"].to_pylist())) > 500


def test_words_alone_mislead(rows: dict[str, Any]) -> None:
    negated = np.asarray(["not " in text for text in rows["text"].to_pylist()])
    assert 0.3 < negated.mean() < 0.7


def test_returns_follow_their_probability_within_their_time(rows: dict[str, Any]) -> None:
    p, returned = rows["return_probability"], ~np.isnan(rows["return_time"])
    assert returned.sum() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum()))
    assert returned[~rows["recommended"]].mean() > 4 * returned[rows["recommended"]].mean()


def test_stars_tell_almost_all(rows: dict[str, Any]) -> None:
    stars = rows["rating"]
    assert set(np.unique(stars)) == {1, 2, 3, 4, 5}
    assert rows["recommended"][stars > 3].all()
    assert not rows["recommended"][stars < 3].any()
