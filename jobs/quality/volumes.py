"""How many rows a batch has on each day, whether a day is missing, and whether the batch is as new as others were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from jobs.quality.chance import Figure, band, pooled
from jobs.quality.compared import Good, compared
from jobs.quality.findings import Finding, day, moment
from jobs.quality.profile import DAY_US
from spark_udfs.order_lines import ERASED

if TYPE_CHECKING:
    from jobs.quality.profile import Profile
    from jobs.settings_quality import QualitySettings

WEEK, WEEKS = 7, 8  # of the past, that a day is held against
WEEKDAY = 2  # days of the same name that tell what such a day has
SPREAD_OF_DAY, SPREAD_OF_ANY = 0.12, 0.25  # standard deviations of the logarithm of a day's rows, beforehand
FULL = 0.9  # of a day's rows in one batch: the batch has the whole day
ENOUGH = 3  # batches that say whether the last day of a batch is a whole one
LIKELY = 20  # rows that a day must be expected to have, that none of them is a finding
SAME_HOUR = DAY_US // 12  # between the ends of batches of different days that are alike
NAMED = 5  # days that are named
SHRUNK, GROWN = 0.01, 0.2  # shares by which rows of before may be fewer, or more, of a table that is read again
LATER = 1.5  # times the usual time between batches, by which the newest row may be older than ever


def found(batch: Profile, good: Sequence[Good], asked: QualitySettings, since_us: int | None) -> Iterator[Finding]:
    """Days with too many rows, too few, or none; where batches are no days, the batch's own rows."""
    yield from _before(batch, good)
    held = [each.profile for each in good]
    past = pooled([profile.days for profile in held])
    if batch.newest_us is None or not past:
        yield from _whole(batch, good, asked)
    elif not batch.days:  # nothing is later than before: days say nothing
        return
    elif _batches_a_day(held, past) > 1:
        yield from _rate(batch, good, asked)
    else:
        yield from _of_days(batch, held, past, asked, since_us)


def late(batch: Profile, good: Sequence[Good], now_us: int) -> Iterator[Finding]:
    """Whether the newest row is older than usual, or no newer than what came before."""
    newest = [each.profile.newest_us for each in good if each.profile.newest_us is not None]
    if batch.newest_us is None or not newest:
        return
    is_always_newer = len(newest) >= ENOUGH and all(b > a for a, b in pairwise(newest))
    if is_always_newer and batch.newest_us <= newest[-1]:
        expected = f"one later than {moment(newest[-1])}, as each batch had"
        yield Finding("fresh", "", f"the newest row is of {moment(batch.newest_us)}", expected)
    steps = [b - a for a, b in pairwise(newest)]
    ages = [each.judged_us - each.profile.newest_us for each in good if each.profile.newest_us is not None]
    most = max(ages) + LATER * max([DAY_US, *([median(steps)] if steps else [])])
    if now_us - batch.newest_us > most:
        age = (now_us - batch.newest_us) / DAY_US
        expected = f"at most {most / DAY_US:.1f} days"
        yield Finding("fresh", "", f"the newest row is {age:.1f} days old ({moment(batch.newest_us)})", expected)


def _before(batch: Profile, good: Sequence[Good]) -> Iterator[Finding]:
    """Of what is read whole, as the last good one was: whether the rows that came before are still there, once."""
    last = good[-1].profile
    if not (batch.is_whole and last.is_whole and batch.newest_us is not None):
        return
    before, now = last.all_rows + last.outcomes.get(ERASED, 0), batch.earlier
    now += batch.outcomes.get(ERASED, 0) if now else 0
    if now and before and not 1 - SHRUNK <= now / before <= 1 + GROWN:
        yield Finding("rows", "", f"{now:,} rows are of the time that came before", f"about {before:,}")


def _batches_a_day(held: Sequence[Profile], past: dict[int, int]) -> float:
    """By how many batches a day comes, half of the days at least."""
    return median(
        sum(profile.days.get(number, 0) > (1 - FULL) * rows for profile in held) for number, rows in past.items()
    )


