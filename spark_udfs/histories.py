"""The last lines of every user as of a cut, kept so that a later cut goes on from them; and what is asked at a cut.

    lines --histories--> one row per user as of a cut            histories + new lines --advanced--> as of a later one
    histories + lines after the cut --queries--> what a list is asked for, with its truth

A history as of a later cut is made of the one before and of the lines that were known in between alone: work grows with
these lines and with the users, not with all that was ever bought.
"""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.features import Cuts, ages, examples, in_time, known_before, last, merged, newest, utc, weights

LINE = ("arrival_time", "time", "tie", "item", "weight", "is_goal")

_LINES = "array<struct<arrival_time:timestamp,time:timestamp,tie:bigint,item:bigint,weight:double,is_goal:boolean>>"
_IDS = "array<bigint>"


def histories(lines: DataFrame, users: DataFrame, cut: datetime, kept: int, cap: int | None = None) -> DataFrame:
    """One row per user known before a cut.

    Args:
        lines: from `features.indexed`.
        users: the users' vocabulary.
        cut: what was not known before it is no part.
        kept: of a user's lines those that arrived last are kept as they are, so many.
        cap: of a user's lines the newest so many count; None: all.

    Returns:
        user, user_id, lines (array of LINE, in the order in which they arrived), items (array<bigint>, ascending: those
        of all lines), seen (the same of goals), whole (whether lines are all that the user has), in_all (how many the
        user has, `cap` at most).
    """
    return _named(_gathered(newest(lines.where(known_before(cut)), cap), kept, cap), users)


def advanced(before: DataFrame, new: DataFrame, users: DataFrame, kept: int, cap: int) -> DataFrame:
    """The histories as of a later cut.

    Args:
        before: `histories` as of a cut.
        new: the lines that were known from that cut on and before the later one, from `features.indexed`.
        users: the users' vocabulary.
        kept: as in `histories`.
        cap: as in `histories`.

    Returns:
        What `histories` gives of all lines as of the later cut; of a user with more lines than `cap`, items and seen
        may be those of older lines too, `cap` of them at most.
    """
    come = _named(_gathered(newest(new, cap), kept, cap), users)
    both = before.join(
        come.select("user", *(F.col(name).alias(f"new_{name}") for name in ("user_id", *_HELD))), "user", "full"
    )
    return both.select("user", F.coalesce("user_id", "new_user_id").alias("user_id"), *_joined(kept, cap))


_HELD = ("lines", "items", "seen", "whole", "in_all")


def _gathered(lines: DataFrame, kept: int, cap: int | None) -> DataFrame:
    goal = F.when(F.col("is_goal"), F.col("item"))
    return (
        lines.groupBy("user")
        .agg(
            F.sort_array(F.collect_list(F.struct(*LINE))).alias("lines"),
            F.sort_array(F.collect_set("item")).alias("items"),
            F.sort_array(F.collect_set(goal)).alias("seen"),
            F.count(F.lit(1)).alias("in_all"),
        )
        .withColumn("lines", last(F.col("lines"), kept))
        .withColumn("whole", F.col("in_all") <= min(kept, kept if cap is None else cap - 1))
    )


def _joined(kept: int, cap: int) -> list[Column]:
    """_HELD of both together."""

    def both(name: str, kind: str) -> Column:
        nothing = F.array().cast(kind)
        return F.concat(F.coalesce(name, nothing), F.coalesce(f"new_{name}", nothing))

    def of_all(name: str) -> Column:
        return F.slice(F.sort_array(F.array_distinct(both(name, _IDS))), 1, cap).alias(name)

    lines = F.sort_array(both("lines", _LINES))
    both_whole = F.coalesce("whole", F.lit(True)) & F.coalesce("new_whole", F.lit(True))
    in_all = F.coalesce("in_all", F.lit(0)) + F.coalesce("new_in_all", F.lit(0))
    return [
        last(lines, kept).alias("lines"),
        of_all("items"),
        of_all("seen"),
        (both_whole & (F.size(lines) <= min(kept, cap - 1))).alias("whole"),
        F.least(in_all, F.lit(cap)).cast("bigint").alias("in_all"),
    ]


def _named(rows: DataFrame, users: DataFrame) -> DataFrame:
    ids = users.select(F.col("index").alias("user"), F.col("id").alias("user_id"))
    return rows.join(ids, on="user", how="inner").select("user", "user_id", *_HELD)


def as_lines(held: DataFrame) -> DataFrame:
    """The lines of histories, one row each: user and LINE."""
    return held.select("user", F.explode("lines").alias("line")).select("user", "line.*")


