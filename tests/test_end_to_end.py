"""The main job, all stages, on a small shop; then again, changing nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.demo import run_demo
from jobs.tables import Tables

FLAGS = [
    "shop.users=150",
    "shop.items=80",
    "training.epochs=4",
    "training.batch_size=256",
    "tuning.trials=1",
    "tuning.epochs=1",
    "evaluation.als_rank=8",
    "evaluation.als_iterations=3",
    "evaluation.bootstrap=100",
]
STAGES = ["simulate", "ingest", "build_examples", "tune", "train", "evaluate", "score", "feedback", "report"]


@pytest.fixture(scope="module")
def adaptive(spark: SparkSession) -> Iterator[SparkSession]:
    """The session with plans that Spark adapts as they run, as in every session but that of tests."""
    spark.conf.set("spark.sql.adaptive.enabled", "true")
    yield spark
    spark.conf.set("spark.sql.adaptive.enabled", "false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the job's shop lies."""
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def first(adaptive: SparkSession, folder: Path) -> dict[str, Any]:
    """What the main job found."""
    return run_demo(None, str(folder), FLAGS)


@pytest.mark.timeout(1800)
def test_the_main_job_end_to_end(adaptive: SparkSession, folder: Path, first: dict[str, Any]) -> None:
    run = folder / "shop" / "run"
    assert [entry["stage"] for entry in json.loads((run / "stages.json").read_text())] == STAGES
    recall = {name: figures["recall_at_20"]["value"] for name, figures in first["protocols"]["new"]["models"].items()}
    assert set(recall) == {"millrace", "popularity", "recent_popularity", "item_item", "als"}
    assert recall["millrace"] > recall["popularity"], "the planted tastes were not found"
    recommended = Tables(adaptive, str(folder / "shop" / "tables")).read("recommendations")
    assert recommended.where("item_id IS NULL OR bundle IS NULL").isEmpty()
    assert recommended.groupBy("user_id", "moment", "bundle").count().where("count > 20").isEmpty()
    rounds = json.loads((run / "feedback.json").read_text())["rounds"]
    assert [entry["shown"] > 0 for entry in rounds] == [True, True, True]
    page = (run / "report.html").read_text()
    assert "<script src=" not in page, "the report must need no network"


@pytest.mark.timeout(1800)
def test_again_it_changes_nothing(adaptive: SparkSession, folder: Path, first: dict[str, Any]) -> None:
    run, tables = folder / "shop" / "run", Tables(adaptive, str(folder / "shop" / "tables"))
    names = ("events", "examples", "queries", "catalogue", "vocabulary_items", "recommendations")
    versions = {name: tables.version(name) for name in names}
    bundle = (run / "latest.json").read_text()
    second = run_demo(None, str(folder), FLAGS)
    assert {name: tables.version(name) for name in names} == versions
    assert (run / "latest.json").read_text() == bundle
    assert second["protocols"] == first["protocols"]
