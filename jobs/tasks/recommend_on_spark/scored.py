"""Lists for everybody, or for those who have a line since a time."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.artefacts import ITEM_FILES
from jobs.ground import Ground, Scored
from jobs.settings_lists import scoring_of
from jobs.tasks.recommend_on_spark import knowledge
from jobs.tasks.recommend_on_spark.at_moment import AtMoment, item_ids_of, queries_of, recommendable_of, sold_of
from jobs.tasks.recommend_on_spark.known import cut_of
from jobs.tasks.recommend_on_spark.ruled import Ruled
from jobs.tasks.recommend_on_spark.searched import Lists, Searched, Shown, searched
from spark_udfs.baselines.classic import popularity_order
from spark_udfs.item_files import save_items
from spark_udfs.lists import longest
from spark_udfs.reasons import REASONS, check_reasons
from spark_udfs.scoring import bundle_schema, unknown_ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


class _Asked(AtMoment):
    """What is scored."""

    @cached_property
    def ruled(self) -> Ruled:
        """What is ruled of the lists."""
        return Ruled(self.ground)

    @cached_property
    def shown(self) -> Shown:
        """What is written of items once, however many parts the users are answered in."""
        return _shown(self)

    @cached_property
    def searched(self) -> Searched | None:
        """By which index items are searched, once its recall was measured; None: all are compared."""
        asked = scoring_of(self.ground.settings).index
        return None if asked is None else searched(_lists(self, queries_of(self)), self.ground, asked)


def score(ground: Ground, moment: datetime) -> Scored:
    """The top K items of the whole catalogue for every user, or for those with a line since `scoring.since`.

    Every user of the shop gets rows: one that the bundle does not know is scored by the history alone, one without a
    known item in the history gets what sold most lately, marked `fallback`.
    """
    if scoring_of(ground.settings).reasons:
        check_reasons(str(ground.bundle))
    if scoring_of(ground.settings).paths:
        knowledge.refuse_without(ground)
    before = ground.before
    asked = _Asked(ground, moment, before, None if before is None else cut_of(before.read["histories"]))
    queries = queries_of(asked)
    items = _known_items(asked)
    # Nor does a bundle have a list for anybody that knows none of the items.
    silent = F.lit(True) if asked.ruled.takes_away or not items[1] else _silent(ground, items[0])
    rows, counts = partial(_rows, asked), partial(_counts, asked, queries)
    compared = items[1] if asked.searched is None else asked.searched.compared(items[1])
    each = scoring_of(ground.settings).k
    return Scored(queries, rows, counts, _more(ground), silent=silent, each=each, items=compared)


def _more(ground: Ground) -> tuple[str, ...]:
    scoring = scoring_of(ground.settings)
    return (*((REASONS,) if scoring.reasons else ()), *((knowledge.PATH,) if scoring.paths else ()))


def _known_items(asked: _Asked) -> tuple[int, int]:
    """How many items that the bundle knows were sold, and can be recommended."""
    size = bundle_schema(str(asked.ground.bundle))["history"].size or 0
    both = sold_of(asked).select("item", F.lit(True).alias("sold"))
    every = recommendable_of(asked).where(F.col("item") < size).join(both, on="item", how="left")
    sold, items = every.agg(F.count("sold"), F.count(F.lit(1))).collect()[0]
    return sold, items


def _silent(ground: Ground, sold: int) -> Column:
    """Who may be left without a list: who has seen as many items as were sold, and the cold, where they are skipped."""
    scoring = scoring_of(ground.settings)
    is_cold = F.size("history") == F.expr(unknown_ids(bundle_schema(str(ground.bundle))))
    return (F.lit(scoring.cold_users == "skip") & is_cold) | (
        F.lit(scoring.exclude_seen) & (F.size("seen") >= F.lit(sold))
    )


def _lists(asked: _Asked, queries: DataFrame) -> Lists:
    """How the lists of some users are made."""
    ground, scoring = asked.ground, scoring_of(asked.ground.settings)
    if asked.ruled.is_any:
        return asked.ruled.lists(queries, asked.shown)
    path, seen = str(ground.bundle), scoring.exclude_seen
    return Lists(queries, path, scoring.k, asked.shown.allowed, seen, asked.shown.order, reasons=scoring.reasons)


def _shown(asked: _Asked) -> Shown:
    ground, scoring, order = asked.ground, scoring_of(asked.ground.settings), None
    if asked.ruled.is_any:
        can_be = recommendable_of(asked).join(item_ids_of(asked), on="item", how="inner")
        return asked.ruled.shown(can_be, sold_of(asked))
    if scoring.cold_users == "recent_popularity":
        order = popularity_order(sold_of(asked), "recent_customers", scoring.k + longest(queries_of(asked)))
    return Shown(save_items(recommendable_of(asked), ground.folder / ITEM_FILES, "sold"), order)


def _rows(asked: _Asked, queries: DataFrame) -> DataFrame:
    """What is written, by names and by numbers."""
    ranked = _lists(asked, queries).ranked(None if asked.searched is None else asked.searched.index)
    named = ranked.join(queries.select("user", "user_id", "in_vocabulary"), on="user", how="inner")
    named = named.join(item_ids_of(asked), on="item", how="inner")
    if scoring_of(asked.ground.settings).paths:
        named = knowledge.with_paths(asked.ground, named, queries)
    return named.select(
        "user_id",
        F.when(F.col("in_vocabulary"), F.col("user")).otherwise(F.lit(0)).alias("user"),
        "rank",
        "item_id",
        "item",
        "score",
        "fallback",
        *_more(asked.ground),
    )


def _counts(asked: _Asked, queries: DataFrame, written: DataFrame) -> dict[str, Any]:
    """users, cold_users (no known item in the history), unknown_users (the bundle has no vector of their own),
    unknown_ids (purchases of items that the bundle does not know), rows, fallback_rows; and `Ruled.counts`,
    `Searched.counts`."""
    ground = asked.ground
    schema = bundle_schema(str(ground.bundle))
    users = schema["user"].size or 0
    unknown = F.expr(unknown_ids(schema))
    of_queries = queries.agg(
        F.count(F.lit(1)).alias("users"),
        F.count_if(F.size("history") == unknown).alias("cold_users"),
        F.count_if(F.col("user") >= users).alias("unknown_users"),
        F.coalesce(F.sum(unknown), F.lit(0)).alias("unknown_ids"),
    ).collect()[0]
    past = asked.lines().where("user_id IS NOT NULL")
    known = ground.read["vocabulary_items"].select(F.col("id").alias("item_id"))
    unheard = past.join(known, on="item_id", how="left_anti")
    made = written.agg(F.count(F.lit(1)).alias("rows"), F.count_if("fallback").alias("fallback_rows")).collect()[0]
    counts = of_queries.asDict() | made.asDict()
    if asked.ruled.is_any:
        can_be = recommendable_of(asked).where(F.col("item") < (schema["history"].size or 0))
        offered = item_ids_of(asked).join(can_be, on="item", how="left_semi")
        counts |= asked.ruled.counts(queries, offered, written)
    if asked.searched is not None:
        counts |= asked.searched.counts(_lists(asked, queries))
    return counts | {"unknown_ids": counts["unknown_ids"] + unheard.count()}
