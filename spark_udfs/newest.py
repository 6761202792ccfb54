"""A customer's newest lines, where one has more than count: a guest account or a bot may stand for half of all.

    lines --over--> the customers with more lines than count       --cap_at--> Cap
    lines, Cap --newest--> the lines that count                    --in_short--> and what the others say of their items

What does not count is found by sums and left out before any whole line is sorted or sent to another machine: counts of
lines by customer; of the few with too many, counts by hour, and the order of the lines of the one hour in which the
last line that counts lies, and of later ones. Of L lines L / cap customers at most have too many.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

FEW = 1_000_000  # customers who are sent to every task: some 100 MB
_ORDER = ("time", "tie", "item")
_OF_ALL = ("time", "arrival_time")  # what is told of lines that do not count, too
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Cap:
    """How many of a customer's lines count, the newest ones.

    Attributes:
        lines: so many.
        users: `user` of all who have more, maybe of others too; None: nobody has more.
        are_few: whether there are so few of them that every task may hold them.
    """

    lines: int
    users: DataFrame | None = None
    are_few: bool = False

    def sent(self, rows: DataFrame) -> DataFrame:
        """A row for each of these users at most, sent to every task where they are few."""
        return F.broadcast(rows) if self.are_few else rows


def over(lines: DataFrame, most: int, known: Column | None = None) -> DataFrame:
    """`user` and `lines` of customers with more than `most` lines, from counts alone: rows stay where they are.

    Args:
        lines: with `user`.
        most: so many are not too many.
        known: which lines `lines` counts; None: all.
    """
    is_known = F.lit(True) if known is None else known
    counted = lines.groupBy("user").agg(F.count(F.lit(1)).alias("all"), F.count_if(is_known).alias("lines"))
    return counted.where(F.col("all") > most).select("user", "lines")


def cap_at(users: DataFrame, most: int) -> tuple[Cap, int]:
    """The cap for some users, and how many lines they have beyond it.

    Args:
        users: from `over`; persisted, for they are read again.
        most: lines of a customer that count.
    """
    beyond = F.coalesce(F.sum(F.greatest(F.col("lines") - most, F.lit(0))), F.lit(0))
    count, lines = users.agg(F.count(F.lit(1)), beyond).collect()[0]
    return Cap(most, users.select("user") if count else None, count <= FEW), int(lines)


def newest(lines: DataFrame, cap: Cap | None) -> DataFrame:
    """Each customer's newest lines, as many as count; all where there is no cap.

    Args:
        lines: user, item, time, tie, one a customer, item and time; of nobody but `cap.users` more than count.
        cap: how many count.
    """
    if cap is None or cap.users is None:
        return lines
    theirs = lines.join(cap.sent(cap.users), on="user", how="left_semi")
    return _marked(lines, theirs, cap).where("counts").drop("counts")


def in_short(lines: DataFrame, cap: Cap | None) -> DataFrame:
    """`newest` lines, and a line for all others of a customer and item: of the time of the last of them, known when the
    first was, nothing else.

    Args:
        lines: as in `newest`, with `arrival_time`.
        cap: as in `newest`.

    Returns:
        The columns of the lines, and `counts`: whether it is one that counts.
    """
    if cap is None or cap.users is None:
        return lines.withColumn("counts", F.lit(True))
    theirs = lines.join(cap.sent(cap.users), on="user", how="left_semi")
    counts, own = F.col("counts"), [name for name in lines.columns if name not in ("user", "item", *_OF_ALL)]
    of_each = _marked(theirs, theirs, cap).groupBy("user", "item", F.when(counts, F.col("time")).alias("its_time"))
    short = of_each.agg(
        F.max("time").alias("time"),
        F.min("arrival_time").alias("arrival_time"),
        *(F.max(F.when(counts, F.col(name))).alias(name) for name in own),
        F.max("counts").alias("counts"),
    )
    others = lines.join(cap.sent(cap.users), on="user", how="left_anti").withColumn("counts", F.lit(True))
    return others.unionByName(short.drop("its_time"))


def _marked(lines: DataFrame, theirs: DataFrame, cap: Cap) -> DataFrame:
    both = lines.join(cap.sent(_oldest(theirs, cap)), on="user", how="left")
    counts = F.col("oldest").isNull() | (F.struct(*_ORDER) >= F.col("oldest"))
    return both.withColumn("counts", counts).drop("oldest")


def _oldest(theirs: DataFrame, cap: Cap) -> DataFrame:
    """`user`, `oldest`: the place in the order of the oldest line that counts, of those who have as many as count."""
    theirs = theirs.select("user", *_ORDER).withColumn("hour", F.expr(f"unix_micros(time) div {_HOUR_US}"))
    hours = theirs.groupBy("user", "hour").agg(F.count(F.lit(1)).alias("lines"))
    by_then = F.sum("lines").over(Window.partitionBy("user").orderBy(F.desc("hour")))
    enough = hours.withColumn("by_then", by_then).where(F.col("by_then") >= cap.lines)
    since = enough.groupBy("user").agg(F.max("hour").alias("since"))
    lately = theirs.join(cap.sent(since), on="user", how="inner").where(F.col("hour") >= F.col("since"))
    nth = F.row_number().over(Window.partitionBy("user").orderBy(*(F.desc(name) for name in _ORDER)))
    last = lately.withColumn("nth", nth).where(F.col("nth") == cap.lines)
    return last.select("user", F.struct(*_ORDER).alias("oldest"))
