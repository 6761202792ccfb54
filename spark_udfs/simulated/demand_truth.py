"""What the simulated shop itself would forecast: the planted demand of each product, added up by period.

The sum of a period's counts is taken for one count of the same mean and variance. It is demand, before stock cuts it:
sales lie a little below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.arrow import fixed_lists, float_lists
from spark_udfs.baselines.panel_classic import ANSWER, WALKED
from spark_udfs.periods import Form
from spark_udfs.simulated import counts
from spark_udfs.simulated.tastes import Floats

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def true_forecasts(asked: DataFrame, days: DataFrame, form: Form, levels: Sequence[float]) -> DataFrame:
    """Answers (`series, quantiles, mean`) to rows of a panel.

    Args:
        asked: series, series_id (the product) and time (the origin), a row a series.
        days: `product_days` with the truth.
        form: of the panel.
        levels: of the quantiles, ascending.
    """
    mean, spread = F.col("demand_mean"), F.col("demand_dispersion")
    by_day = days.select(
        F.col("item_id").alias("series_id"),
        form.holds(F.col("day").cast("timestamp")).alias("period"),
        mean.alias("mean"),
        (mean + spread * mean * mean).alias("variance"),
    )
    origins = asked.select("series", "series_id", form.holds(F.col("time")).alias("origin"))
    step = F.col("period") - F.col("origin")

    def by_step(name: str) -> Column:
        sums = (F.sum(F.when(step == at, F.col(name)).otherwise(0.0)) for at in range(form.horizon))
        return F.array(*sums).cast("array<float>").alias(name)

    joined = origins.join(by_day, on="series_id", how="left")
    return joined.groupBy("series").agg(by_step("mean"), by_step("variance")).mapInArrow(_answers(levels), ANSWER)


def _answers(levels: Sequence[float]) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            mean, variance = (float_lists(batch.column(at))[0].astype(np.float64) for at in (1, 2))
            found = quantiles(mean, variance, levels).reshape(batch.num_rows, -1)
            columns = [batch.column(0), fixed_lists(found), fixed_lists(mean.reshape(batch.num_rows, -1))]
            yield pa.RecordBatch.from_arrays(columns, names=["series", "quantiles", "mean"])

    return answer


def quantiles(mean: Floats, variance: Floats, levels: Sequence[float]) -> Floats:
    """(counts, levels) quantiles of counts with these means and variances, no smaller than a Poisson's; of means above
    WALKED by the normal law."""
    wide = np.maximum(variance - mean, 0) / np.maximum(mean, 1e-9) ** 2
    low = np.minimum(mean, WALKED)
    small = np.stack([counts.quantile(low, wide, np.full_like(mean, level)) for level in levels], axis=-1)
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])
    large = np.maximum(np.ceil(mean[:, None] + normal * np.sqrt(np.maximum(variance, mean))[:, None] - 0.5), 0)
    return np.where(mean[:, None] > WALKED, large, small).astype(np.float64)
