"""What words add to answers, told by word and by aspect; and decisions by thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs import decisions, rows
from spark_udfs.word_shares import Texts, about, strongest

TEXTS = Texts(
    np.array([9, 1, 9, 9, 9, 9, 2, 9, 1, 9]),
    np.array([0, 8, 8, 10]),
    np.array([0.5, -2, 0.25, 4, 8, 16, 1, 32, 3, -3], np.float32),
)


def test_the_words_that_say_most_come_first_whichever_way() -> None:
    places, shares = (found.to_pylist() for found in strongest(TEXTS, 3))
    assert places == [[7, 5, 4], [], [0, 1]]
    assert shares == [[32, 16, 8], [], [3, -3]]
    assert strongest(TEXTS, 0)[0].to_pylist() == [[], [], []]


def test_an_aspect_is_what_the_words_about_its_own_say() -> None:
    """Of two aspects at one distance a word is the earlier one's; no text's words are another's."""
    assert about(TEXTS, [[1], [2, 50]]).tolist() == [[0.5 - 2 + 0.25 + 4, 8 + 16 + 1 + 32], [0, 0], [0, 0]]
    assert about(TEXTS, []).shape == (3, 0)


def test_the_threshold_of_most_weighted_f1_is_found_and_decisions_are_judged(spark: SparkSession) -> None:
    """By counting all of them."""
    draws = np.random.default_rng(3)
    label = (draws.random(400) < 0.3).astype(float)
    p = np.clip(0.3 * label + 0.7 * draws.random(400), 0, 1).round(2)

    def f1(alarm: np.ndarray, of: int) -> float:
        return float(2 * ((alarm == of) & (label == of)).sum() / ((alarm == of).sum() + (label == of).sum()))

    def weighted(alarm: np.ndarray) -> float:
        return f1(alarm, 0) * float((label == 0).mean()) + f1(alarm, 1) * float((label == 1).mean())

    truth = spark.createDataFrame([(f"{n}", float(of)) for n, of in enumerate(label)], "key string, label double")
    answers = spark.createDataFrame(
        [("ours", f"{n}", float(of)) for n, of in enumerate(p)], "model string, key string, p double"
    )
    cells = rows.cells(answers, truth, ["ours"])
    of_ones = decisions.thresholds(cells, decisions.OF_ONES)["ours"]
    assert of_ones == max(np.unique(p), key=lambda at: (round(f1(p >= at, 1), 9), at))
    found = decisions.thresholds(cells)["ours"]
    best = max(np.unique(p), key=lambda at: (round(weighted(p >= at), 9), at))
    assert found == best
    judged = decisions.judge(
        answers.selectExpr("model", "key", f"p >= {found} AS alarm"), truth, ["ours"], resamples=80
    )
    metrics = judged["ours"].intervals()
    assert metrics["weighted_f1"]["value"] == pytest.approx(weighted(p >= found))
    assert metrics["f1"]["value"] == pytest.approx(f1(p >= found, 1))
    assert metrics["precision"]["value"] == pytest.approx(label[p >= found].mean())
    assert metrics["recall"]["value"] == pytest.approx((p >= found)[label == 1].mean())
    assert metrics["weighted_f1"]["low"] < metrics["weighted_f1"]["value"] < metrics["weighted_f1"]["high"]
    assert judged["ours"].users == 400
    alike = answers.withColumn("p", F.lit(0.3))
    assert decisions.thresholds(rows.cells(alike, truth, ["ours"])) == {"ours": np.inf}  # all would be an alarm