def _of_days(
    batch: Profile, held: Sequence[Profile], past: dict[int, int], asked: QualitySettings, since_us: int | None
) -> Iterator[Finding]:
    since = min(batch.days) - 1 if since_us is None else since_us // DAY_US
    first, last = max(since, *past) + 1, max(batch.days)
    if not _has_whole_last_day(held, past):
        first, last = first - 1, last - 1
    missing = [number for number in range(first, last + 1) if not batch.days.get(number) and _is_due(number, past)]
    if missing:
        named = ", ".join(day(number) for number in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        least = min(round(_usual(number, past)) for number in missing)
        yield Finding("day", "", f"no row is of {named}{more}", f"about {least:,} rows a day")
    for number in sorted(batch.days):
        if number <= last:
            yield from _of_day(number, batch.days[number] + past.get(number, 0), past, asked, is_new=number >= first)


def _of_day(number: int, rows: int, past: dict[int, int], asked: QualitySettings, *, is_new: bool) -> Iterator[Finding]:
    """A day's rows with those that came before; of a day that came before no more is said than that it has too many."""
    like, is_known = _alike(number, past)
    if not like:
        return
    noise = 1 / math.sqrt(max(1, rows))
    good = [Figure(math.log(count), 1 / math.sqrt(count)) for count in like]
    middle, width = band(good, noise, SPREAD_OF_DAY if is_known else SPREAD_OF_ANY, asked.sigmas)
    off = max(width, math.log(asked.least_factor))
    more = math.log(rows) - middle
    if (abs(more) if is_new else more) > off:
        low, high = (round(math.exp(middle + sign * off)) for sign in (-1, 1))
        yield Finding("rows", "", f"{rows:,} rows are of {day(number)}", f"{low:,} to {high:,}")


def _alike(number: int, past: dict[int, int]) -> tuple[list[int], bool]:
    """The rows of the last days of that name; of all days where these are too few. Days before that one alone."""
    named = [past[at] for at in range(number - WEEK * WEEKS, number, WEEK) if past.get(at)]
    if len(named) >= WEEKDAY:
        return named, True
    return [past[at] for at in range(number - WEEK * WEEKS, number) if past.get(at)], False


def _usual(number: int, past: dict[int, int]) -> float:
    like, _ = _alike(number, past)
    return median(like) if like else 0.0


def _is_due(number: int, past: dict[int, int]) -> bool:
    """Whether a day should have rows: each such day had, since the first one that is known."""
    since = max(min(past), number - WEEK * WEEKS)
    named = [past.get(at, 0) for at in range(number - WEEK, since - 1, -WEEK)]
    if len(named) < WEEKDAY and (number + 3) % WEEK >= 5:  # Saturday, Sunday: many are closed then
        return False
    return all(named) and _usual(number, past) >= LIKELY


def _has_whole_last_day(held: Sequence[Profile], past: dict[int, int]) -> bool:
    """Whether batches end with a day: the last day of most had no more rows in the next batch."""
    ends = [profile.days[max(profile.days)] / past[max(profile.days)] for profile in held[:-1] if profile.days]
    return len(ends) < ENOUGH - 1 or median(ends) >= FULL


def _rate(batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """Rows by the time since the batch before, where several come on a day: among batches that end at that hour."""
    ends = [(each.profile.rows, at) for each in good if (at := each.profile.newest_us) is not None]
    rates = [
        (now, Figure(math.log(rows * DAY_US / (now - before)), 0.0))
        for (_, before), (rows, now) in pairwise(ends)
        if now > before and rows
    ]
    end = batch.newest_us
    if len(rates) < WEEK or end is None or (since := end - ends[-1][1]) <= 0:
        return
    alike = [rate for now, rate in rates if min((now - end) % DAY_US, (end - now) % DAY_US) < SAME_HOUR]
    held = alike if len(alike) >= ENOUGH else [rate for _, rate in rates]
    rate = math.log(batch.rows * DAY_US / since)
    middle, width = band(held, 1 / math.sqrt(batch.rows), SPREAD_OF_ANY, asked.sigmas)
    off = max(width, math.log(asked.least_factor))
    if abs(rate - middle) > off:
        low, high = (round(math.exp(middle + sign * off) * since / DAY_US) for sign in (-1, 1))
        yield Finding("rows", "", f"{batch.rows:,} rows in {since / DAY_US:.2f} days", f"{low:,} to {high:,}")


def _whole(batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """Rows of tables without a time."""
    result = compared(_log_rows, batch, good, SPREAD_OF_DAY, asked.sigmas)
    off = max(result.expected.width, math.log(asked.least_factor))
    if result.distance > off:
        low, high = (round(math.exp(result.expected.middle + sign * off)) for sign in (-1, 1))
        yield Finding("rows", "", f"{batch.all_rows:,} rows", f"{low:,} to {high:,}")


def _log_rows(profile: Profile) -> Figure:
    rows = max(1, profile.all_rows)
    return Figure(math.log(rows), 1 / math.sqrt(rows))
