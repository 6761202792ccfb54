"""Reviews in the simulated shop: what customers write of what they bought, whether they recommend it, what they return.

Items have a quality and customers a temper; both decide whether a review is negative. A review has one to four
sentences, each negative with WORD_NEGATIVE of its kind: so a text says how likely its review is to be negative, by a
sum of known log odds, and no reader of texts can do better. A quarter of the sentences speak by a negation.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow.compute as pc

from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import normal, sigmoid
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, uniform

DAY_S = 86_400
REVIEWED_SHARE = 0.25  # of order lines
BASE, QUALITY, TEMPER = -1.5, 1.2, 0.5  # log odds of a negative review, and what a standard deviation adds
WORD_NEGATIVE = {True: 0.8, False: 0.15}  # of the sentences of a negative and of another review
MOST_SENTENCES = 4
NEGATED_SHARE = 0.25
RETURN_BASE, RETURN_NEGATIVE, RETURN_QUALITY = -4.0, 3.0, 0.5
AFTER_DAYS, RETURN_WITHIN_DAYS = 10.0, 30.0

ASPECTS = ("colour", "size", "quality", "finish", "packaging", "delivery", "design", "weight")
GOOD = ("lovely", "perfect", "excellent", "as described", "great", "solid")
BAD = ("awful", "wrong", "poor", "disappointing", "terrible", "cheap")


def _sentences() -> tuple[str, ...]:
    """By (is negative, is negated, aspect, adjective), the last number counting fastest."""
    told = []
    for is_negative in (False, True):
        for is_negated in (False, True):
            adjectives = BAD if is_negative != is_negated else GOOD
            told += [
                f"The {aspect} is {'not ' if is_negated else ''}{adjective}."
                for aspect in ASPECTS
                for adjective in adjectives
            ]
    return tuple(told)


SENTENCES = (*_sentences(), "")


def text_log_odds(negative: Ints, positive: Ints) -> Floats:
    """What so many negative and positive sentences say for a negative review."""
    of_negative, of_other = WORD_NEGATIVE[True], WORD_NEGATIVE[False]
    for_it, against = math.log(of_negative / of_other), math.log((1 - of_negative) / (1 - of_other))
    return np.asarray(negative * for_it + positive * against)


def reviews_of(users: Ints, shop: ShopSize) -> Rows:
    """The reviews of some customers, of lines that they ordered."""
    lines = tastes.lines(users, shop)
    ids = tuple(np.asarray(lines[name], np.int64) for name in ("user", "order", "line"))
    written = uniform(shop, "reviewed", *ids) < REVIEWED_SHARE
    user, order, line = ids = tuple(number[written] for number in ids)
    item = np.asarray(lines["item"], np.int64)[written]
    ordered = np.asarray(lines["day"], np.float64)[written]
    quality = normal(shop, "quality", item)
    log_odds = BASE - QUALITY * quality - TEMPER * normal(shop, "temper", user)
    negative = uniform(shop, "negative", *ids) < sigmoid(log_odds)
    count = 1 + (uniform(shop, "sentences", *ids) * MOST_SENTENCES).astype(np.int64)
    share = np.where(negative, WORD_NEGATIVE[True], WORD_NEGATIVE[False])
    texts, negatives = [], np.zeros(len(user), np.int64)
    for place in range(MOST_SENTENCES):
        is_there = place < count
        is_negative = uniform(shop, f"sentence {place}", *ids) < share
        is_negated = uniform(shop, f"negated {place}", *ids) < NEGATED_SHARE
        said = (uniform(shop, f"said {place}", *ids) * len(ASPECTS) * len(GOOD)).astype(np.int64)
        number = (is_negative * 2 + is_negated) * len(ASPECTS) * len(GOOD) + said
        texts.append(words(SENTENCES, np.where(is_there, number, len(SENTENCES) - 1)))
        negatives += is_there & is_negative
    told = text_log_odds(negatives, count - negatives)
    stars = (uniform(shop, "stars", *ids) ** 0.7 * 3).astype(np.int64)
    return_odds = sigmoid(RETURN_BASE + RETURN_NEGATIVE * negative - RETURN_QUALITY * quality)
    returned = uniform(shop, "returned", *ids) < return_odds
    written_at = ordered + 2 - np.log(uniform(shop, "written", *ids)) * AFTER_DAYS
    back = ordered + 3 + uniform(shop, "sent back", *ids) * (RETURN_WITHIN_DAYS - 3)
    return {
        "user": user,
        "order": order,
        "line": line,
        "item_id": tastes.shown_number(item, shop),
        "review_time": tastes.start_s(shop) + (written_at * DAY_S).astype(np.int64),
        "text": pc.utf8_trim_whitespace(pc.binary_join_element_wise(*texts, " ")),
        "rating": np.where(negative, 1 + stars, 3 + stars),
        "recommended": ~negative,
        "return_time": np.where(returned, tastes.start_s(shop) + (back * DAY_S).astype(np.int64), np.nan),
        "text_log_odds": told,
        "negative_probability": sigmoid(log_odds + told),
        "return_probability": return_odds,
    }


REVIEWS = Planted(
    name="reviews",
    meaning="a customer's review of an order line",
    fields=(
        Field("review_id", "string", "of the line", "R%09d-%04d-%02d", ("user", "order", "line")),
        Field("order_id", "string", "the order, as in `order_lines`", "%09d-%04d", ("user", "order")),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        Field("item_id", "string", "the item", "P%08d"),
        Field("review_time", "timestamp", "when it was written"),
        Field("text", "string", "one to four sentences"),
        Field("rating", "int", "1 to 5 stars; 3 may be either"),
        Field("recommended", "boolean", "the label: the review is not negative"),
        Field("return_time", "timestamp", "when the line was sent back; null: it was kept"),
    ),
    truth=(
        Field("text_log_odds", "double", "what the text alone says for a negative review"),
        Field("negative_probability", "double", "of a negative review, given item, customer and text"),
        Field("return_probability", "double", "of a return, given item and sentiment"),
    ),
    units=lambda shop: shop.users,
    rows_per_unit=lambda shop: shop.orders_per_user * tastes.LINES_PER_ORDER * REVIEWED_SHARE,
    make=reviews_of,
)
