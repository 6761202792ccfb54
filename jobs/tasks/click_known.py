"""What was known of a user and an item when the item was shown, and of candidates when they are asked for.

That are the impressions and clicks of before whose time to be clicked was over. So a list never sees its own clicks,
nor those of another list that is still being looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.ground import Ground
from jobs.tasks.click import COUNTS, ENTITIES, kinds, options_of
from jobs.tasks.click_heads import after, known_time, labelled
from spark_udfs import features, windows
from spark_udfs.clicked import clicked_before
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

NOT_SHOWN = datetime(9000, 1, 1, tzinfo=UTC)  # when what only asks arrives: it counts for no other
NEVER = 3_650.0  # days since the last known click, where there was none


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


def refuse_odd_lists(shown: DataFrame) -> None:
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


def shown_lists(ground: Ground) -> DataFrame:
    """Impressions, and when it is known whether they were clicked; with what `click_heads.labelled` adds."""
    options = options_of(ground.settings)
    over = F.greatest(after(options.window_minutes), "arrival_time")
    return labelled(ground.read["lines"].withColumn("label_time", over), options.heads)


def impressions(ground: Ground) -> DataFrame:
    """Each impression with what was known at its moment, see `as_of_moment`."""

    def made() -> DataFrame:
        shown = shown_lists(ground)
        refuse_odd_lists(shown)
        return as_of_moment(ground, shown, shown)

    return ground.keep("impressions", made)


def as_of_moment(ground: Ground, asked: DataFrame, shown: DataFrame) -> DataFrame:
    """Rows with what was known of their user and item at their moment.

    Args:
        ground: the task's, with vocabularies.
        asked: impression_id, user_id, item_id, time, arrival_time, label (null: not known), label_time (null: never),
            and the further columns of the settings, with those of `click_heads.labelled`.
        shown: the impressions that were before, of the same columns; `asked` itself, or other rows.

    Returns:
        The schema's columns but for those that the settings leave out, with impression_id, list_id, user_id, item_id,
        arrival_time and label_time, and labels_time where there are heads. Of users and items that the vocabularies
        lack the index is 0.
    """
    options, read = options_of(ground.settings), ground.read
    columns = dict.fromkeys(
        ("impression_id", "list_id", "user_id", "item_id", "time", "arrival_time", "label", "label_time",
         known_time(options.heads), *options.heads, *options.ids, *options.numbers,
         *(("position",) if "position" in options.has else ()))
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
        *dict.fromkeys(("impression_id", "list_id", "user_id", "item_id", "arrival_time", "label_time",
                        known_time(options.heads), "time")),
        F.coalesce("user_id_index", F.lit(0)).alias("user"),
        item.alias("item"),
        clicked.alias("clicked"),
        features.last(clicked, options.lately).alias("clicked_lately"),
        again.cast("float").alias("item_clicked"),
        *(F.coalesce(f"{name}_index", F.lit(0)).alias(name) for name in options.ids),
        *(_feature(entity, name, options.prior) for entity in ENTITIES for name in COUNTS),
        *(F.col(name).cast("float").alias(name) for name in options.numbers),
        *([_place(options.places)] if "position" in options.has else []),
        *(F.col(name).cast("float").alias(name) for name in ("label", *options.heads)),
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


def labelled_before(cut: datetime, known: str) -> Column:
    """Whether an impression's labels were known before a cut; `known` has from when on they are."""
    return features.known_before(cut) & (F.col(known) <= F.lit(features.utc(cut)))
