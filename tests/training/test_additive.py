"""Additive metrics against what they are defined as, row by row; parts add up; the bounds that are stated hold."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import DataError, SettingsError
from training.metrics.additive import Metric
from training.metrics.probabilities import Binary
from training.metrics.quantities import Errors, Quantiles

Array = NDArray[np.float64]
LEVELS = (0.1, 0.5, 0.9)


def scores(rows: int, seed: int, *, rare: float = -3.0, decimals: int = 12) -> tuple[Array, Array]:
    """Probabilities of a rare event, some tied, and labels that they know something of."""
    generator = np.random.default_rng(seed)
    p = np.round(1 / (1 + np.exp(-generator.normal(rare, 1.5, rows))), decimals)
    return p, (generator.random(rows) < np.clip(1.3 * p, 0, 1)).astype(float)


def auc(p: Array, label: Array) -> float:
    """Share of the pairs that are in order, ties half."""
    above = p[label == 1][:, None] - p[label == 0][None, :]
    return float(((above > 0) + (above == 0) / 2).mean())


def average_precision(p: Array, label: Array) -> float:
    """scikit-learn's: at each threshold the recall gained times the precision there."""
    return float(sum(label[p == t].sum() * label[p >= t].mean() for t in np.unique(p)) / label.sum())


@pytest.mark.parametrize("bins", [64, 4096, 1_000_000])
@pytest.mark.parametrize("decimals", [2, 12])
def test_ranking_is_within_the_bounds_that_it_states(bins: int, decimals: int) -> None:
    p, label = scores(1500, 1, decimals=decimals)
    found = Binary(bins).finish(Binary(bins).sums(p, label))
    for name, exact in (("auc", auc(p, label)), ("average_precision", average_precision(p, label))):
        assert abs(found[name] - exact) <= found[f"{name}_error"] + 1e-12
        assert found[f"{name}_error"] < 0.2
    if decimals == 12 and bins > 4096:
        assert found["auc_error"] < 1e-5
        assert found["average_precision"] == pytest.approx(average_precision(p, label), abs=1e-4)


def test_ranking_is_exact_where_no_bin_holds_two_scores() -> None:
    p = np.array([0.0, 0.01, 0.2, 0.2, 0.5, 0.9, 0.9, 1.0])
    label = np.array([0, 1, 0, 1, 0, 1, 0, 1.0])
    found = Binary().finish(Binary().sums(p, label))
    assert found["auc"] == pytest.approx(auc(p, label), abs=1e-12)
    assert found["average_precision"] == pytest.approx(average_precision(p, label), abs=1e-12)
    perfect = Binary().finish(Binary().sums([0.1, 0.2, 0.8], [0, 0, 1]))
    assert (perfect["auc"], perfect["average_precision"]) == (1.0, 1.0)
    assert (perfect["auc_error"], perfect["average_precision_error"]) == (0.0, 0.0)


def test_scikit_learn_agrees() -> None:
    judges = pytest.importorskip("sklearn.metrics")
    p, label = scores(4000, 2)
    found = Binary(100_000).finish(Binary(100_000).sums(p, label))
    assert found["auc"] == pytest.approx(judges.roc_auc_score(label, p), abs=1e-4)
    assert found["average_precision"] == pytest.approx(judges.average_precision_score(label, p), abs=1e-3)
    assert found["log_loss"] == pytest.approx(judges.log_loss(label, p), abs=1e-9)
    assert found["brier"] == pytest.approx(judges.brier_score_loss(label, p), abs=1e-12)


def test_proper_scores_are_exact_and_an_answer_that_was_sure_and_wrong_is_finite() -> None:
    p, label = scores(500, 3)
    found = Binary(2).finish(Binary(2).sums(p, label))
    assert found["log_loss"] == pytest.approx(-np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))
    assert found["brier"] == pytest.approx(np.mean((p - label) ** 2))
    assert found["predicted_over_actual"] == pytest.approx(p.sum() / label.sum())
    assert Binary().finish(Binary().sums([0.0], [1]))["log_loss"] == pytest.approx(-np.log(1e-7))


def test_calibration_is_that_of_groups_of_equal_weight() -> None:
    p, label = scores(15_000, 4)
    order = np.argsort(p)
    parts = [np.array_split(column[order], 15) for column in (p, label)]
    expected = sum(abs((x - y).sum()) for x, y in zip(*parts, strict=True)) / len(p)
    metric = Binary()
    sums = metric.sums(p, label)
    assert metric.finish(sums)["ece"] == pytest.approx(expected, abs=0.001)
    assert expected > 0.01
    curve = metric.calibration(sums, groups=15)
    assert curve[:, 0] == pytest.approx([part.mean() for part in parts[0]], rel=0.02)
    assert curve[:, 1] == pytest.approx([part.mean() for part in parts[1]], abs=0.005)
    assert curve[:, 2] == pytest.approx(1000, abs=20)
    assert metric.finish(metric.sums(p, p))["ece"] == pytest.approx(0, abs=1e-12)


