"""What comes of an impression beside its click, where `options.heads` asks for it: labels, answers, what to beat.

A head is a further label, such as put into the cart or bought: whether it happened in so many minutes after the item
was shown, whatever was clicked. All labels of an impression are known when the longest of their windows is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs import simulate
from jobs.ground import Answer, Slice
from jobs.task import TRUTH
from jobs.tasks import probabilities_on_spark as probabilities
from spark_udfs.scoring import bundle_schema, predict, predicted
from spark_udfs.simulated.impressions import IMPRESSIONS
from training.errors import BundleError
from training.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from jobs.settings import Settings

Heads = Mapping[str, float]

MINUTE_US = 60_000_000
TRUTHS = {"cart_time": "cart_probability", "buy_time": "buy_probability"}  # of the simulated shop's columns


def after(minutes: float) -> Column:
    """So long after `time`."""
    return F.timestamp_micros(F.unix_micros("time") + round(minutes * MINUTE_US))


def known_time(heads: Heads) -> str:
    """The column that says from when on all labels of an impression are known."""
    return "labels_time" if heads else "label_time"


def labelled(shown: DataFrame, heads: Heads) -> DataFrame:
    """Impressions (time, label_time, HEAD_time) with each head's label, and `labels_time`, where there are heads."""
    if not heads:
        return shown
    labels = {
        name: F.coalesce(F.col(f"{name}_time").between(F.col("time"), after(minutes)), F.lit(False))
        for name, minutes in heads.items()
    }
    return shown.withColumns(labels).withColumn("labels_time", F.greatest("label_time", after(max(heads.values()))))


def unlabelled(heads: Heads) -> list[Column]:
    """What `labelled` adds, of rows of which nothing is known."""
    none = F.lit(None)
    held = [none.cast("boolean").alias(name) for name in heads]
    return [*held, none.cast("timestamp").alias("labels_time")] if heads else []


def predictions(rows: DataFrame, bundle: str, heads: Heads, *, key: str) -> DataFrame:
    """`key`, p of the click, and p_HEAD of each head (double), by a bundle.

    Raises:
        BundleError: it has learnt other labels.
    """
    held = [column.name for column in bundle_schema(bundle) if column.kind is Kind.LABEL]
    if sorted(held) != sorted(("label", *heads)):
        raise BundleError(
            f"a bundle must have learnt label and what options.heads names, {', '.join(heads) or 'nothing'}; "
            f"'{bundle}' has learnt {', '.join(held)}: run `millrace build-examples` and `millrace train`"
        )
    if not heads:
        return predict(rows, bundle, key=key)
    found = predicted(rows, bundle, key=key, names=["p_label", *(f"p_{name}" for name in heads)])
    click = F.col("p_label")[0].cast("double").alias("p")
    return found.select(key, click, *(F.col(f"p_{name}")[0].cast("double").alias(f"p_{name}") for name in heads))


def slices(asked: DataFrame, heads: Heads) -> dict[str, Slice]:
    """Of each head that happened to some rows and not to others, these rows with its label."""
    if not heads:
        return {}
    [ones] = asked.agg(F.count(F.lit(1)).alias("rows"), *(F.sum(name).alias(name) for name in heads)).collect()
    return {
        name: Slice(f"the same, of {name} within {minutes:g} minutes", asked.withColumn("label", F.col(name)))
        for name, minutes in heads.items()
        if 0 < (ones[name] or 0) < ones["rows"]
    }


def bundled(bundles: Mapping[str, Path], heads: Heads) -> dict[str, Answer]:
    """Bundles' own answers; of a head's slice that head's."""

    def answer(bundle: str) -> Answer:
        return lambda asked, name: predictions(asked, bundle, heads, key="key").select(
            "key", F.col(f"p_{name}" if name in heads else "p").alias("p")
        )

    return {name: answer(str(path)) for name, path in bundles.items()}


def past_rate(examples: DataFrame, heads: Heads) -> Answer:
    """The item's past click rate; of a head, times how often it happened for each click, over all examples."""
    shares: dict[str, float] = {}
    if heads:
        [sums] = examples.agg(F.sum("label").alias("label"), *(F.sum(name).alias(name) for name in heads)).collect()
        shares = {name: sums[name] / max(1.0, sums["label"]) for name in heads}
    return lambda asked, name: asked.select(
        "key", F.least(F.lit(1.0), F.col("item_rate").cast("double") * shares.get(name, 1.0)).alias("p")
    )


def boosted_trees(examples: DataFrame, names: Sequence[str], sample: int, heads: Heads) -> dict[str, Answer]:
    """Trees of each label by the same numbers; see `probabilities_on_spark.boosted_trees`."""

    def fit(label: str) -> dict[str, Answer]:
        learnt = examples.withColumn("label", F.col(label))
        return probabilities.boosted_trees(learnt, "impression_id", names, sample)

    of_clicks = fit("label")
    fitted = {"label": of_clicks, **{name: fit(name) for name in heads if of_clicks}}

    def answer(trees: str) -> Answer:
        return lambda asked, name: fitted[name if name in heads else "label"][trees](asked, name)

    return {trees: answer(trees) for trees in of_clicks}


def truth(settings: Settings, lines: DataFrame, heads: Heads) -> dict[str, Answer]:
    """Who answers with the planted probabilities, of a head at whatever time; nobody where impressions are not a
    simulated shop's, or it does not know a head."""
    made = simulate.truth_of_source(settings, lines.sparkSession, "impressions", {"label": "clicked"}, IMPRESSIONS)
    if made is None:
        return {}
    columns = settings.sources["impressions"].columns
    known = {name: TRUTHS.get(str(columns.get(f"{name}_time", f"{name}_time"))) for name in heads}
    if not all(known.values()):
        return {}

    def answer(asked: DataFrame, of: str) -> DataFrame:
        planted = made.select("list_id", "item_id", F.col(known.get(of) or "click_probability").alias("p"))
        return (
            asked.select("key", "list_id", "item_id")
            .join(planted, on=["list_id", "item_id"], how="inner")
            .select("key", "p")
        )

    return {TRUTH: answer}
