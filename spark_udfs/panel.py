"""Sales to a panel: a series (product, branch) by periods, and what is known of it and asked about it at an origin.

    lines --quantities--> one row a series, its periods and quantities --examples--> series x origin, with targets
                                                                       --asked----> a row a series as of one origin

A period is a day or a week from Monday on, in UTC, and has a number (0 holds 1970-01-01). An origin is the start of a
period: what lies before it is known, the next `horizon` periods are asked for. A series begins with its first line,
whose quantity may be 0 (it was on sale); from there to the origin every period counts, with zeros where nothing was
sold. Returns lower their period's quantity, which never falls below 0.

What all series did together (spark_udfs/panel_level.py) is taken out of a series' history, and out of what an example
is to learn: a row speaks of its series, in units of what it sells on the average at the level of late.

Each series is one row, spread out in an executor; the work grows with lines and with the rows made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.arrow import fixed_lists
from spark_udfs.features import Cuts
from spark_udfs.panel_level import PRIOR, Levels, levels, newest_of, spread_out
from spark_udfs.periods import Form
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EXACT = "decimal(38,6)"  # sums of doubles depend on their order
ROWS_PER_BATCH = 1 << 14
_ROW = (
    "series bigint, origin bigint, lags array<float>, statistics array<float>, calendar array<float>, "
    "scale array<float>, target array<float>, known array<float>"
)
_HISTORY = "history array<float>, naive_error float"


def whole_before(lines: DataFrame, form: Form) -> int:
    """The first period that may be unfinished: the one with the last line, or the next one where every line stands at
    the start of a period, as sums do.

    Args:
        lines: `time`.
        form: of the panel.

    Raises:
        DataError: there are no lines.
    """
    number = form.holds(F.col("time"))
    last, stamped = lines.agg(F.max(number), F.min(form.start(number) == F.col("time"))).collect()[0]
    if last is None:
        raise DataError(
            "a forecast needs sales of an earlier time, and there are none before the moment that is asked of; set a "
            "later scoring.moment, or leave it out"
        )
    return int(last) + bool(stamped)


def quantities(lines: DataFrame, numbered: DataFrame, form: Form) -> DataFrame:
    """One row a series: `series`, `periods` (array<bigint>, ascending) with a line, and their `quantities`.

    Args:
        lines: series_id, time, quantity.
        numbered: a vocabulary: index, id.
        form: of the panel.
    """
    ids = numbered.select(F.col("index").alias("series"), F.col("id").alias("series_id"))
    sums = (
        lines.join(ids, on="series_id", how="inner")
        .groupBy("series", form.holds(F.col("time")).alias("period"))
        .agg(F.sum(F.col("quantity").cast(EXACT)).cast("double").alias("quantity"))
    )
    held = F.sort_array(F.collect_list(F.struct("period", F.greatest("quantity", F.lit(0.0)).alias("quantity"))))
    return (
        sums.groupBy("series")
        .agg(held.alias("held"))
        .select(
            "series",
            F.col("held.period").alias("periods"),
            F.col("held.quantity").alias("quantities"),
        )
    )


def examples(sums: DataFrame, form: Form, cuts: Cuts, end: int) -> DataFrame:
    """A row for each series and origin before the test cut, from the series' second period on.

    A target is trained on if its period ends before the validation cut, else validated on: an origin whose horizon
    reaches over the cut makes a row of each, and no target stands in both.

    Args:
        sums: from `quantities`.
        form: of the rows.
        cuts: where time is split.
        end: the first period that may be unfinished (`whole_before`).

    Returns:
        series; origin; lags (newest first, square roots of quantity over average and level); statistics; calendar;
        scale (of each step: the average of the lags, a little above 0, at the level of late, and with the shock that
        came); target (quantities) and known (1 where the target counts); time (the origin's); known_at (when the last
        target that counts was).
    """
    cut, stop = form.number(cuts.validation), min(form.number(cuts.test), end)
    of_train, of_validation = levels(sums, form, np.arange(stop - form.origins, stop), (min(cut, stop), stop))
    spans = ((-1, cut, of_train), (cut, stop, of_validation))

    def windows(first: int, dense: Doubles) -> Iterator[tuple[int, Levels, Ints, Doubles, Doubles]]:
        begin = max(1, stop - first - form.origins)
        at = np.arange(begin, stop - first)
        for low, high, together in spans:
            target, known = _targets(dense, at, form, low - first, high - first)
            some = known.any(axis=1)
            yield high, together, at[some], target[some], known[some]

    def spread(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for series, first, dense in spread_out(batches, stop):
            for high, together, at, target, known in windows(first, dense):
                for start in range(0, len(at), ROWS_PER_BATCH):
                    part = slice(start, start + ROWS_PER_BATCH)
                    here = together.at(at[part] + first)
                    rows = _rows(series, first, dense, at[part], target[part], known[part], form, here)
                    yield _batch(rows | {"until": pa.array(np.minimum(at[part] + first + form.horizon, high))})

    made = sums.mapInArrow(spread, f"{_ROW}, until bigint")
    known_at = F.timestamp_micros(F.unix_micros(form.start(F.col("until"))) - 1)  # the end of the last target
    return made.withColumn("time", form.start(F.col("origin"))).withColumn("known_at", known_at).drop("until")


def asked(sums: DataFrame, form: Form, origin: int, until: int) -> DataFrame:
    """A row for each series that began before an origin.

    Args:
        sums: from `quantities`.
        form: of the rows.
        origin: its period.
        until: targets count before this period.

    Returns:
        What `examples` has but for split; history (array<float>, the newest quantities before the origin, oldest first)
        and naive_error (the mean error of repeating what was sold `naive` periods before; 0 where nothing tells).
    """
    kept = max(form.lags, form.of.season, form.of.mean, form.of.median)
    [calm] = levels(sums, form, np.array([origin]), [origin])  # no shock is known

    def spread(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for series, first, dense in spread_out(batches, max(until, origin)):
            at = np.array([origin - first])
            if at[0] < 1:
                continue
            target, known = _targets(dense, at, form, -1, until - first)
            past, lag = dense[: at[0]], form.of.naive
            error = float(np.abs(past[lag:] - past[:-lag]).mean()) if len(past) > lag else 0.0
            rows = _rows(series, first, dense, at, target, known, form, calm)
            more = {"history": fixed_lists(past[None, -kept:]), "naive_error": pa.array([error], pa.float32())}
            yield _batch(rows | more)

    made = sums.mapInArrow(spread, f"{_ROW}, {_HISTORY}")
    return made.withColumn("time", form.start(F.col("origin")))


def _targets(dense: Doubles, at: Ints, form: Form, low: int, high: int) -> tuple[Doubles, Doubles]:
    """(origins, horizon) quantities from each origin on, and 1 where their period lies in [low, high)."""
    steps = at[:, None] + np.arange(form.horizon)
    known = (steps >= low) & (steps < min(high, len(dense)))
    return np.where(known, np.append(dense, 0.0)[np.minimum(steps, len(dense))], 0.0), known.astype(np.float64)


def _rows(
    series: int, first: int, dense: Doubles, at: Ints, target: Doubles, known: Doubles, form: Form, together: Levels
) -> dict[str, pa.Array]:
    """What is known of one series at origins, `at` periods after its first one; nothing from an origin on is looked
    at but the shock."""
    lags = form.lags
    length = np.minimum(at, lags)
    newest, past = newest_of(dense, at, lags), together.past
    was_there = np.arange(lags) < length[:, None]
    average = (newest.sum(axis=1) + PRIOR) / ((past * was_there).sum(axis=1) + PRIOR)
    scale = average * together.now
    level = newest / past
    shrunk = [
        (newest[:, :window].sum(axis=1) / average + 1) / ((past * was_there)[:, :window].sum(axis=1) + 1)
        for window in form.of.windows
    ]
    mean = level.sum(axis=1) / length
    variance = np.maximum((level**2).sum(axis=1) / length - mean**2, 0)
    zeros = ((newest == 0) & was_there).sum(axis=1) / length
    statistics = np.stack([np.log(scale), zeros, *np.log(shrunk), np.log1p(variance / average), np.log(length)], axis=1)
    return {
        "series": pa.array(np.full(len(at), series, np.int64)),
        "origin": pa.array(at + first),
        "lags": fixed_lists(np.sqrt(level / average[:, None])),
        "statistics": fixed_lists(statistics),
        "calendar": fixed_lists(calendar(at + first, form)),
        "scale": fixed_lists(scale[:, None] * np.exp(together.shock)),
        "target": fixed_lists(target),
        "known": fixed_lists(known),
    }


def calendar(origin: Ints, form: Form) -> Doubles:
    """(origins, form.calendar) sine and cosine of the place in the year, zeros unless it is wanted; the weekday."""
    days = (origin * form.of.days + form.of.first).astype("datetime64[D]")
    years = days.astype("datetime64[Y]")
    angle = 2 * np.pi * (days - years.astype("datetime64[D]")).astype(np.float64) / 365.25
    parts = [np.stack([np.sin(angle), np.cos(angle)], axis=1) * form.yearly]
    if form.of.weekdays:
        parts.append(np.eye(7)[(days.astype(np.int64) + 3) % 7])
    return np.concatenate(parts, axis=1)


def _batch(columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
