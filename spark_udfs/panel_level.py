"""What all series of a panel do together: how much they sold in each period, and how that went on after each origin.

Series that share customers rise and fall together: at holidays, with a campaign, when a shop closes a branch. Looked at
one by one, each of their histories holds that movement once more, and a model that meets one drop in a thousand series
takes it for a thousand drops. Here it is counted once for each origin:

    level    what was sold in each of the lags, by all series that were there, over what these sell on the average
    shock    how the periods after the origin went beyond that, the log, less what is usual for such an origin

What is usual is the median over origins (of daily sales over those of one weekday), so a growth that goes on and the
week's ups and downs stay, and a break that comes once goes. Of a panel of few series, or of few pieces, most of what
all did is chance or one series' own: both are drawn towards none, by 1 / (1 + FEW (1 / series + 1 / pieces)).

The sums are one pass over the series, in which each is spread out in an executor; what comes to the driver is origins x
(4 lags + horizon) numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.arrow import ids_of
from spark_udfs.periods import Form

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEW = 10.0
LEAST = 0.1  # of a level: what is sold on a day when the shop is closed says little of any series
PRIOR = 0.1  # periods, in each of which one piece was sold, that a series' average begins with
DECIMALS = 6  # of what is summed up: the order of sums decides nothing


@dataclass(frozen=True)
class Levels:
    """As of each origin, what all series together did before it and, as far as it is known, after it.

    Attributes:
        origins: (origins,) ascending.
        past: (origins, lags) the level in each of the lags, newest first; 1 on their average.
        now: (origins,) the level of late.
        shock: (origins, horizon) the log of what came beyond the usual; 0 where nothing is known of a step.
    """

    origins: Ints
    past: Doubles
    now: Doubles
    shock: Doubles

    def at(self, origins: Ints) -> Levels:
        """Those of some of the origins."""
        place = np.searchsorted(self.origins, origins)
        return Levels(origins, self.past[place], self.now[place], self.shock[place])


def levels(sums: DataFrame, form: Form, origins: Ints, stops: Sequence[int]) -> list[Levels]:
    """What all series did, as of each origin.

    Args:
        sums: from `spark_udfs.panel.quantities`.
        form: of the panel.
        origins: ascending.
        stops: what is sold from this period on counts for no shock; one answer for each.
    """
    until = max(*stops, int(origins[-1]))

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros((len(origins), _width(form)))
        for _, first, dense in spread_out(batches, until):
            there = origins > first
            total[there] += _parts(dense, origins[there] - first, form)
        some = np.flatnonzero(total.any(axis=1))
        values = pa.array(list(total[some]), pa.list_(pa.float64()))
        yield pa.record_batch([pa.array(some), values], ["place", "values"])

    def plus(one: Column, other: Column) -> Column:
        return F.zip_with(one, other, lambda left, right: left + right)

    zeros = F.array_repeat(F.lit(0.0), _width(form))
    found = sums.mapInArrow(add_up, "place bigint, values array<double>").groupBy("place")
    total = np.zeros((len(origins), _width(form)))
    for place, values in found.agg(F.aggregate(F.collect_list("values"), zeros, plus)).collect():
        total[place] = values
    return [_finished(total, origins, form, stop) for stop in stops]


def _width(form: Form) -> int:
    return 4 * form.lags + form.horizon + 2


def _parts(dense: Doubles, at: Ints, form: Form) -> Doubles:
    """(origins, _width) what a series adds to the sums: its lags; its average where it was there; its sum, and 1, at
    its length; what it sells after the origin; its average and the square of that."""
    lags = form.lags
    length, newest = np.minimum(at, lags), newest_of(dense, at, lags)
    summed = newest.sum(axis=1)
    mean = summed / length
    was_there = np.arange(lags) < length[:, None]
    of_length = np.arange(1, lags + 1) == length[:, None]
    after = np.append(dense, 0.0)[np.minimum(at[:, None] + np.arange(form.horizon), len(dense))]
    parts = [newest, mean[:, None] * was_there, summed[:, None] * of_length, of_length, after]
    return np.concatenate([*parts, np.stack([mean, mean**2], axis=1)], axis=1)


def _finished(total: Doubles, origins: Ints, form: Form, stop: int) -> Levels:
    lags = form.lags
    sold, expected, of_length, series = (total[:, part * lags : (part + 1) * lags] for part in range(4))
    after, mean, square = total[:, 4 * lags : -2], total[:, -2], total[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        trust = np.nan_to_num(1 / (1 + FEW * (square / mean**2 + 1 / mean)))[:, None]
        told = expected > 0
        past = np.where(told, 1 + trust * (sold / expected - 1), 1.0)
        past = np.maximum(past, LEAST).round(DECIMALS)
        late = told[:, : form.of.level]
        now = np.where(late.any(axis=1), (past[:, : form.of.level] * late).sum(axis=1) / late.sum(axis=1), 1.0)
        averages = (of_length + PRIOR * series) / (np.cumsum(past, axis=1) + PRIOR)
        went = np.log(after / (averages.sum(axis=1) * now)[:, None])
    steps = origins[:, None] + np.arange(form.horizon)
    went[(steps >= stop) | ~np.isfinite(went)] = np.nan
    shock = np.zeros_like(went) if form.yearly else trust * (went - _usual(went, origins % form.of.naive))
    return Levels(origins, past, now, np.nan_to_num(shock).round(DECIMALS))


def _usual(went: Doubles, place: Ints) -> Doubles:
    """(origins, horizon) the median of the origins of the same place in the week; 0 where nothing is known."""
    usual = np.zeros_like(went)
    for each in np.unique(place):
        here = place == each
        known = np.isfinite(went[here]).any(axis=0)
        usual[np.ix_(here, known)] = np.nanmedian(went[here][:, known], axis=0)
    return usual


def spread_out(batches: Iterable[pa.RecordBatch], stop: int) -> Iterator[tuple[int, int, Doubles]]:
    """(series, its first period, quantities from there to `stop`) of each series that begins before `stop`."""
    for batch in batches:
        periods, held = batch.column(1), batch.column(2)
        for place, series in enumerate(ids_of(batch.column(0), "series")):
            at = np.asarray(periods[place].values.to_numpy(zero_copy_only=False), np.int64)
            if at[0] >= stop:
                continue
            before, dense = at < stop, np.zeros(stop - at[0])
            dense[at[before] - at[0]] = held[place].values.to_numpy(zero_copy_only=False)[before]
            yield int(series), int(at[0]), dense


def newest_of(dense: Doubles, at: Ints, lags: int) -> Doubles:
    """(origins, lags) what was sold before each origin, newest first; 0 before the series began."""
    return np.asarray(np.concatenate([np.zeros(lags), dense])[at[:, None] + lags - 1 - np.arange(lags)])
