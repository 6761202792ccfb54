"""Judging texts: how well those of people are foreseen, and whether written ones keep to the record; with intervals.

All figures are sums over products (spark_udfs/bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from spark_udfs.bootstrap import Judged, poisson_weights, summed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Doubles = npt.NDArray[np.float64]

OF_TEXTS = ("rule_check", "attributes_named", "whole")
NAMES = ("perplexity", *OF_TEXTS)
SUMS = ("nll", "tokens", "kept", "texts", "said", "fields", "ended", "rows")
ROWS = 1_024  # whose resample weights are held at once


def judge(answers: DataFrame, names: Sequence[str], *, resamples: int, seed: int = 0) -> dict[str, Judged]:
    """Judge each model's answers.

    Args:
        answers: model, key, nll and tokens of a text that people wrote; and of a written one, or null, `breaches`,
            `named` (array<string>), `fields`, how many attributes the record has, and `whole`.
        names: of the models.
        resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        By model, perplexity, and of the texts that it wrote rule_check (the share without a breach), attributes_named
        (the share of the records' attributes whose value is said) and whole (the share that came to an end); these are
        NaN of one that wrote none.
    """
    is_text = F.col("breaches").isNotNull()
    columns = {
        "nll": F.col("nll"),
        "tokens": F.col("tokens"),
        "kept": is_text & (F.size("breaches") == 0),
        "texts": is_text,
        "said": F.when(is_text, F.size("named")),
        "fields": F.when(is_text, F.col("fields")),
        "ended": is_text & F.col("whole"),
        "rows": F.lit(1),
    }
    rows = answers.select(
        "model",
        F.xxhash64("key").alias("hash"),
        *(F.coalesce(of.cast("double"), F.lit(0.0)).alias(name) for name, of in columns.items()),
    )

    def count(batches: Iterable[pa.RecordBatch]) -> dict[str, Doubles]:
        totals: dict[str, Doubles] = {}
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                part = batch.slice(start, ROWS)
                models = np.asarray(part.column(0).to_pylist())
                weights = poisson_weights(part.column(1).to_numpy(), resamples, seed)
                weights = np.concatenate([np.ones((len(weights), 1)), weights], axis=1)
                values = np.stack([column.to_numpy() for column in part.columns[2:]])
                for model in np.unique(models):
                    mine = models == model
                    held = totals.setdefault(str(model), np.zeros(len(SUMS) * (resamples + 1)))
                    held += (values[:, mine] @ weights[mine]).ravel()
        return totals

    found = summed(rows, count)
    return {name: _judged(found[name].reshape(len(SUMS), -1)) for name in names}


def _judged(sums: Doubles) -> Judged:
    nll, tokens, kept, texts, said, fields, ended, rows = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = np.stack([np.exp(nll / tokens), kept / texts, said / fields, ended / texts], axis=1)
    return Judged(round(float(rows[0])), NAMES, metrics[0], metrics[1:])
