"""The AUC within groups, against a loop over pairs; groups are resampled whole."""

from __future__ import annotations

import random

import pytest
from pyspark.sql import SparkSession

from spark_udfs.grouped import grouped_auc

Row = tuple[str, str | None, float, float]


def drawn() -> list[Row]:
    """key, group, label, p: groups of many sizes with many ties, one of one label, and rows of no group."""
    rng = random.Random(1)
    rows = []
    for number in range(400):
        group = rng.choice([*(f"g{n}" for n in range(12)), None])
        label = 0.0 if group == "g3" else float(rng.random() < 0.4)
        rows.append((f"k{number}", group, label, round(rng.random() + 0.3 * label, 1)))
    return rows


def plainly(rows: list[Row]) -> tuple[int, float]:
    total, ordered, groups = 0, 0.0, 0
    for group in {row[1] for row in rows if row[1] is not None}:
        mine = [row for row in rows if row[1] == group]
        yes, no = ([row[3] for row in mine if row[2] == label] for label in (1.0, 0.0))
        if yes and no:
            auc = sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))
            total, ordered, groups = total + len(mine), ordered + auc * len(mine), groups + 1
    return groups, ordered / total


def test_it_is_that_of_a_loop_over_pairs(spark: SparkSession) -> None:
    rows = drawn()
    truth = spark.createDataFrame([row[:3] for row in rows], "key string, unit string, label double").repartition(3)
    answers = [(name, row[0], row[3] if name == "ours" else -row[3]) for row in rows for name in ("ours", "reverse")]
    found = grouped_auc(
        spark.createDataFrame(answers, "model string, key string, p double"), truth, ["ours", "reverse"], resamples=200
    )
    groups, value = plainly(rows)
    ours = found["ours"].intervals()["gauc"]
    assert found["ours"].users == groups
    assert ours["value"] == pytest.approx(value)
    assert ours["low"] < value < ours["high"]
    assert found["reverse"].intervals()["gauc"]["value"] == pytest.approx(1 - value)
    assert found["ours"].minus(found["reverse"])["gauc"]["value"] == pytest.approx(2 * value - 1)
