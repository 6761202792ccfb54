"""Metrics of probabilities against plain definitions, and intervals that cover what is planted."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import rows
from training.errors import DataError
from training.metrics.in_bins import precisions_in_random_order

BUDGET = 0.1


def planted(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels drawn from their true probabilities; those, a distorted ranking of them, and one of few values."""
    rng = np.random.default_rng(1)
    p = np.clip(rng.beta(0.4, 3, count), 1e-4, 1 - 1e-4)
    label = (rng.random(count) < p).astype(float)
    blurred = 1 / (1 + np.exp(-(np.log(p) - np.log1p(-p) + rng.normal(0, 2, count))))
    return label, {"true": p, "blurred": blurred, "coarse": np.round(p, 1)}


def frames(spark: SparkSession, label: np.ndarray, scores: dict[str, np.ndarray]) -> tuple[DataFrame, DataFrame]:
    keys = [f"case {number}" for number in range(len(label))]
    truth = spark.createDataFrame(list(zip(keys, label.tolist(), strict=True)), "key string, label double")
    answers = [(name, key, float(p)) for name, of in scores.items() for key, p in zip(keys, of, strict=True)]
    return spark.createDataFrame(answers, "model string, key string, p double").repartition(3), truth


def plain(label: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Row by row, for scores without ties."""
    order = np.argsort(-p)
    hit, others = label[order], 1 - label[order]
    looked_at = round(BUDGET * len(label))
    bound = np.clip(p, rows.SMALLEST, 1 - rows.SMALLEST)
    share = label.mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return {
        "average_precision": float((hit * np.cumsum(hit) / np.arange(1, len(hit) + 1)).sum() / hit.sum()),
        "auc": float((others * np.cumsum(hit)).sum() / (others.sum() * hit.sum())),
        "recall_at_1_percent_false_alarms": float(hit[np.cumsum(others) <= 0.01 * others.sum()].sum() / hit.sum()),
        "precision_at_budget": float(hit[:looked_at].mean()),
        "log_loss": float(-np.log(np.where(label == 1, bound, 1 - bound)).mean()),
        "predicted_to_actual": float(p.sum() / label.sum()),
        "normalised_entropy": float(-np.log(np.where(label == 1, bound, 1 - bound)).mean() / entropy),
    }


def test_values_are_the_definitions_and_intervals_are_paired(spark: SparkSession) -> None:
    label, scores = planted(3_000)
    answers, truth = frames(spark, label, scores)
    judged = rows.judge(answers, truth, list(scores), budget=BUDGET, resamples=200)
    for name in ("true", "blurred"):
        found, wanted = judged[name].intervals(), plain(label, scores[name])
        for metric, value in wanted.items():
            tolerance = 0.01 if metric.startswith(("recall_at", "precision_at")) else 0.002
            assert found[metric]["value"] == pytest.approx(value, abs=tolerance), (name, metric)
            assert found[metric]["low"] < value < found[metric]["high"]
    assert judged["true"].users == 3_000
    errors = {name: judged[name].intervals()["calibration_error"]["value"] for name in ("true", "blurred")}
    assert errors["true"] < 0.02 < 0.03 < errors["blurred"], errors
    lead = judged["true"].minus(judged["blurred"])["average_precision"]
    alone = judged["true"].intervals()["average_precision"]
    assert lead["low"] > 0
    assert lead["high"] - lead["low"] < alone["high"] - alone["low"]
    same = judged["true"].minus(judged["true"])["auc"]
    assert same == {"value": 0, "low": 0, "high": 0}


def test_equal_scores_count_as_in_random_order(spark: SparkSession) -> None:
    """Whatever the order of the rows; so no model gains by ties."""
    label = np.array([1.0, 0.0, 0.0, 0.0] * 200)
    answers, truth = frames(spark, label, {"flat": np.full(800, 0.25)})
    found = rows.judge(answers, truth, ["flat"], budget=BUDGET, resamples=100)["flat"].intervals()
    assert found["auc"]["value"] == pytest.approx(0.5)
    in_random_order = 199 / 799 + (1 - 199 / 799) * float((1 / np.arange(1, 801)).sum()) / 800
    assert found["average_precision"]["value"] == pytest.approx(in_random_order, abs=1e-9)
    assert found["recall_at_1_percent_false_alarms"]["value"] == pytest.approx(0.01)
    assert found["precision_at_budget"]["value"] == pytest.approx(0.25)
    assert found["predicted_to_actual"]["value"] == pytest.approx(1)


def test_the_precision_of_equal_scores_is_that_of_all_their_orders() -> None:
    """Cells of 2 rows (1 positive), 5 (2), none and 3 (3); every order of each cell's rows."""
    cells = [(1, 2), (2, 5), (0, 0), (3, 3)]
    orders = [sorted(set(permutations([1.0] * yes + [0.0] * (every - yes)))) for yes, every in cells]
    found = []
    for order in product(*orders):
        hit = np.concatenate([np.array(of_cell) for of_cell in order])
        found.append((hit * np.cumsum(hit) / np.arange(1, len(hit) + 1)).sum())
    yes, every = (np.array(part, np.float64) for part in zip(*cells, strict=True))
    assert precisions_in_random_order(yes, every).sum() == pytest.approx(np.mean(found), abs=1e-12)
    many = np.array([[3.0, 500.0, 700.0], [0.0, 2e6, 3e6]])
    one_by_one = precisions_in_random_order(np.ones((1, 700)), np.ones((1, 700)))
    assert one_by_one == pytest.approx(np.ones((1, 700)), abs=1e-9)  # past the harmonic numbers that are counted up
    assert precisions_in_random_order(many, many) == pytest.approx(many, rel=1e-9)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_kind_are_refused(spark: SparkSession, label: float) -> None:
    answers, truth = frames(spark, np.full(20, label), {"flat": np.full(20, 0.25)})
    words = r"must hold rows of both labels; it holds (20 of label 1 and 0|0 of label 1 and 20) of label 0"
    with pytest.raises(DataError, match=words):
        rows.judge(answers, truth, ["flat"], budget=BUDGET, resamples=100)


def test_curves_say_what_the_metrics_do(spark: SparkSession) -> None:
    label, scores = planted(2_000)
    cells = rows.cells(*frames(spark, label, scores), ["true", "coarse"])
    curve = rows.precision_recall(cells["true"])
    recall, precision = zip(*curve, strict=True)
    assert list(recall) == sorted(recall)
    assert recall[-1] == 1
    assert label.mean() < precision[-1] < precision[0]
    bands = rows.reliability(cells["true"])
    assert len(bands) == rows.BANDS
    assert [predicted for predicted, _ in bands] == sorted(predicted for predicted, _ in bands)
    assert max(abs(predicted - actual) for predicted, actual in bands) < 0.1


def test_a_model_that_leaves_rows_out_is_refused(spark: SparkSession) -> None:
    answers, truth = frames(spark, *planted(50))
    with pytest.raises(DataError, match="'coarse' must answer every row that is judged, and left out 2 of them"):
        rows.cells(answers.where("NOT (model = 'coarse' AND key IN ('case 1', 'case 2'))"), truth, ["true", "coarse"])
