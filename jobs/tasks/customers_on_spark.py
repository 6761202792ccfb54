"""Customers on Spark: events to customers as of moments; what they are expected to do, judged by what they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step
from jobs.ground import Answer, Ground, Slice
from jobs.task import OURS
from jobs.tasks import customers_classic as classic
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.customers import CustomersOptions, options_of
from jobs.tasks.customers_scored import ANSWERS, BETWEEN, SPEND_BETWEEN, expected, score
from spark_udfs import amounts, features, order_days
from spark_udfs.baselines import banded
from spark_udfs.order_day_names import FEATURES
from spark_udfs.order_days import Ahead
from training.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from spark_udfs.features import Cuts

__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]
JUDGED = {"spend": "amount", "order_days": "count"}  # the amounts, as metrics call them
TABLES = {"recency": ("recency_days",), "rfm_table": ("recency_days", "order_days", "value")}
BANDS = {"recency": 20, "rfm_table": 5}  # of about equally many examples, of each column
CLASSIC = "bg_nbd"
EXAMPLES = 10


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Purchases and returns of known customers: user_id, item_id, time, arrival_time, is_return, value (0 where no
    price or quantity is known), pieces (of what it is the value; 0 where that is not known)."""
    sold = read["events"].where("kind IN ('purchase', 'return') AND user_id IS NOT NULL AND time IS NOT NULL")
    value = F.coalesce(F.col("quantity") * F.col("price"), F.lit(0.0))
    is_return = F.col("kind") == "return"
    kept = ("user_id", "item_id", "time", "arrival_time")
    pieces = F.when(F.col("price").isNotNull(), F.col("quantity")).otherwise(0)
    return sold.select(
        *kept,
        is_return.alias("is_return"),
        value.alias("value"),
        F.coalesce(pieces, F.lit(0)).cast("double").alias("pieces"),
    )


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """Customers as of the moments before each cut whose horizon is over by then, and as of the test cut.

    Raises:
        SettingsError: no horizon that begins at the validation cut is over at the test cut.
    """
    options = options_of(ground.settings)
    _refuse_short_validation(ground.settings)
    end = max(cuts.test, _end(ground.read["lines"]))
    ahead = Ahead((*_moments(ground.settings, cuts.test), cuts.test), options.horizon_days, end)
    rows = ground.keep("customers", lambda: order_days.asked(ground.read["lines"], ahead))
    learnt, after = rows.where(F.col("time") < F.lit(cuts.test)), rows.where(F.col("time") == F.lit(cuts.test))
    held_out = [
        learnt.where(F.col("time") >= F.lit(cuts.validation)).withColumn("split", F.lit(features.VALIDATION)),
        after.withColumn("split", F.lit(features.TEST)),
    ]
    known_at = F.timestamp_micros(F.unix_micros("time") + ahead.horizon - 1)  # it is over where a cut begins
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": learnt.withColumn("known_at", known_at),
    }


def _moments(settings: Settings, cut: datetime) -> list[datetime]:
    """Those that are learnt from, ascending: the last one's horizon ends at the cut."""
    options = options_of(settings)
    last = features.utc(cut) - timedelta(days=options.horizon_days)
    return [last - place * timedelta(days=options.every_days) for place in reversed(range(options.moments))]


def _refuse_short_validation(settings: Settings) -> None:
    days, horizon = settings.examples.validation_days, options_of(settings).horizon_days
    if days < horizon:
        raise SettingsError(
            f"examples.validation_days must be options.horizon_days, {horizon:g}, or more, so that what customers did "
            f"after the validation cut is known at the test cut; got {days}; set it to {horizon:g}"
        )


