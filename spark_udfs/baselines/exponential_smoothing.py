"""Exponential smoothing chosen by series (statsforecast's AutoETS): what a model of a panel must beat where it is
installed. An extra: `millrace[forecasts]`.

Each series is fitted by itself, on the executor that has its row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.arrow import fixed_lists, float_lists
from spark_udfs.baselines.panel_classic import ANSWER
from spark_udfs.periods import Form

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

SHORTEST = 8  # periods; a shorter history has its mean


def missing() -> str | None:
    """Why there can be no such forecasts here; None: there can."""
    if importlib.util.find_spec("statsforecast") is None:
        return "statsforecast is not installed; pip install 'millrace[forecasts]'"
    return None


def auto_ets(asked: DataFrame, form: Form, levels: Sequence[float]) -> DataFrame:
    """Rows of `spark_udfs.baselines.panel_classic.ANSWER`; quantiles are those of normal intervals, none below 0."""
    horizon = form.horizon

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if not batch.num_rows:
                continue
            values, offsets = float_lists(batch.column(1))
            pasts = np.split(np.asarray(values, np.float64), offsets[1:-1])
            said = np.stack([_forecast(past, horizon, levels) for past in pasts])
            columns = [fixed_lists(said[..., :-1].reshape(len(said), -1)), fixed_lists(said[..., -1])]
            yield pa.RecordBatch.from_arrays([batch.column(0), *columns], names=["series", "quantiles", "mean"])

    return asked.select("series", "history").mapInArrow(answer, ANSWER)


def _forecast(past: Doubles, horizon: int, levels: Sequence[float]) -> Doubles:
    """(horizon, levels + 1) quantiles, and the mean behind them."""
    from statsforecast.models import AutoETS

    if len(past) < SHORTEST:
        return np.asarray(np.full((horizon, len(levels) + 1), past.mean()))
    wide = [round(100 * abs(1 - 2 * level)) for level in levels]
    asked = sorted({width for width in wide if width})
    given = AutoETS(season_length=1).forecast(y=past, h=horizon, level=asked)
    named = [
        "mean" if not width else f"{'lo' if level < 0.5 else 'hi'}-{width}"
        for level, width in zip(levels, wide, strict=True)
    ]
    return np.asarray(np.maximum(np.stack([given[name] for name in [*named, "mean"]], axis=1), 0))
