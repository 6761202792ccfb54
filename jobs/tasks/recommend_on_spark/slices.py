"""Full rankings: what is asked, in slices.

Two protocols. `new`: what a user bought after the cut and had not bought before; what was bought before is masked.
`any`: all that a user bought after the cut; nothing is masked. Every item known before the cut is ranked, none is
sampled. Where attributes of items are asked for, items that were listed before the cut are known too, and a third
protocol, `cold_items`, asks for those alone that nobody had bought before it. A user is judged if there is something to
find.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.settings_lists import asks_questions, examples_of
from jobs.task import Ground, Slice
from jobs.tasks.recommend_items import LISTED
from jobs.tasks.recommend_on_spark.asked import of_test
from jobs.tasks.recommend_on_spark.known import catalogue_of_test

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLD_ITEMS = "cold_items"
PROTOCOLS = {
    "new": "items new to the customer; what was bought before is left out",
    "any": "any item bought after the cut; nothing is left out",
    COLD_ITEMS: "items that nobody had bought before the cut; what was bought before is left out",
}


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """`new` and `any`, of the users who have something to find, and `cold_items` where there are such. Every item known
    before the cut is ranked."""
    asked = of_test(ground)
    truths = {"new": F.array_except("truth", "seen"), "any": F.array_distinct("truth")}
    found = {name: asked.withColumn("truth", truth).where(F.size("truth") > 0) for name, truth in truths.items()}
    others = {COLD_ITEMS: _of_cold_items(ground, asked)}
    found |= {name: rows for name, rows in others.items() if rows is not None and not rows.isEmpty()}
    return {name: Slice(PROTOCOLS[name] + _drawn(ground), rows) for name, rows in found.items()}


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
