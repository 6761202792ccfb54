"""Clicks on Spark: impressions to examples as of their moments; probabilities, judged on later ones; lists in order.

What is known of a user and an item at a moment are the impressions and clicks of before whose time to be clicked was
over. So a list never sees its own clicks, nor those of another list that is still being looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs import simulate
from jobs.console import say, warn
from jobs.task import OURS, TRUTH, Answer, Ground, Scored, Slice
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.click import COUNTS, ENTITIES, kinds, options_of
from spark_udfs import features, windows
from spark_udfs.clicked import clicked_before
from spark_udfs.scoring import predict
from spark_udfs.simulated.impressions import IMPRESSIONS
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from spark_udfs.features import Cuts

RATE = "past_click_rate"
MINUTE_US = 60_000_000
NOT_SHOWN = datetime(9000, 1, 1, tzinfo=UTC)  # when what only asks arrives: it counts for no other
NEVER = 3_650.0  # days since the last known click, where there was none
EXAMPLES = 10
SLICES = {"new_items": ("impressions of items without an index: nobody known had been shown them", "item = 0"),
          "new_users": ("impressions of users without an index, or of nobody known", "user = 0")}  # fmt: skip


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Impressions with an id. One that does not say when it arrived was there at once."""
    shown = read["impressions"].where("time IS NOT NULL AND list_id IS NOT NULL AND item_id IS NOT NULL")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in shown.columns else F.col("time")
    # An id that is null is a value of its own: a line without one would number no item. Without a user it does not.
    ids = [name for name, kind in shown.dtypes if kind == "string" and name not in ("list_id", "user_id", "item_id")]
    shown = shown.withColumns({name: F.coalesce(name, F.lit("")) for name in ids})
    # As JSON, so that no two lists and items make the same text.
    named = F.to_json(F.array("list_id", "item_id"))
    return shown.withColumn("arrival_time", arrival).withColumn("impression_id", named)


def _refuse_odd_lists(shown: DataFrame) -> None:
    """An item that stands twice in a list has two places, and one answer; a list of several times would know its own
    clicks, and more of them the further down.

    Raises:
        DataError: a list shows an item more than once, or has several times, or a place before the first.
    """
    place = F.min("position") if "position" in shown.columns else F.lit(None).cast("int")
    of_list = shown.groupBy("list_id").agg(
        (F.count(F.lit(1)) - F.count_distinct("item_id")).alias("repeated"),
        (F.min("time") < F.max("time")).alias("is_long"),
        (F.coalesce(place, F.lit(1)) < 1).alias("is_before"),
    )
    wrong = {"repeated": F.col("repeated") > 0, "is_long": F.col("is_long"), "is_before": F.col("is_before")}
    counts = [F.count_if(is_wrong) for is_wrong in wrong.values()]
    first = [F.min(F.when(is_wrong, F.col("list_id"))) for is_wrong in wrong.values()]
    found = of_list.agg(*counts, *first).collect()[0]
    problems = (
        "must show an item once{}; give each showing of a list a list_id of its own",
        "must have one time{}: when it was shown; give all its rows the first one's",
        "must have positions from 1 on{}; add 1 where they are counted from 0",
    )
    for count, example, problem in zip(found[:3], found[3:], problems, strict=True):
        if count:
            where = f" in table 'impressions'; {count:,} do not, such as list '{example}'"
            raise DataError(f"a list {problem.format(where)}, and run `millrace ingest` again")


def _shown(ground: Ground) -> DataFrame:
    """Impressions, and when it is known whether they were clicked."""
    window_us = round(options_of(ground.settings).window_minutes * MINUTE_US)
    over = F.timestamp_micros(F.unix_micros("time") + window_us)
    return ground.read["lines"].withColumn("label_time", F.greatest(over, "arrival_time"))


def _impressions(ground: Ground) -> DataFrame:
    """Each impression with what was known at its moment, see `_known`."""

    def made() -> DataFrame:
        shown = _shown(ground)
        _refuse_odd_lists(shown)
        return _known(ground, shown, shown)

    return ground.keep("impressions", made)


