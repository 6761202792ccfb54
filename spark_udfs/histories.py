"""The last lines of every user as of a cut, kept so that later cuts go on from them; and what is asked at a cut.

    lines --histories--> one row per user as of a cut
    histories + lines since --gone_on--> Stock        Stock --as_of--> the histories of some users as of a later cut
    histories + lines after the cut --queries--> what a list is asked for, with its truth

Histories as of a later cut are made of kept ones and of the lines that were known since alone: work grows with these
lines and with the users who are asked for, not with all that was ever bought.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.features import Cuts, ages, examples, in_time, known_before, last, merged, utc, weights
from spark_udfs.newest import Cap, newest

LINE = ("arrival_time", "time", "tie", "item", "weight", "is_goal")

_LINES = "array<struct<arrival_time:timestamp,time:timestamp,tie:bigint,item:bigint,weight:double,is_goal:boolean>>"
_IDS = "array<bigint>"
_NO_CAP = 2**31 - 1  # no array is longer


def histories(lines: DataFrame, ids: DataFrame, cut: datetime, kept: int, cap: Cap | None = None) -> DataFrame:
    """One row per user known before a cut.

    Args:
        lines: from `features.indexed`.
        ids: `user` and `user_id` of the lines' users, at least.
        cut: what was not known before it is no part.
        kept: of a user's lines those that arrived last are kept as they are, so many.
        cap: how many of a user's lines count; None: all.

    Returns:
        user, user_id, lines (array of LINE, in the order in which they arrived), items (array<bigint>, ascending: those
        of all lines), seen (the same of goals), whole (whether lines are all that the user has).
    """
    rows = _gathered(newest(lines.where(known_before(cut)), cap), kept, cap)
    return rows.join(ids, on="user", how="inner").select("user", "user_id", *_HELD)


@dataclass(frozen=True)
class Stock:
    """What is known of users' lines: histories as of a cut, and what came since.

    Attributes:
        held: `histories` as of the cut.
        new: the lines that were known from the cut on and that `held` does not hold.
        ids: `user` and `user_id`, at least of the users of `new` who are not in `held`.
        kept: as in `histories`.
        cap: as in `histories`; its users are all of whom `held` and `new` may have more lines.
        far: all lines of the users of whom `held` and `new` do not say all (`out_of_reach`); None: there are none.
    """

    held: DataFrame
    new: DataFrame
    ids: DataFrame
    kept: int
    cap: Cap | None
    far: DataFrame | None = None

    def of(self, which: Callable[[DataFrame], DataFrame]) -> Stock:
        """That of some users.

        Args:
            which: rows with a column `user` to those of the users who are asked for.
        """
        far = None if self.far is None else which(self.far)
        return Stock(which(self.held), which(self.new), self.ids, self.kept, self.cap, far)

    def as_of(self, cut: datetime) -> DataFrame:
        """What `histories` gives of all lines as of a later cut. Of a user with more lines than `cap`, items and seen
        may be those of older lines too, `cap` of them at most; a line that is told again is worth what it was."""
        near, new = self._near()
        later = _advanced(near, new.where(known_before(cut)), self.ids, self.kept, self.cap)
        if self.far is None:
            return later
        ids = self.held.select("user", "user_id")
        return later.unionByName(histories(self.far, ids, cut, self.kept, self._far_cap()))

    def examples(self, cuts: Cuts, since: datetime, max_history: int) -> DataFrame:
        """The examples of lines that were known from a time on, as `features.examples` of all lines gives them.

        Args:
            cuts: the examples are known before `cuts.test`.
            since: the time, no earlier than the cut of the histories.
            max_history: as in `features.examples`; LOOKED_AT times as many lines are `kept`.
        """
        near, new = self._near()
        known = merged(as_lines(near).unionByName(new.select("user", *LINE)))
        made = examples(known, cuts, max_history, self.cap, since)
        # What was met before the kept lines. Where these are all, the order of time tells: some may be late ones.
        met = near.where("NOT whole").select("user", "items")
        is_met = F.coalesce(F.array_contains("items", F.col("target")), F.lit(False))
        new_to = F.when(is_met, F.lit(0.0)).otherwise(F.col("new")).cast("float")
        of_near = made.join(met, on="user", how="left").withColumn("new", new_to).drop("items")
        if self.far is None:
            return of_near
        return of_near.unionByName(examples(self.far, cuts, max_history, self._far_cap(), since))

    def _far_cap(self) -> Cap | None:
        """The cap where all lines are looked at: anybody may have more."""
        assert self.far is not None
        return self.cap and replace(self.cap, users=self.far.select("user").distinct(), are_few=False)

    def _near(self) -> tuple[DataFrame, DataFrame]:
        """Histories and new lines of the others."""
        if self.far is None:
            return self.held, self.new
        others = self.far.select("user").distinct()
        held, new = (rows.join(others, on="user", how="left_anti") for rows in (self.held, self.new))
        return held, new


def _advanced(before: DataFrame, new: DataFrame, ids: DataFrame, kept: int, cap: Cap | None) -> DataFrame:
    """The histories as of a later cut, with the lines that were known in between."""
    come = _gathered(newest(new, cap), kept, cap)
    come = come.select("user", *(F.col(name).alias(f"new_{name}") for name in _HELD))
    named = ids.select("user", F.col("user_id").alias("new_id"))
    both = before.join(come, on="user", how="full").join(named, on="user", how="left")
    return both.select("user", F.coalesce("user_id", "new_id").alias("user_id"), *_joined(kept, cap))


_HELD = ("lines", "items", "seen", "whole")


def _gathered(lines: DataFrame, kept: int, cap: Cap | None) -> DataFrame:
    goal = F.when(F.col("is_goal"), F.col("item"))
    return (
        lines.groupBy("user")
        .agg(
            F.sort_array(F.collect_list(F.struct(*LINE))).alias("lines"),
            F.sort_array(F.collect_set("item")).alias("items"),
            F.sort_array(F.collect_set(goal)).alias("seen"),
        )
        .withColumn("whole", F.size("lines") <= min(kept, _most(cap) - 1))
        .withColumn("lines", last(F.col("lines"), kept))
    )


def _most(cap: Cap | None) -> int:
    return _NO_CAP if cap is None else cap.lines


def _joined(kept: int, cap: Cap | None) -> list[Column]:
    """_HELD of both together."""
    most = _most(cap)

    def both(name: str, kind: str) -> Column:
        nothing = F.array().cast(kind)
        return F.concat(F.coalesce(name, nothing), F.coalesce(f"new_{name}", nothing))

    def of_all(name: str) -> Column:
        return F.slice(F.sort_array(F.array_distinct(both(name, _IDS))), 1, most).alias(name)

    lines = F.sort_array(both("lines", _LINES))
    both_whole = F.coalesce("whole", F.lit(True)) & F.coalesce("new_whole", F.lit(True))
    return [
        last(lines, min(kept, most)).alias("lines"),
        of_all("items"),
        of_all("seen"),
        (both_whole & (F.size(lines) <= min(kept, most - 1))).alias("whole"),
    ]


def as_lines(held: DataFrame) -> DataFrame:
    """The lines of histories, one row each: user and LINE."""
    return held.select("user", F.explode("lines").alias("line")).select("user", "line.*")


def queries(
    held: DataFrame, lines: DataFrame, known_items: DataFrame, cut: datetime, until: datetime | None, max_history: int,
    cap: Cap | None = None, *, by_arrival: bool = False,
) -> DataFrame:  # fmt: skip
    """One row per user known before a cut: what they had bought, and what they bought after it.

    Args:
        held: `histories` as of the cut, which kept LOOKED_AT * `max_history` lines.
        lines: from `features.indexed`, those from the cut on.
        known_items: a column `item`: the items of which some known customer had a line before the cut.
        cut: histories end before it.
        until: the held-out period ends before it; None: with the last line.
        max_history: the most recent lines kept.
        cap: how many of a customer's lines after the cut count; None: all.
        by_arrival: whether the lines of a history are in the order in which they were known, as those of
            `features.sequences` are; else in that of their times.

    Returns:
        user, user_id, history, history_age, history_weight (as in `features.examples`, moment = cut), seen
        (array<bigint>, ascending: the items of goals before), truth (array<bigint>, ascending: known items of goals in
        the held-out period; may be empty). Purchases are goals, see `features.purchases`.
    """
    after = (F.col("time") >= F.lit(utc(cut))) & (known_before(until) if until else F.lit(True))
    bought = lines.where(after & F.col("is_goal")).join(known_items, on="item", how="left_semi")
    truths = newest(bought, cap).groupBy("user").agg(F.sort_array(F.collect_set("item")).alias("truth"))
    in_order = F.transform(F.sort_array("lines"), in_time)  # by arrival, the first of LINE
    recent = last(in_order if by_arrival else F.sort_array(in_order), max_history)
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


def not_held(lines: DataFrame, held: DataFrame, since: datetime) -> DataFrame:
    """Lines without those that their users' histories hold: one that is told again, and arrived later, is known
    already.

    Args:
        lines: those that were known from a cut on.
        held: `histories` as of that cut.
        since: the cut; a line from then on is in no history.
    """
    late = lines.where(F.col("time") < F.lit(utc(since)))
    theirs = as_lines(held.join(late.select("user").distinct(), on="user", how="left_semi"))
    other = late.join(theirs.select("user", "item", "time"), on=["user", "item", "time"], how="left_anti")
    return lines.where(F.col("time") >= F.lit(utc(since))).unionByName(other.select(*lines.columns))


def first_lines(held: DataFrame, earlier: DataFrame, new: DataFrame) -> DataFrame:
    """user, item: a row for each user and item of new lines that neither the histories nor earlier lines have."""
    pairs = new.select("user", "item").distinct().join(earlier, on=["user", "item"], how="left_anti")
    both = pairs.join(held.select("user", "items"), on="user", how="left")
    return both.where(~F.coalesce(F.array_contains("items", F.col("item")), F.lit(False))).select("user", "item")


def out_of_reach(held: DataFrame, new: DataFrame, since: datetime) -> DataFrame:
    """`user`: those with a new line that lies before the cut of the histories, which do not hold all that was before.

    Whether such a line was told before, and the history before it, only all lines of the user say.
    """
    late = new.where(F.col("time") < F.lit(utc(since))).select("user").distinct()
    return late.join(held.where("NOT whole").select("user"), on="user", how="left_semi")