def test_recall_at_a_budget_of_false_alarms() -> None:
    p, label = scores(20_000, 5)
    threshold = np.quantile(p[label == 0], 0.99)
    metric = Binary()
    sums = metric.sums(p, label)
    assert metric.recall_at(sums, 0.01) == pytest.approx(label[p > threshold].sum() / label.sum(), abs=0.01)
    above_all_others = label[p > p[label == 0].max()].sum() / label.sum()
    assert 0 <= metric.recall_at(sums, 0.0) <= above_all_others
    assert metric.recall_at(sums, 1.0) == 1.0
    sure = metric.sums([0.2, 0.3, 0.8, 0.9], [0, 0, 1, 1])
    assert metric.recall_at(sure, 0.0) == 1.0
    assert np.isnan(metric.recall_at(metric.sums([0.5], [1]), 0.1))


def test_errors_by_hand() -> None:
    found = Errors().finish(Errors().sums([1.0, 4, 0], [2.0, 2, 4]))
    assert found == pytest.approx({"mae": 7 / 3, "rmse": 7**0.5, "wape": 7 / 8, "bias": -1.0})


def test_quantiles_by_hand() -> None:
    """A panel of two steps; levels .1, .5, .9."""
    truth = np.array([[2.0, 10.0]])
    quantiles = np.array([[[1.0, 2.0, 5.0], [11.0, 12.0, 13.0]]])
    found = Quantiles(LEVELS).finish(Quantiles(LEVELS).sums(quantiles, truth))
    losses = [0.1 * 1 + 0.9 * 1, 0.0 + 0.5 * 2, 0.1 * 3 + 0.1 * 3]
    assert found["pinball"] == pytest.approx(np.mean(losses) / 2)
    assert found["wql"] == pytest.approx(np.mean([2 * loss / 12 for loss in losses]))
    assert [found[f"coverage_{level}"] for level in LEVELS] == [0.5, 1.0, 1.0]


def test_the_true_quantiles_have_the_least_loss_and_cover_what_they_say() -> None:
    truth = np.random.default_rng(6).poisson(4.0, 40_000).astype(float)
    metric = Quantiles(LEVELS)
    best = np.tile([2.0, 4.0, 7.0], (len(truth), 1))
    sums = {shift: metric.finish(metric.sums(best + shift, truth)) for shift in (-1.0, 0.0, 1.0)}
    assert sums[0.0]["wql"] < min(sums[-1.0]["wql"], sums[1.0]["wql"])
    assert sums[0.0]["coverage_0.9"] >= 0.9 > sums[-1.0]["coverage_0.9"]


CASES: list[tuple[Metric, Array, Array]] = [
    (Binary(512), *scores(300, 7)),
    (Errors(), np.random.default_rng(1).normal(size=300), np.random.default_rng(2).normal(size=300)),
    (
        Quantiles(LEVELS),
        np.sort(np.random.default_rng(3).normal(size=(300, 4, 3))),
        np.random.default_rng(4).normal(size=(300, 4)),
    ),
]


@pytest.mark.parametrize(("metric", "answer", "truth"), CASES, ids=lambda value: type(value).__name__)
def test_parts_add_up_and_weights_are_rows(metric: Metric, answer: Array, truth: Array) -> None:
    whole = metric.sums(answer, truth)
    assert whole.shape == (metric.width,)
    np.testing.assert_allclose(metric.sums(answer[:7], truth[:7]) + metric.sums(answer[7:], truth[7:]), whole)
    assert not metric.sums(answer[:0], truth[:0]).any()
    assert np.isnan(next(iter(metric.finish(np.zeros(metric.width)).values())))
    draws = np.random.default_rng(8).poisson(1.0, len(truth))
    again = np.repeat(np.arange(len(truth)), draws)
    np.testing.assert_allclose(metric.sums(answer, truth, draws), metric.sums(answer[again], truth[again]), atol=1e-9)
    unknown = truth.copy()
    unknown[3] = np.nan
    weight = np.ones(len(truth))
    weight[3] = 0
    np.testing.assert_allclose(
        metric.sums(answer, unknown, weight), metric.sums(np.delete(answer, 3, 0), np.delete(truth, 3, 0))
    )


def test_what_cannot_be_judged_is_refused() -> None:
    for answer, truth, weight, message in (
        ([1.5], [1], None, r"a probability must lie in \[0, 1\]; got 1\.5"),
        ([0.5], [2], None, r"a label must lie in \[0, 1\]; got 2"),
        ([np.nan], [1], None, "an answer must be finite; got nan"),
        ([0.5], [np.inf], None, "a truth must be finite; got inf"),
        ([0.5], [1], [-1], "a weight must not be negative; got -1"),
        ([0.5], [1], [1, 1], r"weights must have the truths' shape, \(1,\), or one a row; they have \(2,\)"),
        ([0.5, 0.5], [1], None, r"answers must have the truths' shape, \(1,\); they have \(2,\)"),
    ):
        with pytest.raises(DataError, match=message):
            Binary().sums(answer, truth, weight)
    with pytest.raises(DataError, match=r"must have the shape \(1, 3\).*they have \(1, 2\)"):
        Quantiles(LEVELS).sums([[1.0, 2.0]], [1.0])
    with pytest.raises(SettingsError, match=r"must ascend within \(0, 1\); got \[0\.5, 0\.1\]"):
        Quantiles((0.5, 0.1))
    with pytest.raises(SettingsError, match="bins of a score must be at least 2; got 1"):
        Binary(1)


def test_it_loads_without_torch() -> None:
    code = "import sys, training.metrics.probabilities, training.metrics.quantities; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
