"""The judge of panels: against plain loops; the truth scores best; how rows lie changes nothing; gaps are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.baselines.panel_classic import mean_of_late, median_of_late, poisson_quantiles, seasonal_naive
from spark_udfs.panel import Form
from spark_udfs.panel_judge import PanelJudged, judge, metric_names
from training.errors import DataError

LEVELS = (0.1, 0.5, 0.9)
SERIES, STEPS = 60, 3
ASKED = "series bigint, target array<float>, known array<float>, naive_error float"
ANSWERS = "model string, series bigint, quantiles array<float>, mean array<float>"
Rows = list[tuple[Any, ...]]


def planted() -> tuple[Rows, Rows]:
    """What was sold (quarters, so that sums are exact); answers of the truth, of one too low and of one at random."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 40, (SERIES, STEPS)) / 4
    known = (rng.uniform(size=(SERIES, STEPS)) < 0.8).astype(float)
    naive = np.where(np.arange(SERIES) % 7, rng.integers(1, 9, SERIES) / 4, 0.0)
    asked = [(n, target[n].tolist(), known[n].tolist(), float(naive[n])) for n in range(SERIES)]
    random = np.sort(rng.integers(0, 40, (SERIES, STEPS, len(LEVELS))) / 4, axis=2)
    quantiles = {
        "truth": np.repeat(target[..., None], len(LEVELS), axis=2),
        "low": np.repeat(target[..., None] / 2, len(LEVELS), axis=2),
        "random": random,
    }
    answers = [
        (name, n, of[n].ravel().tolist(), of[n, :, 1].tolist()) for name, of in quantiles.items() for n in range(SERIES)
    ]
    return asked, answers


def frames(spark: SparkSession, partitions: int) -> tuple[DataFrame, DataFrame]:
    asked, answers = planted()
    order = 1 if partitions == 1 else -1
    return (
        spark.createDataFrame(answers[::order], ANSWERS).repartition(partitions),
        spark.createDataFrame(asked[::order], ASKED).repartition(partitions),
    )


@pytest.fixture(scope="module")
def found(spark: SparkSession) -> dict[str, PanelJudged]:
    return judge(*frames(spark, 3), levels=LEVELS, resamples=200)


def by_loops(name: str) -> dict[str, float]:
    asked, answers = planted()
    sums = dict.fromkeys(("pinball", "off", "mean", "scaled", "sold", "bias", "within", "n", "told"), 0.0)
    held = {series: (quantiles, mean) for model, series, quantiles, mean in answers if model == name}
    for series, target, known, naive in asked:
        for step in range(STEPS):
            if not known[step]:
                continue
            sold, quantiles = target[step], held[series][0][step * 3 : step * 3 + 3]
            for level, quantile in zip(LEVELS, quantiles, strict=True):
                error = sold - quantile
                sums["pinball"] += 2 * (level * error if error > 0 else (level - 1) * error) / 3
            sums["off"] += abs(sold - quantiles[1])
            sums["mean"] += abs(sold - held[series][1][step])
            sums["bias"] += held[series][1][step] - sold
            sums["within"] += quantiles[0] <= sold <= quantiles[2]
            sums["sold"] += sold
            sums["n"] += 1
            if naive:
                sums["scaled"] += abs(sold - quantiles[1]) / naive
                sums["told"] += 1
    return {
        "wql": sums["pinball"] / sums["sold"],
        "mae": sums["off"] / sums["n"],
        "mae_of_mean": sums["mean"] / sums["n"],
        "mase": sums["scaled"] / sums["told"],
        "wape": sums["off"] / sums["sold"],
        "bias": sums["bias"] / sums["sold"],
        "coverage_80": sums["within"] / sums["n"],
    }


def test_values_are_what_loops_give(found: dict[str, PanelJudged]) -> None:
    assert set(found) == {"truth", "low", "random"}
    for name, held in found.items():
        assert held.judged.users == SERIES
        assert held.judged.names == metric_names(LEVELS)
        assert dict(zip(held.judged.names, held.judged.values, strict=True)) == pytest.approx(by_loops(name))


