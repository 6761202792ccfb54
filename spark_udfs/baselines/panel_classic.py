"""What a model of a panel has to beat: the mean and the median of late, and what was sold a season ago.

Each says one number a step; its quantiles are those of Poisson counts about that number. All answer the same rows
(`spark_udfs.panel.asked`) with series, quantiles (step after step) and mean, as a model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import fixed_lists, float_lists
from spark_udfs.periods import Form
from spark_udfs.simulated import counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]
Forecast = Callable[[Doubles], Doubles]

ANSWER = "series bigint, quantiles array<float>, mean array<float>"
WALKED = 500.0  # means up to which counts are walked through one by one


def mean_of_late(asked: DataFrame, form: Form, levels: Sequence[float]) -> DataFrame:
    """The mean of the newest `form.of.mean` periods, or of as many as a series has."""
    return by_history(asked, levels, lambda past: np.full(form.horizon, past[-form.of.mean :].mean()))


def median_of_late(asked: DataFrame, form: Form, levels: Sequence[float]) -> DataFrame:
    """The median of the newest `form.of.median` periods, or of as many as a series has."""
    return by_history(asked, levels, lambda past: np.full(form.horizon, np.median(past[-form.of.median :])))


def seasonal_naive(asked: DataFrame, form: Form, levels: Sequence[float]) -> DataFrame:
    """What was sold a season ago; of a series that is younger than a season, what was sold last."""
    season, steps = form.of.season, np.arange(form.horizon)

    def forecast(past: Doubles) -> Doubles:
        if len(past) < season:
            return np.full(form.horizon, past[-1])
        return np.asarray(past[len(past) - season + steps % season])

    return by_history(asked, levels, forecast)


def by_history(asked: DataFrame, levels: Sequence[float], forecast: Forecast) -> DataFrame:
    """Answers of a function from a series' history (oldest first) to a mean for each step."""

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            values, offsets = float_lists(batch.column(1))
            pasts = [np.asarray(part, np.float64) for part in np.split(values, offsets[1:-1])]
            yield answers(batch.column(0), np.stack([forecast(past) for past in pasts]), levels)

    return asked.select("series", "history").mapInArrow(answer, ANSWER)


def answers(series: pa.Array, mean: Doubles, levels: Sequence[float]) -> pa.RecordBatch:
    """Rows of ANSWER: (rows, steps) means, and Poisson quantiles about them."""
    columns = [series, fixed_lists(poisson_quantiles(mean, levels).reshape(len(mean), -1)), fixed_lists(mean)]
    return pa.RecordBatch.from_arrays(columns, names=["series", "quantiles", "mean"])


def poisson_quantiles(mean: Doubles, levels: Sequence[float]) -> Doubles:
    """(..., levels) quantiles of Poisson counts; of means above WALKED by the normal law with the Poisson's skew
    (Cornish and Fisher, 1938), within 1 of the count."""
    level, wide = np.asarray(levels), mean[..., None]
    every = np.broadcast_to(np.minimum(wide, WALKED), (*mean.shape, len(levels)))
    at = np.broadcast_to(level, every.shape).ravel()
    small = counts.quantile(every.ravel(), np.zeros(every.size), at).reshape(every.shape)
    normal = np.array([NormalDist().inv_cdf(each) for each in levels])
    large = np.ceil(wide + normal * np.sqrt(wide) + (normal**2 - 1) / 6 - 0.5)
    return np.where(wide > WALKED, large, small).astype(np.float64)
