"""Clicks on Spark: what was known (click_known.py) to examples; probabilities, judged on later ones; lists in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.console import say, warn
from jobs.ground import Answer, Ground, Scored, Slice
from jobs.task import OURS
from jobs.tasks import click_heads
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.click import COUNTS, ENTITIES, options_of
from jobs.tasks.click_heads import known_time
from jobs.tasks.click_known import as_of_moment, impressions, labelled_before, lines, shown_lists
from spark_udfs import features

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]

RATE = "past_click_rate"
EXAMPLES = 10
SLICES = {"new_items": ("impressions of items without an index: nobody known had been shown them", "item = 0"),
          "new_users": ("impressions of users without an index, or of nobody known", "user = 0")}  # fmt: skip


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The impressions whose labels were known before each cut, and those after it."""
    shown, known = impressions(ground), known_time(options_of(ground.settings).heads)
    held_out = [
        shown.where((F.col("time") >= F.lit(cuts.validation)) & labelled_before(cuts.test, known)).withColumn(
            "split", F.lit(features.VALIDATION)
        ),
        shown.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    known_at = features.last_of("time", "arrival_time", known)
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": shown.where(labelled_before(cuts.test, known)).withColumn("known_at", known_at),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The impressions after the cut whose labels are known by now; of these, new items and new users; and each head."""
    heads = options_of(ground.settings).heads
    after = ground.read["queries"].where("split = 'test'").drop("split")
    now = after.agg(F.max("time")).collect()[0][0]
    asked = after.where(F.col(known_time(heads)) <= F.lit(now)).withColumnRenamed("impression_id", "key")
    found = {"after": Slice("impressions after the cut", asked)}
    labels = [F.count_if(F.expr(where) & (F.col("label") == label)) for _, where in SLICES.values() for label in (0, 1)]
    counts = asked.agg(*labels).collect()[0]
    for place, (name, (what, where)) in enumerate(SLICES.items()):
        if min(counts[2 * place : 2 * place + 2]) > 0:  # of one label alone nothing can be judged
            found[name] = Slice(what, asked.where(where))
    return found | click_heads.slices(asked, heads)


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:  # noqa: ARG001
    """The bundles; the item's past click rate; boosted trees on the same numbers; of a simulated shop the probabilities
    that its clicks were drawn with. Of a head's slice each answers for that."""
    options, examples = options_of(ground.settings), ground.read["examples"]
    inputs = [
        "item_clicked",
        *(f"{entity}_{name}" for entity in ENTITIES for name in COUNTS),
        *options.numbers,
        *(["position"] if "position" in options.has else []),
    ]
    return {
        **click_heads.bundled(bundles, options.heads),
        RATE: click_heads.past_rate(examples, options.heads),
        **click_heads.boosted_trees(examples, inputs, options.tree_rows, options.heads),
        **click_heads.truth(ground.settings, ground.read["lines"], options.heads),
    }


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How true probabilities are, and how well they rank, all impressions and each user's own; users are resampled."""
    resamples = ground.settings.evaluation.bootstrap
    return probabilities.judged(
        asked.withColumn("unit", F.col("user_id")), answers, names, budget=0.1, resamples=resamples
    )


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:  # noqa: ARG001
    """Curves; some lists that were shown, in our order; who was left out, and why."""
    asked, answers = held["after"]
    what = {"found": "clicks", "rows": "impressions"}
    return {
        "curves": probabilities.curves(asked, answers, what),
        "drawn": {
            "title": "Impressions that we took for the likeliest to be clicked",
            "columns": ["list", "item", "p", "clicked", "known of the item"],
            "rows": _highest(asked, answers.where(F.col("model") == OURS)),
        },
        "left_out": probabilities.left_out(),
    }


def _highest(asked: DataFrame, ours: DataFrame) -> list[list[str]]:
    known = F.format_string(
        "%d clicks of %d known", F.col("item_clicks").cast("bigint"), F.col("item_labels").cast("bigint")
    )
    found = asked.join(ours.select("key", "p"), on="key", how="inner").withColumn("known", known)
    first = found.orderBy(F.desc("p"), "key").select("list_id", "item_id", "p", "label", "known").limit(EXAMPLES)
    return [
        [row["list_id"], row["item_id"], f"{row['p']:.3f}", "yes" if row["label"] else "no", row["known"]]
        for row in first.collect()
    ]


def score(ground: Ground, moment: datetime) -> Scored:
    """Each user's newest list of candidates, put into the order of what is likeliest to be clicked at the first place.

    Where there is no table of candidates, it is the list that a user was shown last, and that is said.
    """
    options, at = options_of(ground.settings), F.lit(features.utc(moment))
    before = shown_lists(ground).where(features.known_before(moment))
    if "candidates" in ground.read:
        listed = _newest(ground.read["candidates"].where(F.col("moment") <= at))
    else:
        say("there is no table of candidates (sources.candidates): each user's last list is put into order")
        listed = _newest(_as_candidates(before))
    if unknown := [*options.ids, *options.numbers]:
        warn(
            f"score: {', '.join(unknown)} of options.ids and options.numbers are of impressions: unknown of candidates"
        )
    never = F.lit(None)
    asked = listed.select(
        F.to_json(F.array(F.lit("asked"), "user_id", "item_id")).alias("impression_id"),
        F.lit("asked").alias("list_id"),
        "user_id", "item_id",
        at.alias("time"), at.alias("arrival_time"),
        never.cast("boolean").alias("label"), never.cast("timestamp").alias("label_time"),
        *(never.cast("string").alias(name) for name in options.ids),
        *(never.cast("double").alias(name) for name in options.numbers),
        *([never.cast("int").alias("position")] if "position" in options.has else []),
        *click_heads.unlabelled(options.heads),
    )  # fmt: skip
    # Without a place: as at the first one.
    known = as_of_moment(ground, asked, before).drop("position").join(listed, on=["user_id", "item_id"], how="inner")
    more = tuple(f"p_{name}" for name in options.heads)
    return Scored(ground.keep("candidates", lambda: known), partial(_ordered, ground), _counts, more)


def _ordered(ground: Ground, known: DataFrame) -> DataFrame:
    """Each user's candidates, in order."""
    answered = click_heads.predictions(
        known, str(ground.bundle), options_of(ground.settings).heads, key="impression_id"
    )
    listed = known.select("impression_id", "user_id", "item_id", "listed_rank", "listed_by")
    by_p = Window.partitionBy("user_id").orderBy(F.desc("p"), "listed_rank", "item_id")
    found = listed.join(answered, on="impression_id", how="inner")
    return found.withColumn("rank", F.row_number().over(by_p)).drop("impression_id")


def _as_candidates(shown: DataFrame) -> DataFrame:
    """Lists that were shown, as if they were candidates of when they were shown."""
    place = F.col("position") if "position" in shown.columns else F.lit(1)
    return shown.where("user_id IS NOT NULL").select(
        "user_id", "item_id", place.alias("rank"), F.col("list_id").alias("bundle"), F.col("time").alias("moment")
    )


def _newest(candidates: DataFrame) -> DataFrame:
    """Of each user the list of the latest moment, and of one bundle: user_id, item_id, listed_rank, listed_by."""
    newest = Window.partitionBy("user_id")
    last = F.max(F.struct("moment", "bundle")).over(newest)
    rows = candidates.withColumn("_last", last).where(F.struct("moment", "bundle") == F.col("_last"))
    return rows.groupBy("user_id", "item_id").agg(
        F.min("rank").cast("int").alias("listed_rank"), F.min("bundle").alias("listed_by")
    )


def _counts(written: DataFrame) -> dict[str, int]:
    made = written.agg(F.count_distinct("user_id").alias("users"), F.count(F.lit(1)).alias("items"))
    return dict(made.collect()[0].asDict())
