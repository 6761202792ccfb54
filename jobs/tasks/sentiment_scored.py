"""Reviews scored: probabilities with the words that say so, alarms, and what its product's reviews say of late.

Whether a review is one of an unhappy customer is decided by a threshold of the probability, chosen on the validation
days.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.ground import Answer, Ground, Scored
from jobs.task import OURS
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.sentiment_options import SentimentOptions, options_of
from jobs.tasks.sentiment_texts import numbered
from spark_udfs import features
from spark_udfs.moments import DAY_US
from spark_udfs.word_shares import explained

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SURE = 1.96  # standard errors: 95 %


def score(ground: Ground, moment: datetime) -> Scored:
    """Every review that was there by the moment and that the build in force did not learn from: those whose label was
    not known, and those after its cut."""
    not_learnt = F.col("label").isNull() | features.known_since(ground.cut or moment)
    asked = ground.keep(
        "asked", lambda: numbered(ground, ground.read["lines"].where(features.known_before(moment) & not_learnt))
    )
    bundle: dict[str, Answer] = probabilities.bundled({OURS: ground.bundle}) if ground.bundle else {}
    threshold = decided.thresholds(ground, bundle, key=F.col("review_id"), row="review")[OURS]
    finish = partial(_finished, threshold=threshold, product_days=options_of(ground.settings).product_days)
    return Scored(asked, partial(answered, ground), _counts, finish=finish)


def answered(ground: Ground, reviews: DataFrame) -> DataFrame:
    """review_id, time, product, p, and what says so: `words`, the word and its share of the log-odds, those that say
    most first; `aspects`, by name."""
    options = options_of(ground.settings)
    aspects = _aspects(ground, options)
    found = explained(reviews, str(ground.bundle), key="review_id", most=options.reasons, aspects=[*aspects.values()])
    named = F.transform(
        F.arrays_zip("places", "shares"),
        lambda of: F.struct(F.element_at("said", of["places"] + 1).alias("word"), of["shares"].alias("share")),
    )
    names = F.array(*(F.lit(name) for name in aspects)).cast("array<string>")
    split = F.map_from_arrays(names, "aspects").alias("aspects")
    kept = [name for name in ("time", "product") if name in reviews.columns]
    told = reviews.select("review_id", "said", *kept).join(found, on="review_id", how="inner")
    return told.select("review_id", *kept, "p", named.alias("words"), split)


def _aspects(ground: Ground, options: SentimentOptions) -> dict[str, list[int]]:
    """The numbers of the words of each aspect; a word of two aspects is the later one's."""
    stated = {word.lower(): name for name, own in options.aspects.items() for word in own}
    if not stated:
        return {}
    held = ground.read["vocabulary_words"].where(F.col("id").isin(*stated)).collect()
    return {name: [int(row["index"]) for row in held if stated[row["id"]] == name] for name in options.aspects}


def _finished(made: DataFrame, *, threshold: float, product_days: float) -> DataFrame:
    """With `alarm`, and what was known of the product at the review's time: `product_reviews`, how many there were of
    late, `product_unhappy`, the mean p of these, and `product_alarm`, whether that is surely above the mean of all.

    Of a product's reviews two sums up to a time are taken, those up to now less those before the days: work is theirs
    in order, however many lie within the days. Those without a product are in no such order.
    """
    decided = made.withColumn("alarm", F.col("p") >= F.lit(threshold))
    total, reviews = made.agg(F.sum(_exact("p")), F.count("p")).collect()[0]
    of_all = float(total) / reviews if reviews else 0.0
    in_order = Window.partitionBy("product").orderBy(F.unix_micros("time"))
    now = in_order.rangeBetween(Window.unboundedPreceding, Window.currentRow)
    before = in_order.rangeBetween(Window.unboundedPreceding, -round(product_days * DAY_US) - 1)
    count = F.count("p").over(now) - F.count("p").over(before)
    unhappy = F.sum(_exact("p")).over(now) - F.coalesce(F.sum(_exact("p")).over(before), F.lit(0))
    of_product = decided.where("product IS NOT NULL").withColumns(
        {"product_reviews": count, "product_unhappy": unhappy.cast("double") / count}
    )
    of_none = decided.where("product IS NULL").withColumns(
        {"product_reviews": F.lit(None).cast("bigint"), "product_unhappy": F.lit(None).cast("double")}
    )
    told = of_product.unionByName(of_none)
    return told.withColumn("product_alarm", _least("product_unhappy", "product_reviews") > F.lit(of_all))


def _exact(name: str) -> Column:
    """A number whose sums do not depend on their order."""
    return F.col(name).cast("decimal(20,12)")


def _least(share: str, count: str) -> Column:
    """The lower end of Wilson's interval of a share (1927)."""
    p, n = F.col(share), F.col(count)
    away = SURE * F.sqrt(p * (1 - p) / n + F.lit(SURE**2 / 4) / (n * n))
    return (p + F.lit(SURE**2 / 2) / n - away) / (1 + F.lit(SURE**2) / n)


def _counts(written: DataFrame) -> dict[str, int]:
    """reviews, those with an alarm, and the products that have one at their last review."""
    last = F.max_by("product_alarm", F.struct("time", "review_id"))
    products = written.where("product IS NOT NULL").groupBy("product").agg(last.alias("alarm"))
    made = written.agg(F.count(F.lit(1)).alias("reviews"), F.count_if("alarm").alias("alarms")).collect()[0].asDict()
    return dict(made) | {"products_with_alarm": products.where("alarm").count()}
