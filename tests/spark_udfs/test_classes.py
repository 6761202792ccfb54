"""Classes judged, against a plain count; and the nearest text, against a plain product."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_udfs import classes, postings
from spark_udfs.baselines import nearest_text
from training.errors import DataError

ANSWERS = "model string, key string, intent bigint, p double, scope double, in_scope boolean"
ROWS, CLASSES = 400, 4


def drawn() -> tuple[list[tuple[str, float]], list[tuple[Any, ...]]]:
    """Rows of four classes and of none; two models, of which one is right more often."""
    draws = np.random.default_rng(3)
    label = draws.integers(0, CLASSES + 1, ROWS)
    told = []
    for model, right in (("a", 0.9), ("b", 0.6)):
        said = np.where(draws.random(ROWS) < right, np.maximum(label, 1), draws.integers(1, CLASSES + 1, ROWS))
        scope = draws.normal((label > 0) * 2.0, 1.0)
        p = draws.random(ROWS)
        told += [(model, f"k{n}", int(said[n]), float(p[n]), float(scope[n]), bool(scope[n] > 0)) for n in range(ROWS)]
    return [(f"k{n}", float(label[n])) for n in range(ROWS)], told


def test_metrics_are_those_of_a_plain_count(spark: SparkSession) -> None:
    truth, told = drawn()
    answers = spark.createDataFrame(told, ANSWERS).repartition(3)
    labels = spark.createDataFrame(truth, "key string, label double")
    found = classes.judge(answers, labels, ["a", "b"], resamples=50)
    label = np.asarray([value for _, value in truth])
    for name in ("a", "b"):
        said, p, scope, in_scope = (np.asarray([row[at] for row in told if row[0] == name]) for at in (2, 3, 4, 5))
        has, right = label > 0, said == label
        f1 = [
            2 * (right & (label == one)).sum() / ((label == one).sum() + (has & (said == one)).sum())
            for one in range(1, CLASSES + 1)
        ]
        order = np.argsort(-p[has])
        surest = ~right[has][order][: int(0.9 * has.sum())]
        expected = {
            "accuracy": right[has].mean(),
            "macro_f1": np.mean(f1),
            "error_at_90_percent": surest.mean(),
            "kept_in_scope": in_scope[has].mean(),
            "right_of_all": np.where(has, right & in_scope, ~in_scope).mean(),
            "out_of_scope_recall": (~in_scope[~has]).mean(),
            "out_of_scope_auc": (scope[has][:, None] > scope[~has][None]).mean(),
        }
        values = {metric: value["value"] for metric, value in found[name].intervals().items()}
        near = {metric: 0.01 if metric.endswith(("percent", "auc")) else 1e-9 for metric in expected}
        assert all(abs(values[metric] - expected[metric]) <= near[metric] for metric in expected)
        groups = np.array_split(np.flatnonzero(has)[np.argsort(p[has])], 15)
        gaps = sum(abs((right[of] - p[of]).sum()) for of in groups) / has.sum()
        assert values["calibration_error"] == pytest.approx(gaps, abs=0.02)
        assert gaps > 0.15
        assert found[name].users == ROWS
    assert found["a"].minus(found["b"])["accuracy"]["low"] > 0
    curve = classes.risk_over_coverage(answers, labels, ["a"])["a"]
    assert curve[-1] == pytest.approx([1.0, 1 - found["a"].intervals()["accuracy"]["value"]])
    assert [point[0] for point in curve] == sorted(point[0] for point in curve)


def test_what_cannot_be_judged_is_refused(spark: SparkSession) -> None:
    truth, told = drawn()
    answers = spark.createDataFrame(told, ANSWERS)
    labels = spark.createDataFrame(truth, "key string, label double")
    with pytest.raises(DataError, match=r"it holds [0-9]+ rows, and none has one"):
        classes.judge(answers, labels.where("label = 0"), ["a"], resamples=2)
    with pytest.raises(DataError, match="'a' must answer every row that is judged once; it gave 399 to 400"):
        classes.judge(answers.where("key != 'k7'"), labels, ["a"], resamples=2)


def test_the_nearest_text_is_that_of_a_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(1)
    terms = [sorted({*draws.integers(1, 50, 6).tolist()}) for _ in range(150)]
    texts = nearest_text.texts_of(terms, [*range(1, 121), *[0] * 30], 60)
    asked = [sorted({*draws.integers(1, 61, 5).tolist()}) for _ in range(70)] + [[], terms[9]]
    matrix = np.zeros((222, 61))
    for row, own in enumerate(terms + asked):
        matrix[row, own] = texts.idf[own]
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    cosines = matrix[150:] @ matrix[:150].T
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in asked])])
    flat = np.asarray([term for one in asked for term in one], np.int64)
    label, cosine, outside = nearest_text.nearest(texts, flat, offsets)
    np.testing.assert_allclose(cosine, cosines[:, :120].max(axis=1), atol=1e-12)
    np.testing.assert_allclose(outside, cosines[:, 120:].max(axis=1), atol=1e-12)
    assert label[-1] == 1 + terms.index(terms[9])
    np.testing.assert_allclose(cosines[np.arange(72), label - 1], cosine, atol=1e-12)
    shuffled = draws.permutation(150)
    mixed = nearest_text.texts_of([terms[at] for at in shuffled], [(at + 1) * (at < 120) for at in shuffled], 60)
    np.testing.assert_allclose(nearest_text.nearest(mixed, flat, offsets)[1:], (cosine, outside), atol=1e-12)
    nothing = nearest_text.nearest(texts, flat[:0], np.asarray([0, 0]))
    assert [part.tolist() for part in nothing[1:]] == [[0], [0]]
    whole = nearest_text.nearest(texts, flat, offsets)
    monkeypatch.setattr(postings, "PAIRS", 7)
    monkeypatch.setattr(postings, "CELLS", 400)
    for part, of in zip(whole, nearest_text.nearest(texts, flat, offsets), strict=True):
        np.testing.assert_array_equal(part, of)  # to the bit


def test_long_texts_of_common_terms_take_little_memory() -> None:
    texts = nearest_text.texts_of([[*range(1, 101)]] * 20_000, [1] * 20_000, 100)
    flat, offsets = np.tile(np.arange(1, 101), 20), np.arange(21) * 100
    tracemalloc.start()
    try:
        _, cosine, _ = nearest_text.nearest(texts, flat, offsets)
        assert tracemalloc.get_traced_memory()[1] < 120e6  # 20 x 100 x 20,000 pairs at once were 1.6 GB
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(cosine, 1.0)
