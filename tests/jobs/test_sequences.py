"""A shop whose examples are sequences: from its events to answers, by the jobs that know no model by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import SparkSession

from jobs import build_examples, builds, score, train
from jobs.build_inputs import inputs_of, pinned
from jobs.learn_spec import learn_spec
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from tests.jobs.small_shop import TEST_FROM, USERS, small_shop
from training.configs import CONFIGS
from training.errors import SettingsError
from training.schema import Schema
from training.state.bundle import load_bundle

EXAMPLES: dict[str, Any] = {"test_from": TEST_FROM, "validation_days": 10, "max_history": 20, "rows_per_group": 100}
MODEL = {"name": "sequence", "dim": 16, "layers": 1, "negatives": 100}
TRAINING = {"ranks": 2, "epochs": 8, "batch_size": 8, "learning_rate": 0.01, "embedding_learning_rate": 0.1}


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The small shop, built in sequences, with a run folder of its own."""
    folder = tmp_path_factory.mktemp("sequences")
    sections = {"examples": {**EXAMPLES, "form": "sequences"}, "model": MODEL, "training": TRAINING}
    settings = small_shop(spark, folder, **sections).model_copy(update={"run_dir": str(folder / "fresh")})
    build_examples.run(settings, spark)
    return settings


def test_each_customer_is_a_row_of_each_side_of_the_validation_cut(spark: SparkSession, settings: Settings) -> None:
    tables = Tables(spark, settings.tables.root)
    manifest = build_examples.run(settings, spark)
    assert manifest["up_to_date"]
    counts = manifest["counts"]
    assert (counts["examples_train"], counts["training_users"]) == (USERS, USERS)
    assert 0 < counts["examples_validation"] <= USERS
    columns = ("user", "history", "history_age", "history_weight", "history_before")
    assert Schema.from_json(manifest["schema"]).names == columns
    rows = tables.read("examples", manifest["versions"]["examples"])
    targets = rows.selectExpr("explode(history_before) AS before").where("before > 0").count()
    assert targets == counts["training_lines"] - USERS  # all but the first of each


def test_it_is_trained_on_ranks_and_answers(spark: SparkSession, settings: Settings) -> None:
    """Half of the customers buy the first half of the items: what is learnt of one half is not shown to the other."""
    summary = train.run(settings)
    bundle = load_bundle(summary["bundle_path"])
    assert bundle.model_name == "sequence"
    assert summary["history"][-1]["loss"] < summary["history"][0]["loss"]
    score.run(settings, spark)
    answers = Tables(spark, settings.tables.root).read("recommendations").where("NOT fallback").collect()
    ours = [row for row in answers if row["item_id"].startswith("item ") and row["user_id"].startswith("user ")]
    same = [int(row["item_id"][5:]) // 15 == int(row["user_id"][5:]) % 2 for row in ours]
    assert len(ours) > 3 * USERS
    assert sum(same) / len(same) > 0.8


def test_a_model_must_have_the_examples_that_it_learns_from(spark: SparkSession, settings: Settings) -> None:
    towers = settings.model_copy(update={"model": {"name": "two_tower", **CONFIGS["two_tower"]().model_dump()}})
    with pytest.raises(
        SettingsError, match=r"'two_tower' must have examples with target, new, weight; .*examples.form"
    ):
        learn_spec(towers, splits=("train",), validate=False)
    factors = {"name": "matrix_factorisation", **CONFIGS["matrix_factorisation"]().model_dump()}
    learn_spec(settings.model_copy(update={"model": factors}), splits=("train",), validate=False)


def test_sequences_are_named_among_the_inputs_where_they_are_asked_for(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """What was built before they were there stays."""
    tables, task = Tables(spark, settings.tables.root), TASKS["recommend"]
    pins = pinned(tables, task, settings)
    named = inputs_of(task, pins, settings)["settings"]
    assert named["form"] == "sequences"
    plain = settings.model_copy(update={"examples": type(settings.examples)(**EXAMPLES)})
    assert inputs_of(task, pins, plain)["settings"] == {k: v for k, v in named.items() if k != "form"}
    small = small_shop(spark, tmp_path)
    assert builds.published(Tables(spark, small.tables.root)) is not None
    assert build_examples.run(small, spark)["up_to_date"]


def test_the_model_knows_as_many_items_as_the_vocabulary(settings: Settings) -> None:
    spec = learn_spec(settings, splits=("train",), validate=False)
    sizes = Schema.from_json(spec["schema"]).vocabularies()
    model = load_bundle(next(Path(settings.run_dir, "bundles").iterdir())).model()
    assert model.item_matrix().shape == (sizes["items"], MODEL["dim"] + 1)  # type: ignore[operator]
    assert bool(torch.isfinite(model.item_matrix()).all())  # type: ignore[operator]
