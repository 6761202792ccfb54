"""Periods of a panel: days or weeks, their numbers, and the form of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_udfs.features import utc
from spark_udfs.moments import DAY_US


@dataclass(frozen=True)
class Period:
    """What goes with a length of period.

    Attributes:
        days: of a period.
        first: the day, counted from 1970-01-01, on which number 0 begins.
        season: periods after which sales are alike.
        naive: the lag whose mean error MASE divides by.
        mean: periods that the mean to beat is of.
        median: periods that the median to beat is of.
        level: newest periods that say how much all series sell together by now.
        windows: periods whose means are statistics of a series.
        weekdays: whether the weekday is part of the calendar.
    """

    days: int
    first: int
    season: int
    naive: int
    mean: int
    median: int
    level: int
    windows: tuple[int, int, int]
    weekdays: bool


PERIODS = {
    "day": Period(1, 0, season=7, naive=7, mean=56, median=28, level=14, windows=(7, 14, 28), weekdays=True),
    "week": Period(7, -3, season=52, naive=1, mean=26, median=13, level=4, windows=(4, 8, 13), weekdays=False),
}


@dataclass(frozen=True)
class Form:
    """The form of a panel's rows.

    Attributes:
        period: of PERIODS.
        horizon: periods asked for.
        lags: periods before the origin that a row carries.
        origins: newest origins of a series that are examples.
        yearly: whether the place in the year is part of the calendar.
    """

    period: str
    horizon: int
    lags: int
    origins: int = 104
    yearly: bool = False

    @property
    def of(self) -> Period:
        return PERIODS[self.period]

    @property
    def calendar(self) -> int:
        """How many numbers the calendar has: the year's sine and cosine, and the weekday."""
        return 2 + 7 * self.of.weekdays

    def number(self, moment: datetime) -> int:
        """The period that a moment lies in."""
        return int(utc(moment).timestamp() // 86_400 - self.of.first) // self.of.days

    def holds(self, time: Column) -> Column:
        """The period that a time lies in."""
        day = F.floor(F.unix_micros(time) / F.lit(DAY_US))
        return F.floor((day - F.lit(self.of.first)) / F.lit(self.of.days)).cast("bigint")

    def start(self, number: Column) -> Column:
        """When a period begins."""
        day = number * F.lit(self.of.days) + F.lit(self.of.first)
        return F.timestamp_seconds(day * F.lit(86_400))
