"""The distribution of a column against those of good batches: whether it has moved, whereto, and what it has lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from jobs.quality.chance import Figure, band, by_category, by_ranges, categories, pooled, psi, psi_noise, ranges
from jobs.quality.findings import Finding, percent, size
from jobs.quality.profile import Column
from spark_udfs.counted_classes import CLASSES, HOURS, NO_NUMBER, NUMBER, PER_DOUBLING

if TYPE_CHECKING:
    from jobs.settings_quality import QualitySettings

ALIKE, ALIKE_WEIGHT = 4.0, 3  # by how much good batches differ more than rows drawn one by one, beforehand
BEYOND, BEYOND_ROWS = 0.25, 10  # of least_share; numbers past all of before
EXPLAINS = 4  # times less is the index where a turn of the clock, or a factor, is undone
FEWER_NARROW, NARROW = 0.9, 4  # of the numbers, in so many classes side by side: their mean is looked at
TURNS = [hours for hours in range(-12, 15) if hours]
STEPS = [step for step in range(-60, 61) if abs(step) > 1]  # of classes of numbers; one may be chance
LEAST_MEAN, SPREAD_OF_MEAN = 0.5, 0.05  # standard deviations
MANY = 2  # times the categories of good batches
LIKELY, ROWS = 30, 10  # rows that a category was to have, and rows of one that is new
Counts = Mapping[int, int]


class _Ruler(NamedTuple):
    """How rows are counted by group, and how many groups there are."""

    counted: Callable[[Counts], list[float]]
    groups: int


def found(name: str, column: Column, good: Sequence[Column], asked: QualitySettings) -> Iterator[Finding]:
    """What is wrong with the distribution of a column's values, among those that have one."""
    counts = [one.bins for one in good if one.bins]
    if not column.bins and len(counts) == len(good):
        yield from _no_categories(name, column, good)
    if not column.bins or not counts:
        return
    past = pooled(counts)
    if column.kind == NUMBER:
        yield from _beyond(name, column, past, asked)
        yield from _mean(name, column, good, past, asked)
    elif column.kind != HOURS:
        yield from _categories(name, column, good, past, asked)
    yield from _moved(name, column, counts, past, asked)


def _moved(
    name: str, column: Column, counts: Sequence[Counts], past: Counts, asked: QualitySettings
) -> Iterator[Finding]:
    """The index to the good batch that is nearest, or to all of them together."""
    ruler = _ruler(column.kind, past)
    alike = _alike(ruler, counts, past)
    excess, index = min(_excess(ruler, column.bins, one, alike, asked) for one in (past, *counts))
    if index < asked.least_shift:
        return
    words = _what_undoes_it(column, past, ruler, alike, asked)
    if words or excess > 0:
        yield Finding("shift", name, f"stability index {index:.3f}{words}", f"below {asked.least_shift:g}")


def _ruler(kind: str, past: Counts) -> _Ruler:
    if kind in (NUMBER, HOURS):
        edges = ranges(past)
        return _Ruler(partial(by_ranges, edges=edges), len(edges) + 1)
    named = categories(past)
    return _Ruler(partial(by_category, named=named), len(named) + 1)


def _excess(ruler: _Ruler, one: Counts, other: Counts, alike: float, asked: QualitySettings) -> tuple[float, float]:
    """By how much the index is more than chance makes it, and the index."""
    a, b = ruler.counted(one), ruler.counted(other)
    chance = psi_noise(ruler.groups, sum(a), sum(b))
    index = psi(a, b)
    return index - alike * (chance.value + asked.sigmas * chance.noise), index


def _alike(ruler: _Ruler, counts: Sequence[Counts], past: Counts) -> float:
    """How many times further good batches lie from all of them than rows drawn one by one would."""
    times = []
    for one in counts if len(counts) > 1 else ():
        a, b = ruler.counted(one), ruler.counted(past)
        chance = psi_noise(ruler.groups, sum(a), sum(b))
        times.append(psi(a, b) / chance.value if chance.value else 0.0)
    return max(1.0, (ALIKE * ALIKE_WEIGHT + sum(times)) / (ALIKE_WEIGHT + len(times)))


def _what_undoes_it(column: Column, past: Counts, ruler: _Ruler, alike: float, asked: QualitySettings) -> str:
    """A turn of the clock, or a factor, after which the distribution is as it was; "": none, or chance may do it."""
    if column.kind == HOURS:
        turned = {hours: _turned(column.bins, hours) for hours in TURNS}
        ruler = _Ruler(partial(by_category, named=range(24)), 24)
    elif column.kind == NUMBER:
        turned = {step: _times(column.bins, step) for step in STEPS}
    else:
        return ""
    before = ruler.counted(past)
    index, rows = psi(ruler.counted(column.bins), before), sum(column.bins.values())
    left, _, best = min((psi(ruler.counted(bins), before), abs(turn), turn) for turn, bins in turned.items())
    # Rows times the index are a chi-square, of one degree for a turn; the best of many is larger by what these may be.
    chance = (asked.sigmas**2 + 2 * math.log(len(turned))) * alike * (1 / rows + 1 / max(1.0, sum(before)))
    if index - left < chance or left * EXPLAINS > index:
        return ""
    if column.kind == HOURS:
        return f", as if times were about {abs(best)} hours {'later' if best > 0 else 'earlier'}"
    times = 2 ** ((_mean_class(column.bins) - _mean_class(past)) / PER_DOUBLING)
    return f", as if each were about {float(f'{times:.2g}'):g} times itself"


