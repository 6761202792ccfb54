"""A column of a batch against that of good batches: nulls, flags, lengths, how many texts differ, and the label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from jobs.quality import shifts
from jobs.quality.chance import Figure
from jobs.quality.compared import OF_SHARE, Good, compared, of_part, told_of_part
from jobs.quality.findings import Finding, percent
from jobs.quality.profile import ONE, Column
from spark_udfs.counted_classes import NAMED, NO_NUMBER, NUMBER, TEXT

if TYPE_CHECKING:
    from jobs.quality.profile import Profile
    from jobs.settings_quality import QualitySettings

T = TypeVar("T")
OF_FLAG = 0.1  # as a part of a share, how far it moves from one good batch to the next
LIKELY = 15  # rows that were to be 1, or 0, that none of them is a finding
LEAST_ODDS = 0.5  # of the logarithm of a flag's odds: .02 to .033
LEAST_LENGTH, LEAST_SD = 0.3, 0.5  # characters, and standard deviations, that texts are longer by
LEAST_DISTINCT, DISTINCT_ROWS = math.log(1.5), 2.0  # of the logarithm; among batches with so many times the rows
DISTINCT_NOISE = 0.03
TELLS, TELLS_MORE = 0.5, 0.3  # of the label's variance, and by how much more than before
LABELLED = 15  # rows with a label, of a flag those that fewer have
SPREAD_OF_LENGTH = 0.05  # standard deviations of a text's length, from one good batch to the next


def found(batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """What is wrong with each column that good batches have too."""
    for name, column in batch.columns.items():
        known = [each for each in good if (one := each.profile.columns.get(name)) and one.kind == column.kind]
        if known:
            yield from _of_column(name, batch, known, asked)


def _of_column(name: str, batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    column = batch.columns[name]
    result = of_part(_of(name, lambda one: (one.nulls, one.rows)), batch, good, OF_SHARE, asked.sigmas)
    yield from told_of_part("nulls", name, "are null", result, asked)
    held = [each for each in good if each.profile.columns[name].held]
    if not column.held or not held:
        return
    if column.is_flag and all(each.profile.columns[name].is_flag for each in held):
        yield from _flag(name, batch, held, asked)
    else:
        yield from shifts.found(name, column, [each.profile.columns[name] for each in held], asked)
    if column.kind == NUMBER and any(NO_NUMBER in each.profile.columns[name].bins for each in held):
        result = of_part(
            _of(name, lambda one: (one.bins.get(NO_NUMBER, 0), one.held)), batch, held, OF_SHARE, asked.sigmas
        )
        yield from told_of_part("range", name, "have no finite number", result, asked)
    if column.kind in (TEXT, NAMED):
        yield from _lengths(name, batch, held, asked)
        yield from _distinct(name, batch, held, asked)
    yield from _tells(name, batch, held)


def _of(name: str, figure: Callable[[Column], T]) -> Callable[[Profile], T]:
    return lambda profile: figure(profile.columns[name])


def _flag(name: str, batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """How often a flag, a label for one, is 1."""
    result = of_part(_of(name, lambda one: (one.bins.get(ONE, 0), one.held)), batch, good, OF_FLAG, asked.sigmas)
    if result is None or result.distance < asked.least_share / 4:
        return
    (middle, width), held = result.expected, batch.columns[name].held
    is_gone = (result.value == 0 and middle * held > LIKELY) or (result.value == 1 and (1 - middle) * held > LIKELY)
    if not (result.is_apart or is_gone):
        return
    if abs(_odds(result.value, held) - _odds(middle, held)) > LEAST_ODDS:
        yield Finding(
            "flag", name, f"{percent(result.value)} are 1", f"{percent(middle)}, at most {percent(width)} off"
        )


def _odds(value: float, rows: int) -> float:
    """The logarithm of a share's odds; of none of the rows as of half a row."""
    held = min(max(value, 0.5 / rows), 1 - 0.5 / rows)
    return math.log(held / (1 - held))


def _lengths(name: str, batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    good = [each for each in good if each.profile.columns[name].has_mean]
    if not good or not batch.columns[name].has_mean:
        return
    spread = max(each.profile.columns[name].sd for each in good)
    figure = _of(name, lambda one: Figure(one.mean, max(one.sd, 0.1) / math.sqrt(one.held)))
    result = compared(figure, batch, good, SPREAD_OF_LENGTH * max(spread, 0.1), asked.sigmas)
    if result.is_apart and result.distance > max(LEAST_LENGTH, LEAST_SD * spread):
        found = f"{result.value:.2f} characters on average"
        yield Finding("length", name, found, f"{result.expected.middle:.2f}")


def _distinct(name: str, batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """How many texts differ: of more rows no fewer do, and of twice the rows at most twice as many."""
    column = batch.columns[name]
    spans = [span for each in good if (span := _span(each.profile.columns[name], column.held)) is not None]
    if not spans:
        return
    value = math.log(max(1.0, column.distinct))
    off, low, high = min((max(low - value, value - high), low, high) for low, high in spans)
    noise = DISTINCT_NOISE + 2 / math.sqrt(math.exp(low))
    if off > max(LEAST_DISTINCT, asked.sigmas * noise):
        expected = f"{math.exp(low):,.0f} to {math.exp(high):,.0f}"
        yield Finding("distinct", name, f"about {column.distinct:,.0f} different texts", expected)


def _span(column: Column, rows: int) -> tuple[float, float] | None:
    """The logarithms of how many texts of so many rows may differ; None where a good batch had far fewer or more."""
    more = rows / column.held
    if not 1 / DISTINCT_ROWS <= more <= DISTINCT_ROWS:
        return None
    held = math.log(max(1.0, column.distinct))
    return held + min(0.0, math.log(more)), held + max(0.0, math.log(more))


def _tells(name: str, batch: Profile, good: Sequence[Good]) -> Iterator[Finding]:
    """Whether a column has come to say the label."""
    label = batch.columns.get(batch.label or "")
    if label is None or min(label.held, _fewer(label)) < LABELLED:
        return
    before = [one for each in good if (one := each.profile.columns[name].tells) is not None]
    now = batch.columns[name].tells
    if now is not None and before and now > max(TELLS, max(before) + TELLS_MORE):
        found = f"it explains {percent(now)} of how '{batch.label}' varies"
        yield Finding("leak", name, found, f"{percent(max(before))} at most")


def _fewer(label: Column) -> int:
    """Of a flag the rows that have what fewer have."""
    ones = label.bins.get(ONE, 0)
    return min(ones, label.held - ones) if label.is_flag else label.held
