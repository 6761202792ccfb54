"""Full rankings: what is asked, in slices.

Two protocols. `new`: what a user bought after the cut and had not bought before; what was bought before is masked.
`any`: all that a user bought after the cut; nothing is masked. Every item known before the cut is ranked, none is
sampled. Where attributes of items are asked for, items that were listed before the cut are known too, and a third
protocol, `cold_items`, asks for those alone that nobody had bought before it. `cold_users` is `new` of the users of
whom little was known, and of those of whom nothing was, who are asked there alone. A user is judged if there is
something to find.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.ground import Ground, Slice
from jobs.settings_lists import asks_questions, evaluation_of, examples_of
from jobs.tasks.recommend_items import LISTED
from jobs.tasks.recommend_on_spark.asked import of_test
from jobs.tasks.recommend_on_spark.known import catalogue_of_test, drawn, ids_of
from spark_udfs import features, vocabularies
from spark_udfs.newest import cap_at, newest, over

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLD_ITEMS, COLD_USERS = "cold_items", "cold_users"
PROTOCOLS = {
    "new": "items new to the customer; what was bought before is left out",
    "any": "any item bought after the cut; nothing is left out",
    COLD_ITEMS: "items that nobody had bought before the cut; what was bought before is left out",
    COLD_USERS: "items new to customers of whom at most {:,} lines were known before the cut",
}


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:
    """`new` and `any`, of the users who have something to find, and `cold_items` and `cold_users` where there are such.
    Every item known before the cut is ranked."""
    asked = of_test(ground)
    truths = {"new": F.array_except("truth", "seen"), "any": F.array_distinct("truth")}
    found = {name: asked.withColumn("truth", truth).where(F.size("truth") > 0) for name, truth in truths.items()}
    others = {COLD_ITEMS: _of_cold_items(ground, asked), COLD_USERS: _of_cold_users(ground, cut, found["new"])}
    found |= {name: rows for name, rows in others.items() if rows is not None and not rows.isEmpty()}
    few, drawn_of = evaluation_of(ground.settings).cold_history, _drawn(ground)
    return {name: Slice(PROTOCOLS[name].format(few) + drawn_of, rows) for name, rows in found.items()}


def _drawn(ground: Ground) -> str:
    """That not all customers are asked, where it is so."""
    users, most = ground.read["vocabulary_users"].count(), examples_of(ground.settings).max_queries
    if users <= most or asks_questions(ground.settings):
        return ""
    return f"; of {users:,} customers about {most:,}, drawn by a hash"


def _of_cold_items(ground: Ground, asked: DataFrame) -> DataFrame | None:
    """What is asked of items that nobody had bought; None where none of them is known."""
    if LISTED not in ground.read["catalogue"].columns:
        return None
    cold = catalogue_of_test(ground).where("count = 0").select("item")
    pairs = asked.select("user", F.explode("truth").alias("item")).join(cold, on="item", how="left_semi")
    truths = pairs.groupBy("user").agg(F.sort_array(F.collect_set("item")).alias("truth"))
    return asked.drop("truth").join(truths, on="user", how="inner")


def _of_cold_users(ground: Ground, cut: datetime, asked: DataFrame) -> DataFrame:
    """What is asked of users of whom little is known, and of those who came after the cut."""
    few = asked.where(F.size("history") <= evaluation_of(ground.settings).cold_history)
    return few if asks_questions(ground.settings) else few.unionByName(_newcomers(ground, cut, asked))


def _newcomers(ground: Ground, cut: datetime, like: DataFrame) -> DataFrame:
    """Users of whom nothing was known before the cut, by numbers past the vocabulary's end, and what they bought."""
    after = ground.read["lines"].where((F.col("time") >= F.lit(features.utc(cut))) & F.col("user_id").isNotNull())
    is_drawn = drawn(ground, "user_id")
    theirs = after if is_drawn is None else after.where(is_drawn)
    ids = theirs.select(F.col("user_id").alias("id"))
    numbers = ground.keep("newcomers", lambda: vocabularies.new_entries(ids, ground.read["vocabulary_users"]))
    bought = features.indexed(theirs, numbers, ground.read["vocabulary_items"]).where("is_goal")
    known = bought.join(catalogue_of_test(ground).select("item"), on="item", how="left_semi")
    most, kept = examples_of(ground.settings).max_lines, ground.keep("lines of newcomers", lambda: known)
    cap, _ = cap_at(ground.keep("newcomers over the cap", lambda: over(kept, most)), most)
    truths = newest(kept, cap).groupBy("user").agg(F.sort_array(F.collect_set("item")).alias("truth"))
    named = ids_of(numbers).join(truths, on="user", how="inner")
    nothing = {name: F.array().cast(kind) for name, kind in like.dtypes if name not in named.columns}
    return named.withColumns(nothing).select(*like.columns)
