"""Reviews as words and pairs of neighbours, and as what vocabularies number them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.sentiment_options import SentimentOptions, options_of
from spark_udfs import features, words

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings

TITLE_END = " \u25c6 "  # counts as a word, so that a title's last word is no neighbour of the text's first


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Reviews with an id, a time and a word. One that does not say when it arrived was there at once; reviews without
    ids that are equal in all but their label are one."""
    reviews = probabilities.with_ids(read["reviews"].where("time IS NOT NULL"), "review_id")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in reviews.columns else F.col("time")
    worded = reviews.where(F.col("review_id").isNotNull() & has_words())
    return worded.withColumn("arrival_time", arrival)


def has_words() -> Column:
    """Whether a review says anything."""
    return F.col("text").rlike(words.WORD)


def said(reviews: DataFrame, options: SentimentOptions) -> DataFrame:
    """Reviews with their words and pairs (array<string>, of one length)."""
    text = F.concat_ws(TITLE_END, "title", "text") if "title" in options.has else F.col("text")
    return reviews.withColumn("words", words.words(text, options.words_kept)).withColumn(
        "pairs", words.pairs(F.col("words"))
    )


def known_words(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> dict[str, DataFrame]:
    """`id`: the words, and the pairs, that are known, of reviews of before a cut."""
    options = options_of(settings)
    told = said(lines(read).where(features.known_before(cut)), options)
    most = {"words": options.most_words, "pairs": options.most_pairs}
    return {name: words.frequent(told, name, options.fewest_reviews, most[name]) for name in most}


def numbered(ground: Ground, reviews: DataFrame) -> DataFrame:
    """review_id, product (null where reviews have none), time, arrival_time, label (float; null: not known), words and
    pairs (numbers), and `said`, the words themselves."""
    options, held = options_of(ground.settings), ground.read
    told = said(reviews, options)
    numbers = words.numbered(told, "review_id", held["vocabulary_words"], held["vocabulary_pairs"])
    product = F.col("product") if "product" in options.has else F.lit(None).cast("string")
    facts = told.select(
        "review_id",
        product.alias("product"),
        "time",
        "arrival_time",
        F.col("label").cast("float").alias("label"),
        F.col("words").alias("said"),
    )
    return facts.join(numbers, on="review_id", how="inner")
