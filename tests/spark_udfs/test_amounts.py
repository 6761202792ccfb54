"""Amounts judged: the figures are those of the plain formulas, and who knows what came has the best of all."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_udfs.amounts import judge
from training.errors import DataError

ROWS = 700


def drawn() -> tuple[list[float], list[float]]:
    """Amounts, half of them 0, and what was expected, which has their order but for noise."""
    draws = np.random.default_rng(0)
    came = np.where(draws.random(ROWS) < 0.5, 0.0, draws.lognormal(3, 1.2, ROWS))
    return came.tolist(), (5 + 0.7 * came * draws.lognormal(0, 0.8, ROWS)).tolist()


def gini(order: list[float], came: list[float]) -> float:
    held = np.asarray(came)[np.argsort(order, kind="stable")]
    upper = np.concatenate([[0], np.cumsum(held) / held.sum()])
    return float(1 - (upper[1:] + upper[:-1]).mean())


def test_figures_are_those_of_the_formulas(spark: SparkSession) -> None:
    came, expected = drawn()
    keys = [f"k{number}" for number in range(ROWS)]
    truth = spark.createDataFrame([*zip(keys, came, strict=True)], "key string, amount double").repartition(3)
    models = {"ours": expected, "oracle": came, "mean": [float(np.mean(came))] * ROWS}
    given = [(name, *row) for name, values in models.items() for row in zip(keys, values, strict=True)]
    answers = spark.createDataFrame(given, "model string, key string, amount double")
    found = judge(answers, truth, [*models], resamples=20)
    ours, oracle, mean = (found[name].intervals() for name in models)
    assert {judged.users for judged in found.values()} == {ROWS}
    assert ours["gini"]["value"] == pytest.approx(gini(expected, came) / gini(came, came), abs=0.01)
    assert ours["bias"]["value"] == pytest.approx(sum(expected) / sum(came) - 1)
    assert ours["mae"]["value"] == pytest.approx(np.abs(np.subtract(expected, came)).mean())
    order = np.argsort(expected)
    off = [abs(sum(expected[at] - came[at] for at in part)) for part in np.array_split(order, 10)]
    assert ours["decile_error"]["value"] == pytest.approx(sum(off) / sum(came), abs=0.05)
    assert [oracle[name]["value"] for name in ("gini", "bias", "mae", "decile_error")] == pytest.approx([1, 0, 0, 0])
    assert mean["gini"]["value"] == pytest.approx(0, abs=1e-9)
    assert ours["mae"]["low"] < ours["mae"]["value"] < ours["mae"]["high"]
    nothing = truth.selectExpr("key", "0D AS amount")
    with pytest.raises(DataError, match="must differ: all that came are alike, such as 0; move"):
        judge(answers, nothing, ["ours"], resamples=20)