def _known(ground: Ground, asked: DataFrame, shown: DataFrame) -> DataFrame:
    """Rows with what was known of their user and item at their moment.

    Args:
        ground: the task's, with vocabularies.
        asked: impression_id, user_id, item_id, time, arrival_time, label (null: not known), label_time (null: never),
            and the further columns of the settings.
        shown: the impressions that were before, of the same columns; `asked` itself, or other rows.

    Returns:
        The schema's columns but for those that the settings leave out, with impression_id, list_id, user_id, item_id,
        arrival_time and label_time. Of users and items that the vocabularies lack the index is 0.
    """
    options, read = options_of(ground.settings), ground.read
    columns = dict.fromkeys(
        ("impression_id", "list_id", "user_id", "item_id", "time", "arrival_time", "label", "label_time", *options.ids,
         *options.numbers, *(("position",) if "position" in options.has else ()))
    )  # fmt: skip
    rows = asked.select(*columns)
    found = _counted(rows) if shown is asked else _counted_of(rows, shown)
    for kind, column in kinds(ground.settings).items():
        found = found.join(_numbered(read[f"vocabulary_{kind}"], column), on=column, how="left")
    clicks = _clicks(ground, shown)
    found = found.join(clicked_before(asked, clicks, options.max_history), on=["user_id", "time"], how="left")
    clicked = F.coalesce("clicked", F.array().cast("array<bigint>"))
    item = F.coalesce("item_id_index", F.lit(0))
    again = F.size(F.filter(clicked, lambda one: (one == item) & (item > 0)))
    return found.select(
        "impression_id", "list_id", "user_id", "item_id", "arrival_time", "label_time", "time",
        F.coalesce("user_id_index", F.lit(0)).alias("user"),
        item.alias("item"),
        clicked.alias("clicked"),
        features.last(clicked, options.lately).alias("clicked_lately"),
        again.cast("float").alias("item_clicked"),
        *(F.coalesce(f"{name}_index", F.lit(0)).alias(name) for name in options.ids),
        *(_feature(entity, name, options.prior) for entity in ENTITIES for name in COUNTS),
        *(F.col(name).cast("float").alias(name) for name in options.numbers),
        *([_place(options.places)] if "position" in options.has else []),
        F.col("label").cast("float").alias("label"),
        F.lit(1.0).cast("float").alias("weight"),
    )  # fmt: skip


def _counted(shown: DataFrame) -> DataFrame:
    """Impressions, with the counts of their users and items before them (`spark_udfs.windows`)."""
    told = shown.withColumn("fraud", F.col("label").cast("double"))
    return windows.as_of(told, "impression_id", list(ENTITIES.values())).drop("fraud")


def _counted_of(asked: DataFrame, shown: DataFrame) -> DataFrame:
    """Rows with the counts of others before them: a user or an item is asked once a moment, in however many rows it
    stands, so that an item of everybody's list is no task of its own."""
    given = ("impression_id", "time", "arrival_time", "label_time", F.col("label").cast("double").alias("fraud"))
    found = asked
    for column in ENTITIES.values():
        ids = asked.select(column, "time").distinct().where(F.col(column).isNotNull())
        never = F.lit(None)
        asks = ids.select(
            F.to_json(F.array(F.lit("asked"), F.col(column), F.col("time").cast("string"))).alias("impression_id"),
            "time", F.lit(NOT_SHOWN).alias("arrival_time"), never.cast("timestamp").alias("label_time"),
            never.cast("double").alias("fraud"), column, F.lit(True).alias("asks"),
        )  # fmt: skip
        told = asks.unionByName(shown.select(*given, column, F.lit(False).alias("asks")))
        counted = windows.as_of(told, "impression_id", [column]).where("asks")
        counts = (f"{column}_{name}" for name in windows.KNOWN)
        found = found.join(counted.select(column, "time", *counts), on=[column, "time"], how="left")
    return found


def _numbered(vocabulary: DataFrame, column: str) -> DataFrame:
    held = vocabulary.where("id IS NOT NULL")
    return held.select(F.col("id").alias(column), F.col("index").alias(f"{column}_index"))


def _clicks(ground: Ground, shown: DataFrame) -> DataFrame:
    """Clicks on items of the vocabulary: user_id, item, time, known_at."""
    items = _numbered(ground.read["vocabulary_items"], "item_id")
    clicked = shown.where("label").join(items, on="item_id", how="inner")
    known_at = F.timestamp_micros(F.greatest(F.unix_micros("time") + 1, F.unix_micros("label_time")))
    return clicked.select("user_id", F.col("item_id_index").alias("item"), "time", known_at.alias("known_at"))


