"""Lists for everybody, or for those who have a line since a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import functions as F

from jobs.settings_lists import examples_of, in_sequences, scoring_of
from jobs.task import Before, Ground, Scored
from jobs.tasks.recommend_on_spark.content import listed
from jobs.tasks.recommend_on_spark.known import (
    AS_OF,
    ITEM_FILES,
    cap_of,
    catalogue_of_test,
    cut_of,
    ids_of,
    kept_of,
    ranks_unsold,
    sold_before,
    stock,
    without_held,
)
from jobs.tasks.recommend_on_spark.ruled import Ruled
from jobs.tasks.recommend_on_spark.searched import Lists, Searched, Shown, searched
from spark_udfs import features, vocabularies
from spark_udfs.baselines.classic import popularity_order
from spark_udfs.histories import histories, queries
from spark_udfs.item_files import save_items
from spark_udfs.lists import longest
from spark_udfs.reasons import REASONS, check_reasons
from spark_udfs.scoring import bundle_schema, unknown_ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class _Asked:
    """What is scored.

    Attributes:
        ground: the job's.
        moment: as of which.
        before: the build whose histories those of the moment go on from; None: they are made of all lines.
        since: the cut of its histories.
    """

    ground: Ground
    moment: datetime
    before: Before | None
    since: datetime | None

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
        return None if asked is None else searched(_lists(self, _queries(self)), self.ground, asked)

    def touched(self) -> DataFrame | None:
        """The ids of the users with a line since `scoring.since`; None: everybody is asked."""
        since = self.ground.settings.scoring.since
        if since is None:
            return None
        lately = self.until().where(features.known_since(since) & F.col("user_id").isNotNull())
        return self.ground.keep("touched", lambda: lately.select("user_id").distinct())

    def lately(self) -> DataFrame:
        """The lines since the cut of the histories, and those of the last `recent_days`; all where there is no cut."""
        if self.since is None:
            return self.until()
        days = timedelta(days=examples_of(self.ground.settings).recent_days)
        first = min(self.since, features.utc(self.moment) - days)
        # Files without such a line are passed over.
        return self.ground.keep("lately", lambda: self.until().where(features.known_since(first)))

    def lines(self) -> DataFrame:
        """The lines that histories are made of, beside those of the build before: of the users who are asked alone."""
        touched, lines = self.touched(), self.lately()
        if self.since is not None:
            lines = lines.where(features.known_since(self.since))
        if touched is None:
            return lines
        return self.ground.keep("lines of touched", lambda: lines.join(touched, on="user_id", how="left_semi"))

    def until(self) -> DataFrame:
        """The lines that were known at the moment."""
        return self.ground.read["lines"].where(features.known_before(self.moment))


def score(ground: Ground, moment: datetime) -> Scored:
    """The top K items of the whole catalogue for every user, or for those with a line since `scoring.since`.

    Every user of the shop gets rows: one that the bundle does not know is scored by the history alone, one without a
    known item in the history gets what sold most lately, marked `fallback`.
    """
    if scoring_of(ground.settings).reasons:
        check_reasons(str(ground.bundle))
    before = ground.before
    asked = _Asked(ground, moment, before, None if before is None else cut_of(before.read["histories"]))
    queries = _queries(asked)
    items = _known_items(asked)
    # Nor does a bundle have a list for anybody that knows none of the items.
    silent = F.lit(True) if asked.ruled.takes_away or not items[1] else _silent(ground, items[0])
    rows, counts = partial(_rows, asked), partial(_counts, asked, queries)
    compared = items[1] if asked.searched is None else asked.searched.compared(items[1])
    each = scoring_of(ground.settings).k
    return Scored(queries, rows, counts, _more(ground), silent=silent, each=each, items=compared)


def _more(ground: Ground) -> tuple[str, ...]:
    return (REASONS,) if scoring_of(ground.settings).reasons else ()


def _known_items(asked: _Asked) -> tuple[int, int]:
    """How many items that the bundle knows were sold, and can be recommended."""
    size = bundle_schema(str(asked.ground.bundle))["history"].size or 0
    both = _sold(asked).select("item", F.lit(True).alias("sold"))
    every = _recommendable(asked).where(F.col("item") < size).join(both, on="item", how="left")
    sold, items = every.agg(F.count("sold"), F.count(F.lit(1))).collect()[0]
    return sold, items


def _silent(ground: Ground, sold: int) -> Column:
    """Who may be left without a list: who has seen as many items as were sold, and the cold, where they are skipped."""
    scoring = scoring_of(ground.settings)
    is_cold = F.size("history") == F.expr(unknown_ids(bundle_schema(str(ground.bundle))))
    return (F.lit(scoring.cold_users == "skip") & is_cold) | (
        F.lit(scoring.exclude_seen) & (F.size("seen") >= F.lit(sold))
    )


def _numbered(asked: _Asked) -> DataFrame:
    """The users who are asked: `index`, `id`, `in_vocabulary`.

    A user who came after the vocabulary was built gets a number past its end, which every bundle takes as unknown: past
    the indices of erased users too.
    """
    ground, touched, held = asked.ground, asked.touched(), asked.ground.read["vocabulary_users"]
    everybody = (ground.read["users"] if touched is None else touched).select(F.col("user_id").alias("id"))
    known = held.where("id IS NOT NULL")
    if touched is not None:
        of_touched = known.join(everybody, on="id", how="left_semi")
        known = ground.keep("known", lambda: of_touched)
        everybody = everybody.join(known, on="id", how="left_anti")
    joined_since = vocabularies.new_entries(everybody, held)
    numbered = known.select("index", "id", F.lit(True).alias("in_vocabulary")).unionByName(
        joined_since.select("index", "id", F.lit(False).alias("in_vocabulary"))
    )
    return numbered if touched is None else ground.keep("numbered", lambda: numbered)


def _queries(asked: _Asked) -> DataFrame:
    """A row per user who is asked: user, user_id, history, history_age, history_weight, seen, in_vocabulary."""
    return asked.ground.keep("queries", lambda: _queries_by_lines(asked))


def _queries_by_lines(asked: _Asked) -> DataFrame:
    ground, moment, numbered = asked.ground, asked.moment, _numbered(asked)
    known = features.indexed(asked.lines(), numbered, ground.read["vocabulary_items"])
    if asked.before is None:
        held = histories(known, ids_of(numbered), moment, kept_of(ground), cap_of(ground, known, moment))
    else:
        held = _gone_on(asked, asked.before.read["histories"].drop(AS_OF), known, numbered)
    length = examples_of(ground.settings).max_history
    nobody, by_arrival = known.select("item").limit(0), in_sequences(ground.settings)
    of_known = queries(held, known, nobody, moment, None, length, by_arrival=by_arrival)
    no_ids, nothing = F.array().cast("array<bigint>"), F.array().cast("array<float>")
    return (
        numbered.withColumnRenamed("index", "user")
        .join(of_known.drop("user_id"), on="user", how="left")
        .select(
            "user",
            F.col("id").alias("user_id"),
            F.coalesce("history", no_ids).alias("history"),
            F.coalesce("history_age", nothing).alias("history_age"),
            F.coalesce("history_weight", nothing).alias("history_weight"),
            F.coalesce("seen", no_ids).alias("seen"),
            "in_vocabulary",
        )
    )


def _gone_on(asked: _Asked, held: DataFrame, lines: DataFrame, numbered: DataFrame) -> DataFrame:
    """The histories of the build before, gone on with the lines since. All lines are read only for users of whom these
    do not say all."""
    ground, ids, since = asked.ground, ids_of(numbered), cast("datetime", asked.since)
    if asked.touched() is not None:
        of_touched = held.join(ids.select("user"), on="user", how="left_semi")
        held = ground.keep("histories", lambda: of_touched)
    new = without_held(ground, ground.keep("known lines", lambda: lines), held, since)

    def all_lines(users: DataFrame) -> DataFrame:
        theirs = numbered.join(users, F.col("index") == F.col("user"), "left_semi")
        return features.indexed(asked.until(), theirs, ground.read["vocabulary_items"])

    return stock(ground, held, new, since, ids, examples_of(ground.settings).max_lines, all_lines).as_of(asked.moment)


def _sold(asked: _Asked) -> DataFrame:
    """Each item of the vocabulary that was sold before a moment: item, and recent_customers.

    What was sold before the cut of the build in force stands in its catalogue: only lines after that are looked at.
    """
    return asked.ground.keep("sold", lambda: _sold_by_lines(asked))


def _sold_by_lines(asked: _Asked) -> DataFrame:
    ground, lines, moment = asked.ground, asked.lately(), features.utc(asked.moment)
    recent = F.col("time") >= F.lit(moment) - F.make_dt_interval(F.lit(examples_of(ground.settings).recent_days))
    customers = lines.where(recent).groupBy("item_id").agg(F.countDistinct("user_id").alias("recent_customers"))
    sold = lines.select("item_id")
    if ground.cut is not None and ground.cut <= moment:
        later = lines.where(features.known_since(ground.cut)).select("item_id")
        sold = sold_before(catalogue_of_test(ground)).select("item_id").unionByName(later)
    items = ground.read["vocabulary_items"].select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    there = items.join(sold.distinct(), on="item_id", how="left_semi").join(customers, on="item_id", how="left")
    return there.select("item", F.coalesce("recent_customers", F.lit(0)).alias("recent_customers"))


def _item_ids(asked: _Asked) -> DataFrame:
    return asked.ground.read["vocabulary_items"].select(F.col("index").alias("item"), F.col("id").alias("item_id"))


def _recommendable(asked: _Asked) -> DataFrame:
    """`item` of what can be recommended: what was sold, and of a bundle that ranks it what was listed."""
    ground, sold = asked.ground, _sold(asked).select("item")
    assert ground.bundle is not None
    if not ranks_unsold(ground.bundle) or (there := listed(ground.read, ground.settings, asked.moment)) is None:
        return sold
    return sold.unionByName(_item_ids(asked).join(there, on="item_id", how="left_semi").select("item")).distinct()


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
        can_be = _recommendable(asked).join(_item_ids(asked), on="item", how="inner")
        return asked.ruled.shown(can_be, _sold(asked))
    if scoring.cold_users == "recent_popularity":
        order = popularity_order(_sold(asked), "recent_customers", scoring.k + longest(_queries(asked)))
    return Shown(save_items(_recommendable(asked), ground.folder / ITEM_FILES, "sold"), order)


def _rows(asked: _Asked, queries: DataFrame) -> DataFrame:
    """What is written, by names and by numbers."""
    ranked = _lists(asked, queries).ranked(None if asked.searched is None else asked.searched.index)
    named = ranked.join(queries.select("user", "user_id", "in_vocabulary"), on="user", how="inner")
    return named.join(_item_ids(asked), on="item", how="inner").select(
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
        can_be = _recommendable(asked).where(F.col("item") < (schema["history"].size or 0))
        offered = _item_ids(asked).join(can_be, on="item", how="left_semi")
        counts |= asked.ruled.counts(queries, offered, written)
    if asked.searched is not None:
        counts |= asked.searched.counts(_lists(asked, queries))
    return counts | {"unknown_ids": counts["unknown_ids"] + unheard.count()}
