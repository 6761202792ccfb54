"""Customers as of moments: the days on which they ordered and what they spent, and what they did in the days after.

    lines --asked--> a row for each moment and customer who had ordered by then: features, and what came of it

As of a moment counts a line that happened earlier and had arrived; what comes of it is what happens from the moment on
and within the horizon, as far as it has arrived at its end. So no row depends on what is known later.

Lines are added up by customer and day before they are told to moments: what is shuffled are days on which somebody
ordered, times the moments, and nothing is held per customer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from spark_udfs.features import utc
from spark_udfs.moments import DAY_US
from spark_udfs.order_day_names import FEATURES, OUTCOMES, WINDOWS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

EXACT = "decimal(38,6)"  # sums of doubles depend on their order
MONTH = 30  # days
MONDAY = 3  # day 0, 1970-01-01, is a Thursday: so many days after a Monday


@dataclass(frozen=True)
class Ahead:
    """Moments as of which customers are asked about, and how far they look ahead.

    Attributes:
        moments: ascending.
        horizon_days: after each.
        over: what ends later than this is not known.
    """

    moments: tuple[datetime, ...]
    horizon_days: float
    over: datetime

    @property
    def starts(self) -> list[int]:
        """The moments, in microseconds."""
        return [micros(moment) for moment in self.moments]

    @property
    def horizon(self) -> int:
        """In microseconds."""
        return round(self.horizon_days * DAY_US)


def micros(time: datetime) -> int:
    """Since 1970."""
    return round(utc(time).timestamp() * 1e6)


def asked(lines: DataFrame, ahead: Ahead) -> DataFrame:
    """A row for each moment and customer who had ordered before it.

    Args:
        lines: user_id, item_id, time, arrival_time, is_return, value (double: what was paid, or given back).
        ahead: the moments.

    Returns:
        user_id, time (the moment), FEATURES (float), and OUTCOMES (float; null where the horizon is not over).

        recency_days, tenure_days: since the last and the first day with an order; order_days: how many there were, in
        all and in WINDOWS; order_months: stretches of thirty days that hold one; items: different ones; value: what was
        bought, in all and in WINDOWS; value_mean, _max, _last: of a day with an order; returned: what was given back;
        lines_mean: of such a day; gap_mean, _max, _last: days from one to the next (tenure_days, where there is one
        alone); overdue: recency_days over gap_mean; weekday_N: their share that is a Monday (0), and so on.

        buys: 1 where there was an order; next_spend: what was bought less what was given back, at least 0;
        next_order_days: the days with an order.
    """
    parts, key = _parts(lines, ahead), ["user_id", "moment"]
    known = _features(parts, ahead).join(_items(lines, ahead), on=key, how="left")
    rows = known.join(_outcomes(parts), on=key, how="left")
    start = _at(ahead)
    is_over = start + ahead.horizon <= micros(ahead.over)
    days = F.coalesce("next_order_days", F.lit(0))
    came = {"buys": days > 0, "next_spend": F.coalesce("next_spend", F.lit(0)), "next_order_days": days}
    return rows.select(
        "user_id",
        F.timestamp_micros(start).alias("time"),
        *(F.col(name).cast("float").alias(name) for name in FEATURES),
        *(F.when(is_over, came[name].cast("float")).alias(name) for name in OUTCOMES),
    )


def _parts(lines: DataFrame, ahead: Ahead) -> DataFrame:
    """Lines added up by customer, day, the first moment as of which they were known, and the first and the last moment
    of which they are an outcome (opens, closes; none where closes is less)."""
    time, known = F.unix_micros("time"), _known()
    starts, ends = _array(ahead.starts), _array([start + ahead.horizon for start in ahead.starts])
    bought, value = ~F.col("is_return"), F.col("value").cast(EXACT)
    keys = {
        "day": ((time - F.pmod(time, F.lit(DAY_US))) / DAY_US).cast("bigint"),
        "first": _first(ahead),
        "opens": F.size(F.filter(ends, lambda end: end < known)),
        "closes": F.size(F.filter(starts, lambda start: start <= time)) - 1,
    }
    return (
        lines.withColumns(keys)
        .groupBy("user_id", *keys)
        .agg(
            F.coalesce(F.sum(F.when(bought, value)), F.lit(0)).alias("bought"),
            F.coalesce(F.sum(F.when(~bought, value)), F.lit(0)).alias("returned"),
            F.count_if(bought).alias("lines"),
        )
    )


def _known() -> Column:
    """From when on a line is known, in microseconds: it happened before, and had arrived."""
    return F.greatest(F.unix_micros("time") + 1, F.unix_micros("arrival_time"))


def _first(ahead: Ahead) -> Column:
    """The place of the first moment as of which a line is known; past the last one, where it is none."""
    known = _known()
    return F.size(F.filter(_array(ahead.starts), lambda start: start < known))


def _items(lines: DataFrame, ahead: Ahead) -> DataFrame:
    """user_id, moment, items: different ones that were bought."""
    last = len(ahead.moments) - 1
    met = lines.where(~F.col("is_return")).groupBy("user_id", "item_id").agg(F.min(_first(ahead)).alias("first"))
    since = met.where(F.col("first") <= last).groupBy("user_id", "first").agg(F.count(F.lit(1)).alias("items"))
    told = since.withColumn("moment", F.explode(F.sequence("first", F.lit(last))))
    return told.groupBy("user_id", "moment").agg(F.sum("items").alias("items"))


def _features(parts: DataFrame, ahead: Ahead) -> DataFrame:
    """user_id, moment (its place) and FEATURES but items."""
    last = len(ahead.moments) - 1
    known = parts.where(F.col("first") <= last).withColumn("moment", F.explode(F.sequence("first", F.lit(last))))
    sums = (F.sum(name).alias(name) for name in ("bought", "returned", "lines"))
    by_day = known.groupBy("user_id", "moment", "day").agg(*sums)
    ordered = F.col("lines") > 0
    in_order = Window.partitionBy("user_id", "moment", ordered).orderBy("day")
    age = (_at(ahead) - F.col("day") * DAY_US) / DAY_US
    before = F.lag("day").over(in_order)
    told = {
        "gap": F.col("day") - before,
        "opens_month": before.isNull() | (_month(before) < _month(F.col("day"))),
        "age": age,
        "on": F.when(ordered, F.col("day")),
    }
    rows = by_day.withColumns(told)
    of_customer = rows.groupBy("user_id", "moment").agg(
        F.min(F.when(ordered, F.col("age"))).alias("recency_days"),
        F.max(F.when(ordered, F.col("age"))).alias("tenure_days"),
        F.count("on").alias("order_days"),
        F.count_if(ordered & F.col("opens_month")).alias("order_months"),
        *(F.count_if(ordered & (F.col("age") <= days)).alias(f"order_days_{days}d") for days in WINDOWS),
        F.sum("bought").alias("value"),
        *(F.sum(F.when(F.col("age") <= days, F.col("bought"))).alias(f"value_{days}d") for days in WINDOWS),
        F.max("bought").alias("value_max"),
        F.max_by("bought", "on").alias("value_last"),
        F.sum("returned").alias("returned"),
        F.sum("lines").alias("lines"),
        F.avg(F.when(ordered, F.col("gap"))).alias("gap_mean"),
        F.max(F.when(ordered, F.col("gap"))).alias("gap_max"),
        F.max_by("gap", "on").alias("gap_last"),
        *(F.count_if(ordered & (_weekday() == day)).alias(f"weekday_{day}") for day in range(7)),
    )
    shares = {f"weekday_{day}": F.col(f"weekday_{day}") / F.col("order_days") for day in range(7)}
    means = {"value_mean": F.col("value") / F.col("order_days"), "lines_mean": F.col("lines") / F.col("order_days")}
    gaps = {f"gap_{of}": F.coalesce(f"gap_{of}", "tenure_days") for of in ("mean", "max", "last")}
    none = {f"value_{days}d": F.coalesce(f"value_{days}d", F.lit(0)) for days in WINDOWS}
    ordering = of_customer.where("order_days > 0").withColumns(shares | means | gaps | none)
    # A customer of today alone has a tenure of hours at most: a ratio of two such says nothing.
    overdue = F.col("recency_days") / F.greatest("gap_mean", F.lit(1.0))
    return ordering.withColumn("overdue", overdue).select(
        "user_id", "moment", *(name for name in FEATURES if name != "items")
    )


def _outcomes(parts: DataFrame) -> DataFrame:
    """user_id, moment, next_spend and next_order_days, of who has a line within the horizon."""
    inside = F.explode(F.sequence("opens", "closes"))
    told = parts.where("opens <= closes").withColumn("moment", inside)
    return told.groupBy("user_id", "moment").agg(
        F.greatest(F.sum("bought") - F.sum("returned"), F.lit(0)).alias("next_spend"),
        F.count_distinct(F.when(F.col("lines") > 0, F.col("day"))).alias("next_order_days"),
    )


def _at(ahead: Ahead) -> Column:
    """The moment, in microseconds, by its place."""
    return F.get(_array(ahead.starts), F.col("moment"))


def _month(day: Column) -> Column:
    return F.floor(day / MONTH)


def _weekday() -> Column:
    return F.pmod(F.col("day") + MONDAY, F.lit(7))


def _array(values: list[int]) -> Column:
    return F.array(*(F.lit(value).cast("bigint") for value in values))