def _place(places: int) -> Column:
    """From 1; those below the last that differs are as it; 0: not said."""
    said = F.when(F.col("position") >= 1, F.least("position", F.lit(places)))
    return F.coalesce(said, F.lit(0)).cast("bigint").alias("position")


def _feature(entity: str, name: str, prior: float) -> Column:
    column = ENTITIES[entity]
    held = f"{column}_{name.replace('click', 'fraud')}"  # the windows count a label by the name of their first task's
    if name == "rate":
        value = windows.rate(column, prior)
    elif name.startswith("days_since"):
        value = F.coalesce(held, F.lit(NEVER))
    else:
        value = F.coalesce(held, F.lit(0))
    return value.cast("float").alias(f"{entity}_{name}")


def _labelled_before(cut: datetime) -> Column:
    """Whether it was known before a cut whether an impression is clicked."""
    return features.known_before(cut) & (F.col("label_time") <= F.lit(features.utc(cut)))


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The impressions whose time to be clicked was over before each cut, and those after it."""
    shown = _impressions(ground)
    held_out = [
        shown.where((F.col("time") >= F.lit(cuts.validation)) & _labelled_before(cuts.test)).withColumn(
            "split", F.lit(features.VALIDATION)
        ),
        shown.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    known_at = features.last_of("time", "arrival_time", "label_time")
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": shown.where(_labelled_before(cuts.test)).withColumn("known_at", known_at),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The impressions after the cut whose time to be clicked is over by now; of these, new items and new users."""
    after = ground.read["queries"].where("split = 'test'").drop("split")
    now = after.agg(F.max("time")).collect()[0][0]
    asked = after.where(F.col("label_time") <= F.lit(now)).withColumnRenamed("impression_id", "key")
    found = {"after": Slice("impressions after the cut", asked)}
    labels = [F.count_if(F.expr(where) & (F.col("label") == label)) for _, where in SLICES.values() for label in (0, 1)]
    counts = asked.agg(*labels).collect()[0]
    for place, (name, (what, where)) in enumerate(SLICES.items()):
        if min(counts[2 * place : 2 * place + 2]) > 0:  # of one label alone nothing can be judged
            found[name] = Slice(what, asked.where(where))
    return found


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:  # noqa: ARG001
    """The bundles; the item's past click rate; boosted trees on the same numbers; of a simulated shop the probabilities
    that its clicks were drawn with."""
    answers: dict[str, Answer] = {
        **probabilities.bundled(bundles),
        RATE: lambda asked, _: asked.select("key", F.col("item_rate").cast("double").alias("p")),
    }
    options = options_of(ground.settings)
    inputs = [
        "item_clicked",
        *(f"{entity}_{name}" for entity in ENTITIES for name in COUNTS),
        *options.numbers,
        *(["position"] if "position" in options.has else []),
    ]
    answers |= probabilities.boosted_trees(ground.read["examples"], "impression_id", inputs, options.tree_rows)
    return answers | _truth(ground)


def _truth(ground: Ground) -> dict[str, Answer]:
    """Who answers with the planted probabilities; nobody where impressions are not a simulated shop's."""
    spark, ids = ground.read["lines"].sparkSession, {"label": "clicked"}
    made = simulate.truth_of_source(ground.settings, spark, "impressions", ids, IMPRESSIONS)
    if made is None:
        return {}
    known = made.select("list_id", "item_id", F.col("click_probability").alias("p"))
    return {
        TRUTH: lambda asked, _: (
            asked.select("key", "list_id", "item_id")
            .join(known, on=["list_id", "item_id"], how="inner")
            .select("key", "p")
        )
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
    before = _shown(ground).where(features.known_before(moment))
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
    )  # fmt: skip
    # Without a place: as at the first one.
    known = ground.keep("candidates", lambda: _known(ground, asked, before).drop("position"))
    answered = predict(known, str(ground.bundle), key="impression_id")
    found = known.select("impression_id", "user_id", "item_id").join(answered, on="impression_id", how="inner")
    by_p = Window.partitionBy("user_id").orderBy(F.desc("p"), "listed_rank", "item_id")
    ordered = found.join(listed, on=["user_id", "item_id"], how="inner").withColumn("rank", F.row_number().over(by_p))
    return Scored(ordered.select("user_id", "item_id", "rank", "p", "listed_rank", "listed_by"), _counts)


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
