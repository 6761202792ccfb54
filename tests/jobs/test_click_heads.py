"""Carts and purchases beside clicks: labels as of a window, and answers of each head.

What is learnt from is kept by the contract of all tasks (test_tasks.py).
"""

from __future__ import annotations

from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import answers
from jobs.ground import Answer
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS, click, click_heads, click_on_spark
from spark_udfs import vocabularies
from tests.jobs import test_click
from tests.jobs.test_click import CUT, LONG, START, settings_in
from tests.training.test_ranking import published
from training.errors import BundleError, TableError
from training.models.multi_task import MultiTask
from training.row_configs import MultiTaskConfig

CART = timedelta(minutes=10)
HEADS = {"cart": 10.0, "purchase": 2880.0}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    options = {"ids": [], "max_history": 5, "lately": 2, "places": 4, "heads": HEADS}
    return settings_in(tmp_path_factory.mktemp("heads"), options=options)


@pytest.fixture(scope="module")
def bundle(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the three labels that has learnt nothing: one tower's answer is a half, the others' less."""
    torch.manual_seed(0)
    columns = click.schema({"users": 30, "items": 20}, settings)
    model = MultiTask(MultiTaskConfig(), columns)
    with torch.no_grad():
        for tower, start in zip(model.towers, (0.0, -1.0, -2.0), strict=True):
            tower[-1].bias.fill_(start)  # type: ignore[index]
    return published(tmp_path_factory.mktemp("bundles"), "multi_task", model).path


def known(spark: SparkSession, settings: Settings, folder: Path, bundle: Path) -> click_on_spark.Ground:
    """A ground of sixty lists, with what came of their clicks."""
    rows = [row for row in test_click.planted()[: 60 * LONG] if row[1]]
    shown = spark.createDataFrame(rows, test_click.IMPRESSIONS).withColumns(
        {"cart_time": F.expr("IF(label, time, NULL)"), "purchase_time": F.lit(None).cast("timestamp")}
    )
    lines = click_on_spark.lines({"impressions": shown})
    none = spark.createDataFrame([], vocabularies.SCHEMA)
    read = {
        f"vocabulary_{kind}": vocabularies.new_entries(lines.select(F.col(column).alias("id")), none)
        for kind, column in click.kinds(settings).items()
    }
    return click_on_spark.Ground({**read, "lines": lines}, settings, folder, bundle)


def test_answers_have_a_column_for_each_head(
    settings: Settings, spark: SparkSession, bundle: Path, tmp_path: Path
) -> None:
    ground = known(spark, settings, tmp_path, bundle)
    scored = click_on_spark.score(ground, CUT)
    rows = scored.answer(scored.asked).collect()
    ground.release()
    assert scored.more == ("p_cart", "p_purchase")
    assert len(rows) > 10 * LONG
    for row in rows:
        found = [row["p"], row["p_cart"], row["p_purchase"]]
        assert found == pytest.approx(torch.sigmoid(torch.tensor([0.0, -1.0, -2.0])).tolist())


def test_each_head_is_asked_by_its_own_slice(settings: Settings, spark: SparkSession, bundle: Path) -> None:
    """Only of those that happened to some rows and not to others; the rate that must be beaten is that head's."""
    ones = [(f"k{n}", float(n < 4), float(n < 2), 0.0, 0.5) for n in range(8)]
    rows = spark.createDataFrame(ones, "key string, label float, cart float, purchase float, item_rate float")
    slices = click_heads.slices(rows, HEADS)
    assert {name: one.what for name, one in slices.items()} == {"cart": "the same, of cart within 10 minutes"}
    assert [row["label"] for row in slices["cart"].rows.orderBy("key").collect()] == [1.0] * 2 + [0.0] * 6
    rate = click_heads.past_rate(rows, HEADS)
    shares = {"after": 1.0, "cart": 0.5, "purchase": 0.0}
    assert of_slices(rate, dict.fromkeys(shares, rows)) == {(name, 0.5 * share) for name, share in shares.items()}
    columns = click.schema({"users": 30, "items": 20}, settings)
    empty = [F.array().cast("array<bigint>").alias(name) for name in ("clicked", "clicked_lately")]
    given = [
        F.lit(0).cast("bigint" if column.vocabulary else "float").alias(column.name)
        for column in columns
        if column.kind in ("id", "dense")
    ]
    ours = click_heads.bundled({"millrace": bundle}, HEADS)["millrace"]
    asked = rows.select("key", *given, *empty).where("key = 'k0'")
    expected = {"after": 0.5, "new_items": 0.5, "cart": 0.2689414, "purchase": 0.1192029}
    assert dict(of_slices(ours, dict.fromkeys(expected, asked))) == pytest.approx(expected)


def of_slices(answer: Answer, slices: dict[str, DataFrame]) -> set[tuple[str, float]]:
    """The names of slices with what is answered to their rows, each answer once; by one job for all."""
    answers = (answer(rows, name).select(F.lit(name).alias("slice"), "p") for name, rows in slices.items())
    return {(row["slice"], row["p"]) for row in reduce(DataFrame.unionByName, answers).collect()}


def test_other_labels_and_columns_than_the_settings_name_are_refused(
    spark: SparkSession, bundle: Path, tmp_path: Path
) -> None:
    rows = spark.range(1)
    with pytest.raises(BundleError, match=r"options.heads names, cart; .*has learnt label, cart, purchase: run"):
        click_heads.predictions(rows, str(bundle), {"cart": 10.0}, key="id")
    with pytest.raises(BundleError, match=r"options.heads names, nothing; "):
        click_heads.predictions(rows, str(bundle), {}, key="id")
    tables = Tables(spark, str(tmp_path))
    held = rows.selectExpr("id", "'b' AS bundle", "'x' AS as_of")
    tables.write("click_scores", held, mode="overwrite", job="score", inputs={}, partition_by=answers.FOLDERS)
    with pytest.raises(
        TableError, match=r"a column for each answer; it lacks .*p_cart, which these settings, or this version"
    ):
        answers.refuse_another(tables, TASKS["click"], ("p_cart",))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"heads": {"label": 5}}, r"no other columns' names; got \['label', 'label_time'\]"),
        ({"heads": {"cart": 5}, "numbers": ["cart_time"]}, r"no other columns' names; got \['cart_time'\]"),
        ({"heads": {"item_rate": 5}}, r"no other columns' names; got \['item_rate'\]"),
        ({"heads": {"cart": 5, "cart_time": 5}}, r"no other columns' names; got \['cart_time'\]; name them otherwise"),
        ({"heads": {"cart": 0}}, "greater than 0"),
    ],
)
def test_heads_of_others_names_are_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings_in(tmp_path, options=options)


def test_what_happened_before_an_item_was_shown_or_late_did_not_come_of_it(spark: SparkSession) -> None:
    """And all labels are known when the longest window is over, and the impression has arrived."""
    times = [START - CART / 2, START, START + CART, START + 1.1 * CART, None]
    rows = [(START, START + timedelta(hours=number), at, at) for number, at in enumerate(times)]
    made = spark.createDataFrame(rows, "time timestamp, label_time timestamp, cart_time timestamp, b_time timestamp")
    found = click_heads.labelled(made, {"cart": 10.0, "b": 5.0}).orderBy("label_time").collect()
    assert [row["cart"] for row in found] == [False, True, True, False, False]
    assert [row["b"] for row in found] == [False, True, False, False, False]
    assert found[0]["labels_time"] - found[0]["time"] == CART
    assert found[1]["labels_time"] == found[1]["label_time"]
