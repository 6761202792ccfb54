"""Which ranges of time a batch of events lies in, as a condition by which Delta passes over other files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

MOST_RANGES = 50  # days that lie farther apart than that many ranges tell: one range from the first to the last
DAY = timedelta(days=1)


def within(days: Iterable[date], column: str = "time") -> str | None:
    """A condition of Spark's SQL, in UTC, that the times of these days meet; None: there are no days."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if ranges and day - ranges[-1][1] <= DAY:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    if len(ranges) > MOST_RANGES:
        ranges = [(ranges[0][0], ranges[-1][1])]
    return " OR ".join(f"({_from(first, column)}{_until(last, column)})" for first, last in ranges) or None


def _from(day: date, column: str) -> str:
    return f"{column} >= TIMESTAMP '{day} 00:00:00Z'"


def _until(day: date, column: str) -> str:
    """Before the day after; the last day that Python knows has none."""
    return "" if day == date.max else f" AND {column} < TIMESTAMP '{day + DAY} 00:00:00Z'"
