"""Sentiment on Spark: reviews to words and pairs, probabilities judged on later labels, and what unhappy ones say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step
from jobs.ground import Answer, Ground, Slice
from jobs.task import OURS
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import planted_on_spark as planted
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.sentiment_options import options_of
from jobs.tasks.sentiment_scored import answered, score
from jobs.tasks.sentiment_texts import has_words, lines, numbered, said
from spark_udfs import features
from spark_udfs.baselines import tf_idf
from spark_udfs.simulated.reviews import REVIEWS
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from spark_udfs.features import Cuts

PRODUCT, TF_IDF, TF_IDF_PAIRS = "product_share", "tf_idf", "tf_idf_pairs"
__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]

EXAMPLES, SHOWN = 10, 160  # reviews that are shown, and letters of each


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The reviews after each cut, and as examples those of before one whose label is known.

    Raises:
        DataError: a review stands twice, or all examples have the same label.
    """
    read = ground.read
    probabilities.refuse_repeated(read["lines"], "review_id", "reviews", "review")
    reviews = ground.keep("reviews with numbers", lambda: numbered(ground, read["lines"]).drop("said"))
    taught = features.known_before(cuts.test) & F.col("label").isNotNull()
    learnt = reviews.where(taught)
    _count(ground, learnt)
    held_out = [
        learnt.where(F.col("time") >= F.lit(cuts.validation)).withColumn("split", F.lit(features.VALIDATION)),
        reviews.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": learnt.withColumn("known_at", features.known_at()),
    }


def _count(ground: Ground, learnt: DataFrame) -> None:
    """Count what is left out, and see that examples are of both labels."""
    wordless = ground.read["reviews"].where(~has_words()).count()
    unhappy, others = learnt.agg(F.count_if(F.col("label") == 1), F.count_if(F.col("label") == 0)).collect()[0]
    if not unhappy or not others:
        raise DataError(
            f"examples must have reviews of both labels; before the cut there are {unhappy:,} of label 1 and "
            f"{others:,} of label 0; say by sources.reviews.words which of the source's words is which, or move "
            "examples.test_from"
        )
    ground.counts.update({"reviews_without_words": wordless, "unhappy_examples": unhappy})


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The reviews after the cut whose label is known."""
    asked = ground.read["queries"].where("split = 'test' AND label IS NOT NULL").drop("split")
    return {"after": Slice("reviews after the cut", asked.withColumnRenamed("review_id", "key"))}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles; TF-IDF and logistic regression of words, and of words and pairs; the product's past share of unhappy
    reviews; of a simulated shop the probabilities behind its labels. Each with the threshold that is best on the
    validation days."""
    learnt = decided.learnt(ground, cut, bundles[OURS], "review")
    answers: dict[str, Answer] = {**probabilities.bundled(bundles)}
    for name, terms in ((TF_IDF, _terms("words")), (TF_IDF_PAIRS, _terms("words", "pairs"))):
        with step(f"evaluate: fit {name}"):
            model = tf_idf.fit(learnt.select(terms.alias("terms"), "label"))
        answers[name] = partial(_by_terms, terms=terms, model=model)
    if "product" in options_of(ground.settings).has:
        answers[PRODUCT] = partial(_by_product, shares=_shares(ground, learnt))
    answers |= planted.truth(ground, REVIEWS, "reviews", {"review_id": "review_id"}, "negative_probability")
    return decided.deciding(ground, answers, key=F.col("review_id"), row="review")


def _terms(*names: str) -> Column:
    """What a text is made of, by numbers: those of words and of pairs apart, without what is not known."""
    return F.concat(*(F.expr(f"transform(filter({name}, id -> id > 0), id -> concat('{name}', id))") for name in names))


def _by_terms(asked: DataFrame, _: str, *, terms: Column, model: Any) -> DataFrame:
    return tf_idf.answer(asked.select("key", terms.alias("terms")), model)


def _shares(ground: Ground, learnt: DataFrame) -> tuple[DataFrame, float]:
    """product and its share of unhappy reviews; and the share of all."""
    prior = options_of(ground.settings).prior
    of_all = learnt.agg(F.avg("label")).collect()[0][0]
    share = (F.sum("label") + F.lit(prior * of_all)) / (F.count("label") + F.lit(prior))
    return learnt.groupBy("product").agg(share.alias("share")), float(of_all)


def _by_product(asked: DataFrame, _: str, *, shares: tuple[DataFrame, float]) -> DataFrame:
    of_product, of_all = shares
    found = asked.select("key", "product").join(of_product, on="product", how="left")
    return found.select("key", F.coalesce("share", F.lit(of_all)).cast("double").alias("p"))


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How well probabilities rank, how true they are, and how right the decisions are."""
    budget, resamples = options_of(ground.settings).reach_share, ground.settings.evaluation.bootstrap
    return decided.judged(asked, answers, names, budget=budget, resamples=resamples)


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """Curves; ten reviews, drawn by hash, with the words that say most."""
    asked, answers = held["after"]
    return {
        "curves": probabilities.curves(asked, answers, {"found": "unhappy reviews", "rows": "reviews"}),
        "drawn": {
            "title": "Ten reviews",
            "columns": ["review", "p", "unhappy", "words that say most"],
            "rows": _drawn(ground, asked),
        },
    }


def _drawn(ground: Ground, asked: DataFrame) -> list[list[str]]:
    drawn = asked.orderBy(F.xxhash64("key"), "key").limit(EXAMPLES).withColumnRenamed("key", "review_id")
    texts = said(ground.read["lines"], options_of(ground.settings)).select(
        "review_id", "text", F.col("words").alias("said")
    )
    found = answered(ground, drawn.join(texts, on="review_id", how="inner"))
    texted = found.join(texts.select("review_id", "text"), on="review_id", how="inner")
    labelled = texted.join(drawn.select("review_id", "label"), on="review_id", how="inner")
    return [
        [
            row["text"] if len(row["text"]) <= SHOWN else row["text"][:SHOWN] + " ...",
            f"{row['p']:.2f}",
            "yes" if row["label"] else "no",
            ", ".join(f"{said['word']} {said['share']:+.2f}" for said in row["words"] or ()),
        ]
        for row in labelled.orderBy(F.desc("p"), "review_id").collect()
    ]
