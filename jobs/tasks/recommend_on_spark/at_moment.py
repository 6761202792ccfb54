"""Users as of a moment, what they had had, and the items that could be recommended then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from pyspark.sql import functions as F

from jobs.ground import Before, Ground
from jobs.settings_lists import examples_of, in_sequences
from jobs.tasks.recommend_on_spark.content import listed
from jobs.tasks.recommend_on_spark.known import (
    AS_OF,
    cap_beside,
    cap_of,
    catalogue_of_test,
    ids_of,
    kept_of,
    ranks_unsold,
    sold_before,
    stock,
    without_held,
)
from spark_udfs import features, vocabularies
from spark_udfs.histories import histories, queries

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class AtMoment:
    """Who is asked, and what was known at a moment.

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


def _numbered(asked: AtMoment) -> DataFrame:
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
        strangers = everybody.join(known, on="id", how="left_anti")
        joined_since = vocabularies.numbered(strangers, held)
    else:
        joined_since = vocabularies.new_entries(everybody, held)
    numbered = known.select("index", "id", F.lit(True).alias("in_vocabulary")).unionByName(
        joined_since.select("index", "id", F.lit(False).alias("in_vocabulary"))
    )
    return numbered if touched is None else ground.keep("numbered", lambda: numbered)


def queries_of(asked: AtMoment) -> DataFrame:
    """A row per user who is asked: user, user_id, history, history_age, history_weight, seen, in_vocabulary."""
    return asked.ground.keep("queries", lambda: _queries_by_lines(asked))


def _queries_by_lines(asked: AtMoment) -> DataFrame:
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


def _gone_on(asked: AtMoment, held: DataFrame, lines: DataFrame, numbered: DataFrame) -> DataFrame:
    """The histories of the build before, gone on with the lines since. All lines are read only for users of whom these
    do not say all."""
    ground, ids, since = asked.ground, ids_of(numbered), cast("datetime", asked.since)
    if asked.touched() is not None:
        of_touched = held.join(ids.select("user"), on="user", how="left_semi")
        held = ground.keep("histories", lambda: of_touched)
    known = ground.keep("known lines", lambda: lines)
    new, cap = without_held(ground, known, held, since), cap_beside(ground, known)

    def all_lines(users: DataFrame) -> DataFrame:
        theirs = numbered.join(users, F.col("index") == F.col("user"), "left_semi")
        return features.indexed(asked.until(), theirs, ground.read["vocabulary_items"])

    return stock(ground, held, new, since, ids, cap, all_lines).as_of(asked.moment)


def sold_of(asked: AtMoment) -> DataFrame:
    """Each item of the vocabulary that was sold before a moment: item, and recent_customers.

    What was sold before the cut of the build in force stands in its catalogue: only lines after that are looked at.
    """
    return asked.ground.keep("sold", lambda: _sold_by_lines(asked))


def _sold_by_lines(asked: AtMoment) -> DataFrame:
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


def item_ids_of(asked: AtMoment) -> DataFrame:
    return asked.ground.read["vocabulary_items"].select(F.col("index").alias("item"), F.col("id").alias("item_id"))


def recommendable_of(asked: AtMoment) -> DataFrame:
    """`item` of what can be recommended: what was sold, and of a bundle that ranks it what was listed."""
    ground, sold = asked.ground, sold_of(asked).select("item")
    assert ground.bundle is not None
    if not ranks_unsold(ground.bundle) or (there := listed(ground.read, ground.settings, asked.moment)) is None:
        return sold
    return sold.unionByName(item_ids_of(asked).join(there, on="item_id", how="left_semi").select("item")).distinct()