def test_the_truth_is_best_and_intervals_hold_the_values(found: dict[str, PanelJudged]) -> None:
    truth = found["truth"].judged.intervals()
    assert truth["wql"]["value"] == truth["mae"]["value"] == truth["bias"]["value"] == 0
    assert truth["coverage_80"]["value"] == 1
    low = found["low"].judged
    for held in low.intervals().values():
        assert held["low"] - 1e-12 <= held["value"] <= held["high"] + 1e-12
    assert low.intervals()["bias"]["value"] == pytest.approx(-0.5)
    assert low.intervals()["bias"]["high"] == pytest.approx(-0.5)  # of every resample: a ratio of sums
    difference = found["random"].judged.minus(found["truth"].judged)["wql"]
    assert 0 < difference["low"] < difference["value"] < difference["high"]


def test_steps_are_told_apart(found: dict[str, PanelJudged]) -> None:
    asked, _ = planted()
    off = [sum(row[2][step] * row[1][step] / 2 for row in asked) for step in range(STEPS)]
    known = [sum(row[2][step] for row in asked) for step in range(STEPS)]
    assert found["low"].by_step["mae"] == pytest.approx([a / n for a, n in zip(off, known, strict=True)])


def test_how_rows_lie_changes_nothing(spark: SparkSession, found: dict[str, PanelJudged]) -> None:
    other = judge(*frames(spark, 1), levels=LEVELS, resamples=200)
    for name, held in found.items():
        assert np.allclose(other[name].judged.resampled, held.judged.resampled, rtol=1e-12)


def test_a_gap_in_the_answers_and_nothing_sold_are_refused(spark: SparkSession) -> None:
    answers, asked = frames(spark, 2)
    with pytest.raises(DataError, match=r"'low' must answer each of 60 series once; it has 59 answers"):
        judge(answers.where("model != 'low' OR series != 7"), asked, levels=LEVELS, resamples=100)
    nothing = spark.createDataFrame([(1, [0.0] * 3, [1.0] * 3, 1.0)], ASKED)
    with pytest.raises(DataError, match=r"nothing was sold in them.*move examples\.test_from"):
        judge(answers.where("series = 1"), nothing, levels=LEVELS, resamples=100)


def test_the_classics_say_what_loops_say(spark: SparkSession) -> None:
    rng = np.random.default_rng(1)
    rows = [(n, rng.poisson(3, length).astype(float).tolist()) for n, length in enumerate((1, 5, 20, 60))]
    asked = spark.createDataFrame(rows, "series bigint, history array<float>")
    form = Form("week", horizon=3, lags=4)
    said = {
        name: {row["series"]: row for row in function(asked, form, (0.1, 0.5, 0.9)).collect()}
        for name, function in (("mean", mean_of_late), ("median", median_of_late), ("season", seasonal_naive))
    }
    for series, past in rows:
        assert said["mean"][series]["mean"] == pytest.approx([sum(past[-26:]) / len(past[-26:])] * 3)
        assert said["median"][series]["mean"] == pytest.approx([float(np.median(past[-13:]))] * 3)
        season = past[8:11] if len(past) == 60 else [past[-1]] * 3
        assert said["season"][series]["mean"] == pytest.approx(season)
        assert said["mean"][series]["quantiles"] == pytest.approx(
            poisson_quantiles(np.full(3, np.mean(past[-26:])), (0.1, 0.5, 0.9)).ravel()
        )


def test_poisson_quantiles_are_those_of_draws_small_and_large() -> None:
    rng = np.random.default_rng(2)
    for mean in (0.0, 0.3, 4.0, 90.0, 499.0, 501.0, 20_000.0):
        drawn = np.quantile(rng.poisson(mean, 400_000), LEVELS, method="inverted_cdf")
        assert np.abs(poisson_quantiles(np.array([mean]), LEVELS)[0] - drawn).max() <= 1 + mean**0.5 / 100
