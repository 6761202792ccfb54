"""Sentiment: how likely the customer who wrote a review is unhappy with the product, and which words say so.

An example is a review of before the cut whose label is known; its words and pairs of neighbouring words are numbers of
vocabularies that those reviews make. Validation measures how well a model ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.column_names import called
from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.tasks import decided
from jobs.tasks.sentiment_options import HAS, SentimentOptions, options_of
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame

    from jobs.settings import Settings

VOCABULARIES = ("words", "pairs")


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Reviews; a label that is null is not known."""
    options = options_of(settings)
    own = {name: kind for name, kind in HAS.items() if name in options.has}
    return {"reviews": own | {"time": "timestamp", "text": "string", "label": "boolean?"}}


def guesses(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Which further columns a file has."""
    return {"has": [name for name in HAS if called(name, list(columns))]}


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> Mapping[str, DataFrame]:
    """Words and pairs that reviews of before a cut have."""
    from jobs.tasks import sentiment_texts

    return sentiment_texts.known_words(read, settings, cut)


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:  # noqa: ARG001
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included."""
    return Schema(
        (
            *(Column(name, Kind.IDS, vocabulary=name, size=sizes[name]) for name in VOCABULARIES),
            Column("label", Kind.LABEL),
            Column("time", Kind.TIME),
        )
    )


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How well reviews are put in order and told apart, and how true the probabilities are."""
    return decided.headline("reviews", {"weighted F1": "weighted_f1"})


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns of `reviews` that the settings name; what is made of reviews has no id but the review's."""
    held = said_persons(settings, "reviews")
    if not held:
        return {}
    of_lines = {name: {"review_id": BY_LINE} for name in ("examples", "queries", "review_scores")}
    return {"reviews": dict.fromkeys(held, BY_ID), **of_lines}


TASK = Task(
    name="sentiment",
    what="how likely a review is one of an unhappy customer, and which words say so",
    row="review",
    options=SentimentOptions,
    reads=reads,
    asks=("queries", *(f"vocabulary_{name}" for name in VOCABULARIES)),
    kinds=lambda _: {},
    more_ids=more_ids,
    numbers=lambda _: VOCABULARIES,
    key=("review_id",),
    spread=1,
    schema=schema,
    model="word_weights",
    learn="jobs.tasks.decided:learn",
    metrics=decided.METRICS,
    on_spark="jobs.tasks.sentiment_on_spark",
    headline=headline,
    answered=("key", "p", "alarm"),
    table="review_scores",
    answer=(
        "review_id",
        "time",
        "product",
        "p",
        "alarm",
        "words",
        "aspects",
        "product_reviews",
        "product_unhappy",
        "product_alarm",
    ),
    columns=AnswerColumns("review_id", ((),), ("p",), "p"),
    persons=persons,
    demo=Demo("sentiment_shop", "sentiment", "sources.reviews.path"),
    simulated={"reviews": "reviews"},
    timeless=("text",),
    guesses=guesses,
)