def _end(lines: DataFrame) -> datetime:
    """The end of the day of the last line: until then all is known."""
    last = lines.agg(F.max(F.unix_micros("time"))).collect()[0][0]
    day = datetime.fromtimestamp(last / 1e6, tz=UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1)


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The customers of before the cut, if the horizon after it is over."""
    days = options_of(ground.settings).horizon_days
    told = ground.read["queries"].where("split = 'test' AND buys IS NOT NULL").drop("split")
    asked = told.withColumnRenamed("user_id", "key").withColumn("label", F.col("buys"))
    return {"next": Slice(f"customers of before the cut, in the {days:g} days after it", asked)}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:  # noqa: ARG001
    """The bundles; the means of examples as recent, and of those of the same recency, frequency and value; BG/NBD with
    Gamma-Gamma, of all that was known at the cut; boosted trees on the same numbers, which say whether alone."""
    options, learnt = options_of(ground.settings), ground.read["examples"]
    sample = options.drawn_rows
    example = F.concat_ws(" ", "user_id", F.unix_micros("time").cast("string"))
    labelled = learnt.withColumn("example", example).withColumnRenamed("buys", "label")
    return {
        **{name: partial(_by_bundle, path=str(path)) for name, path in bundles.items()},
        **{name: _means_alone(_by_table(learnt, name)) for name in TABLES},
        CLASSIC: _means_alone(_by_habits(ground.read["queries"].where("split = 'test'"), options)),
        **{
            name: _whether_alone(answer)
            for name, answer in probabilities.boosted_trees(labelled, "example", FEATURES, sample).items()
        },
    }


def _by_bundle(asked: DataFrame, _: str, *, path: str) -> DataFrame:
    return expected(asked, path, "key")


def _by_table(learnt: DataFrame, name: str) -> Answer:
    table = banded.fit(learnt, TABLES[name], [*ANSWERS.values()], bands=BANDS[name])
    means = [F.col(label).alias(answer) for answer, label in ANSWERS.items()]
    return lambda asked, _: banded.answer(asked, table).select("key", *means)


def _by_habits(customers: DataFrame, options: CustomersOptions) -> Answer:
    """Of all customers as they were at the cut; what they did then is not looked at."""
    with step(f"evaluate: fit {CLASSIC}"):
        models = classic.fit(customers.orderBy(F.xxhash64("user_id"), "user_id").limit(options.drawn_rows))
    return lambda asked, _: classic.answer(asked, models, options.horizon_days)


def _whether_alone(answer: Answer) -> Answer:
    return _with_none(answer, (*JUDGED.values(), *BETWEEN))


def _means_alone(answer: Answer) -> Answer:
    return _with_none(answer, BETWEEN)


def _with_none(answer: Answer, names: Sequence[str]) -> Answer:
    none = {name: F.lit(None).cast("double") for name in names}
    return lambda asked, name: answer(asked, name).withColumns(none)


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How well probabilities rank and how true they are; of those who say amounts, how well these are."""
    budget, resamples = options_of(ground.settings).reach_share, ground.settings.evaluation.bootstrap
    judged = probabilities.judged(asked, answers, names, budget=budget, resamples=resamples)
    for what, of in JUDGED.items():
        told = {row[0] for row in answers.where(F.col(of).isNotNull()).select("model").distinct().collect()}
        given = answers.select("model", "key", F.col(of).alias("amount"))
        came = asked.select("key", F.col(ANSWERS[of]).alias("amount"))
        who = [name for name in names if name in told]
        found = amounts.judge(given.where(F.col("model").isin(who)), came, who, resamples=resamples)
        for name in who:
            judged["models"][name] |= _named(what, found[name].intervals())
        for name in who[1:]:
            judged["differences"][name] |= _named(what, found[OURS].minus(found[name]))
    for name, shares in _within(asked, answers).items():
        judged["models"][name] |= shares
    return judged


def _within(asked: DataFrame, answers: DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Of each model that says between which amounts it expects the spend: for which share of customers that was so,
    and for which it should be, by what it says itself. Where nine in ten may spend nothing, all who do lie between."""
    low, high = (F.col(name) for name in BETWEEN)
    told = answers.where(low.isNotNull()).join(asked.select("key", "next_spend"), on="key", how="inner")
    said = F.when(high == 0, 1 - F.col("p")).when(low == 0, (1 + SPEND_BETWEEN) / 2).otherwise(SPEND_BETWEEN)
    shares = {"spend_within": F.col("next_spend").between(low, high).cast("double"), "spend_within_said": said}
    found = told.groupBy("model").agg(*(F.avg(share).alias(name) for name, share in shares.items()))
    return {row["model"]: {name: {"value": row[name]} for name in shares} for row in found.collect()}


def _named(what: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{what}_{name}": value for name, value in metrics.items()}


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:  # noqa: ARG001
    """Curves; ten customers, drawn by hash; who was left out, and why."""
    asked, answers = held["next"]
    return {
        "curves": probabilities.curves(asked, answers, {"found": "customers who order", "rows": "customers"}),
        "drawn": {
            "title": "Ten customers",
            "columns": ["customer", "order days", "last", "bought for", "p", "expected", "ordered", "for"],
            "rows": _drawn(asked, answers.where(F.col("model") == OURS)),
        },
        "left_out": probabilities.left_out(),
    }


def _drawn(asked: DataFrame, ours: DataFrame) -> list[list[str]]:
    held = asked.orderBy(F.xxhash64("key"), "key").limit(EXAMPLES).join(ours, on="key", how="inner")
    return [
        [
            row["key"],
            f"{row['order_days']:.0f}",
            f"{row['recency_days']:.0f} days ago",
            f"{row['value']:,.0f}",
            f"{row['p']:.2f}",
            f"{row['amount']:,.0f}",
            "yes" if row["label"] else "no",
            f"{row['next_spend']:,.0f}",
        ]
        for row in held.orderBy(F.desc("p"), "key").collect()
    ]