def _mean_class(bins: Counts) -> float:
    """Of numbers that are none of the classes of their own: of their size, a geometric mean in classes."""
    sizes = [(abs(number), count) for number, count in bins.items() if number not in (0, NO_NUMBER)]
    return sum(size * count for size, count in sizes) / max(1, sum(count for _, count in sizes))


def _turned(hours: Counts, by: int) -> dict[int, int]:
    """Hours as they would be without a turn of the clock."""
    return {(hour - by) % 24: count for hour, count in hours.items()}


def _times(bins: Counts, step: int) -> dict[int, int]:
    """Numbers as they would be without a factor."""
    moved: dict[int, int] = {}
    for number, count in bins.items():
        sign = (number > 0) - (number < 0)
        at = number if number in (0, NO_NUMBER) else sign * min(CLASSES, max(1, abs(number) - step))
        moved[at] = moved.get(at, 0) + count
    return moved


def _beyond(name: str, column: Column, past: Counts, asked: QualitySettings) -> Iterator[Finding]:
    """Numbers smaller or larger than all of before."""
    finite = [number for number in past if number != NO_NUMBER]
    if not finite:
        return
    low, high = min(finite), max(finite)
    outside = {number: count for number, count in column.bins.items() if number < low - 1 or number > high + 1}
    if NO_NUMBER in past:  # then their share is looked at
        outside.pop(NO_NUMBER, None)
    rows = sum(outside.values())
    if rows >= max(BEYOND_ROWS, BEYOND * asked.least_share * column.held):
        ends = " to ".join(dict.fromkeys((size(min(outside), upper=False), size(max(outside), upper=True))))
        expected = f"{size(low, upper=False)} to {size(high, upper=True)}"
        yield Finding("range", name, f"{percent(rows / column.held)} lie outside: {ends}", expected)


def _mean(name: str, column: Column, good: Sequence[Column], past: Counts, asked: QualitySettings) -> Iterator[Finding]:
    """Where nearly all numbers are of a few classes, these are too coarse, and the mean is looked at."""
    held = [one for one in good if one.has_mean]
    spread = sorted(one.sd for one in held)[len(held) // 2] if held and column.has_mean else 0.0
    if spread <= 0 or not _is_narrow(past):
        return
    figures = [Figure(one.mean, one.sd / one.held**0.5) for one in held]
    noise = max(column.sd, spread) / column.held**0.5
    middle, width = band(figures, noise, SPREAD_OF_MEAN * spread, asked.sigmas)
    off = max(width, LEAST_MEAN * spread)
    if min(abs(column.mean - one.value) for one in [*figures, Figure(middle, 0)]) > off:
        yield Finding("mean", name, f"{column.mean:.4g} on average", f"{middle - off:.4g} to {middle + off:.4g}")


def _is_narrow(past: Counts) -> bool:
    total = sum(past.values())
    return any(sum(past.get(first + step, 0) for step in range(NARROW)) >= FEWER_NARROW * total for first in past)


def _categories(
    name: str, column: Column, good: Sequence[Column], past: Counts, asked: QualitySettings
) -> Iterator[Finding]:
    """Categories that every good batch had and this one has not, and those that none had."""
    words = {number: word for one in (*good, column) for number, word in one.words.items()}
    total, counts = sum(past.values()), [one.bins for one in good if one.bins]
    gone = {
        number: past[number] / total
        for number in past
        if past[number] >= asked.least_share * total and past[number] / total * column.held >= LIKELY
        if not column.bins.get(number) and all(one.get(number) for one in counts)
    }
    new = {
        number: count / column.held
        for number, count in column.bins.items()
        if number not in past and count >= max(ROWS, asked.least_share * column.held)
    }
    if gone:
        yield Finding("category", name, f"no row has {_words(gone, words)}", _listed(gone, words))
    if new:
        yield Finding("category", name, f"new: {_listed(new, words)}", "none that no good batch had")


def _no_categories(name: str, column: Column, good: Sequence[Column]) -> Iterator[Finding]:
    """Many texts where there were few categories; of more rows that many more are none."""
    most = max(one.distinct * max(1.0, column.held / one.held) for one in good)
    if column.distinct > MANY * most:
        yield Finding("category", name, f"about {column.distinct:,.0f} different", f"at most {most:,.0f}")


def _words(numbers: Iterable[int], words: Mapping[int, str]) -> str:
    return ", ".join(f"'{words[number]}'" if number in words else "one whose name is not kept" for number in numbers)


def _listed(shares: Mapping[int, float], words: Mapping[int, str]) -> str:
    return ", ".join(f"{_words([number], words)} ({percent(share)})" for number, share in shares.items())
