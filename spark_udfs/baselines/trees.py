"""Gradient-boosted trees (LightGBM) on rows of numbers: what a model of rows must beat. An extra: `millrace[trees]`.

They are fitted on the driver, on as many rows as the caller brings there, and answer on the executors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ROUNDS = 200
PARAMETERS = {
    "objective": "binary", "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 20,
    "seed": 0, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip


def missing() -> str | None:
    """Why there can be no trees here; None: there can."""
    if importlib.util.find_spec("lightgbm") is None:
        return "it is not installed; pip install 'millrace[trees]'"
    return None


def fit(examples: DataFrame, names: Sequence[str], label: str) -> str:
    """The trees as text. All of the examples come to the driver.

    Args:
        examples: rows, bounded by the caller.
        names: the columns to learn from.
        label: 0 or 1.
    """
    import lightgbm

    held = examples.select(*names, label).toPandas()
    data = lightgbm.Dataset(held[list(names)].to_numpy(np.float32), held[label].to_numpy())
    return str(lightgbm.train(PARAMETERS, data, num_boost_round=ROUNDS).model_to_string())


def predict(rows: DataFrame, model: str, names: Sequence[str], *, key: str) -> DataFrame:
    """`key` and `p` of each row.

    Args:
        rows: `key` and `names`.
        model: from `fit`.
        names: the columns, in the same order.
        key: a column of strings.
    """

    def answer(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import lightgbm

        booster = lightgbm.Booster(model_str=model)
        for batch in batches:
            columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns[1:]]
            values: npt.NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
            p = booster.predict(values, num_threads=1) if len(values) else np.zeros(0)
            yield pa.record_batch([batch.column(0), pa.array(p, pa.float64())], [key, "p"])

    return rows.select(key, *names).mapInArrow(answer, f"{key} string, p double")