def queries(
    held: DataFrame, lines: DataFrame, known_items: DataFrame, cut: datetime, until: datetime | None, max_history: int,
    cap: int | None = None,
) -> DataFrame:  # fmt: skip
    """One row per user known before a cut: what they had bought, and what they bought after it.

    Args:
        held: `histories` as of the cut, which kept LOOKED_AT * `max_history` lines.
        lines: from `features.indexed`, those from the cut on.
        known_items: a column `item`: the items of which some known customer had a line before the cut.
        cut: histories end before it.
        until: the held-out period ends before it; None: with the last line.
        max_history: the most recent lines kept.
        cap: of a customer's lines after the cut the newest so many count; None: all.

    Returns:
        user, user_id, history, history_age, history_weight (as in `features.examples`, moment = cut), seen
        (array<bigint>, ascending: the items of goals before), truth (array<bigint>, ascending: known items of goals in
        the held-out period; may be empty). Purchases are goals, see `features.purchases`.
    """
    after = (F.col("time") >= F.lit(utc(cut))) & (known_before(until) if until else F.lit(True))
    bought = lines.where(after & F.col("is_goal")).join(known_items, on="item", how="left_semi")
    truths = newest(bought, cap).groupBy("user").agg(F.sort_array(F.collect_set("item")).alias("truth"))
    recent = last(F.sort_array(F.transform("lines", in_time)), max_history)
    short = held.select("user", "user_id", "seen", recent.alias("lines"))
    return short.join(truths, on="user", how="left").select(
        "user",
        "user_id",
        F.transform("lines", lambda line: line["item"]).alias("history"),
        ages(F.col("lines"), F.lit(utc(cut))).alias("history_age"),
        weights(F.col("lines")).alias("history_weight"),
        "seen",
        F.coalesce("truth", F.array().cast(_IDS)).alias("truth"),
    )


def of_users(held: DataFrame, lines: DataFrame) -> DataFrame:
    """The histories of users who have one of these lines."""
    return held.join(lines.select("user").distinct(), on="user", how="left_semi")


def not_held(lines: DataFrame, held: DataFrame) -> DataFrame:
    """Lines without those that their users' histories hold: one that is told again, and arrived later, is known
    already."""
    return lines.join(as_lines(held).select("user", "item", "time"), on=["user", "item", "time"], how="left_anti")


def first_lines(held: DataFrame, new: DataFrame) -> DataFrame:
    """user, item: a row for each user and item of new lines that no line of the histories has."""
    pairs = new.select("user", "item").distinct().join(held.select("user", "items"), on="user", how="left")
    return pairs.where(~F.coalesce(F.array_contains("items", F.col("item")), F.lit(False))).select("user", "item")


def out_of_reach(held: DataFrame, new: DataFrame, since: datetime) -> DataFrame:
    """`user`: those with a new line that lies before the cut of the histories, which do not hold all that was before.

    Whether such a line was told before, and the history before it, only all lines of the user say.
    """
    late = new.where(F.col("time") < F.lit(utc(since))).select("user").distinct()
    return late.join(held.where("NOT whole").select("user"), on="user", how="left_semi")


def unsaid(held: DataFrame, new: DataFrame, since: datetime, cap: int) -> DataFrame:
    """`user`: those whose history at a later moment only all their lines say, and `continued` does not.

    They have a new line that lies before the cut of a history which does not hold all that was before, or as many lines
    as count at most.

    Args:
        held: `histories` as of a cut.
        new: the lines that were known from that cut on and before the moment, from `features.indexed`.
        since: the cut.
        cap: as in `histories`.
    """
    come = new.groupBy("user").agg(F.count(F.lit(1)).alias("come"), F.min("time").alias("first"))
    both = held.select("user", "whole", "in_all").join(come, on="user", how="full")
    is_late = ~F.coalesce("whole", F.lit(True)) & (F.col("first") < F.lit(utc(since)))
    is_full = F.coalesce("in_all", F.lit(0)) + F.coalesce("come", F.lit(0)) >= cap
    return both.where(is_full | is_late).select("user")


def continued(held: DataFrame, new: DataFrame, users: DataFrame, kept: int) -> DataFrame:
    """What `queries` need of the histories at a later moment: user, user_id, lines, seen.

    Args:
        held: `histories` as of a cut.
        new: the lines that were known from that cut on and before the moment; none of users that are `unsaid`.
        users: the users' numbers and ids.
        kept: as in `histories`.

    Returns:
        What `histories` gives of all lines. A line that is told again is worth what the best telling is.
    """
    both = merged(as_lines(held).unionByName(new.select("user", *LINE)))
    before = held.select("user", F.col("seen").alias("seen_before"))
    seen = F.sort_array(F.array_union("seen", F.coalesce("seen_before", F.array().cast(_IDS))))
    rows = _named(_gathered(both, kept, None), users).join(before, on="user", how="left")
    return rows.select("user", "user_id", "lines", seen.alias("seen"))


def later_examples(
    held: DataFrame, new: DataFrame, cuts: Cuts, since: datetime, max_history: int, cap: int
) -> DataFrame:
    """The examples of lines that were known since a cut, as `features.examples` of all lines gives them.

    Args:
        held: `histories` as of that cut, with LOOKED_AT * `max_history` lines kept; of the lines' users alone.
        new: the lines that were known since and before `cuts.test`; none that `held` holds, none of users that are
            `out_of_reach`.
        cuts: the examples are known before `cuts.test`.
        since: the cut that `held` is of.
        max_history: as in `features.examples`.
        cap: as in `features.examples`. Of users who have more lines, older examples stay as they were made.
    """
    known = merged(as_lines(held).unionByName(new.select("user", *LINE)))
    made = examples(known, cuts, max_history, cap, since)
    # What was met before the kept lines. Where these are all, the order of time tells: some may be late ones.
    met = held.where("NOT whole").select("user", "items")
    is_met = F.coalesce(F.array_contains("items", F.col("target")), F.lit(False))
    new_to = F.when(is_met, F.lit(0.0)).otherwise(F.col("new")).cast("float")
    return made.join(met, on="user", how="left").withColumn("new", new_to).drop("items")
