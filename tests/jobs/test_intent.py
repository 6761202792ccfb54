"""Intent on a planted click stream, in which a cart says that a visit ends in a purchase; and sessions of a table."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession

from jobs import build_examples, evaluate, score, train
from jobs.ground import Ground
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import decided_on_spark, intent_on_spark
from jobs.tasks.intent_options import IntentOptions, numbers_of
from spark_udfs.features import Cuts
from training.errors import DataError

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=70)
STEPS = "session_id string, user_id string, item_id string, time timestamp, arrival_time timestamp, page string"
PLAIN = ("list", "item", "search")


def planted() -> list[tuple[Any, ...]]:
    """900 visits in 120 days, three in ten of which buy in the end: more carts come on the way of these."""
    rng, steps = random.Random(3), []
    for number in range(900):
        session, user = f"session {number}", f"user {rng.randrange(60)}"
        time, buys = START + timedelta(days=120 * rng.random()), rng.random() < 0.3
        for _ in range(rng.randint(2, 8)):
            page = "basket" if rng.random() < (0.5 if buys else 0.04) else rng.choice(PLAIN)
            steps.append((session, user, f"item {rng.randrange(20)}", time, None, page))
            time += timedelta(seconds=rng.randint(2, 200))
        if buys:
            steps.append((session, user, None, time, None, "paid"))
    return steps


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "intent",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {
            "of": "steps",
            "has": ["session_id", "user_id", "item_id", "arrival_time"],
            "pages": {"cart": ["basket"], "item": ["item", "search"]},
            "orders": ["paid"],
            "after_steps": [2, 4],
        },
        "examples": {"test_from": CUT, "validation_days": 20, "rows_per_group": 100},
        "model": {"name": "row_mlp", "start_logit": -1.0, "calibration": "platt"},
        "training": {"ranks": 1, "epochs": 8, "batch_size": 64, "learning_rate": 0.005},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("intent"))
    late = ("session 0", "user 0", None, CUT - timedelta(days=30), CUT - timedelta(days=29), "paid")
    now = [("open", "user 1", "item 1", CUT + timedelta(days=40, minutes=n), None, "basket") for n in range(3)]
    steps = spark.createDataFrame([*planted(), late, *now], STEPS).repartition(3)
    Tables(spark, settings.tables.root).write("steps", steps, mode="overwrite", job="ingest", inputs={})
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings, spark: SparkSession) -> tuple[Settings, dict[str, Any]]:
    built = build_examples.run(settings, spark)
    train.run(settings, spark)
    return settings, built


def by_visit() -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for step in planted():
        found.setdefault(step[0], []).append(step)
    return found


def test_examples_are_visits_as_of_moments_whose_end_was_known(
    trained: tuple[Settings, dict[str, Any]], spark: SparkSession
) -> None:
    settings, built = trained
    rows = Tables(spark, settings.tables.root).read("examples").collect()
    wanted = {}
    for session, steps in by_visit().items():
        if steps[-1][3] + timedelta(minutes=30) > CUT:
            continue
        for after in (2, 4):
            if len(steps) >= after and steps[after - 1][5] != "paid":
                pages = [step[5] for step in steps[:after]]
                wanted[session, after] = (pages[-1], pages.count("basket"), steps[-1][5] == "paid")
    indices = {row["id"]: row["index"] for row in Tables(spark, settings.tables.root).read("vocabulary_page").collect()}
    pages = {index: page for page, index in indices.items()}
    found = {
        (row["session_id"], row["steps"]): (pages[row["page"]], row["cart_steps"], row["label"] == 1) for row in rows
    }
    assert found == wanted
    assert built["counts"]["late_steps"] == 1
    assert built["counts"]["buying_examples"] == sum(buys for *_, buys in wanted.values())
    assert {column["name"] for column in built["schema"]} == {
        "page", "label", "time", *numbers_of(settings.options)  # type: ignore[arg-type]
    }  # fmt: skip


def test_what_decides_is_found_and_a_threshold_is_chosen(
    trained: tuple[Settings, dict[str, Any]], spark: SparkSession
) -> None:
    result = evaluate.run(trained[0], spark)
    judged = result["protocols"]["after"]
    ours = {name: metric["value"] for name, metric in judged["models"][OURS].items()}
    assert ours["auc"] > 0.85
    assert ours["f1"] > 0.6
    assert 0.6 < ours["predicted_to_actual"] < 1.5
    assert len(result["drawn"]["rows"]) == 10
    assert len(result["curves"]) == 2


def test_visits_that_are_under_way_are_scored(trained: tuple[Settings, dict[str, Any]], spark: SparkSession) -> None:
    settings = trained[0]
    moment = CUT + timedelta(days=40, minutes=2.5)
    now = settings.model_copy(update={"scoring": settings.scoring.model_copy(update={"moment": moment})})
    assert score.run(now, spark)["sessions"] == 1
    [row] = Tables(spark, settings.tables.root).read("intent_scores").collect()
    assert (row["session_id"], row["time"].replace(tzinfo=UTC)) == ("open", CUT + timedelta(days=40, minutes=2))
    assert row["p"] > 0.7  # three carts
    assert row["buys"]


def of_table(spark: SparkSession, folder: Path, rows: list[tuple[Any, ...]], **options: Any) -> dict[str, list[Row]]:
    """What is built of sessions, with x as the only number; without ids where there are none."""
    schema = "time timestamp, x double, browser string, label boolean" + (
        ", session_id string" if "has" in options else ""
    )
    settings = settings_in(folder, options={"has": [], "numbers": ["x"], "ids": ["browser"]} | options)
    sessions = spark.createDataFrame(rows, schema)
    lines = intent_on_spark.lines({"sessions": sessions})
    numbered = spark.createDataFrame([(1, "fire"), (2, "")], "index bigint, id string")
    read = {"sessions": sessions, "lines": lines, "vocabulary_browser": numbered}
    ground = Ground(read, settings, folder)
    made = intent_on_spark.examples(ground, Cuts(VALIDATION, CUT))
    found = {name: frame.collect() for name, frame in made.items()}
    ground.release()
    return found


def test_sessions_of_a_table_are_rows_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    """Equal ones without ids are one; null is an id like any other, and a number that is missing stays so."""
    early, late = START, CUT + timedelta(days=1)
    rows = [
        (early, 1.0, "fire", True),
        (early, 1.0, "fire", True),
        (early, None, None, False),
        (early, 2.0, "other", None),
        (late, 3.0, "fire", None),
        (VALIDATION, 4.0, "fire", False),
    ]
    found = of_table(spark, tmp_path, rows)
    told = sorted(((row["x"], row["browser"], row["label"]) for row in found["examples"]), key=str)
    assert told == [(1.0, 1, 1.0), (4.0, 1, 0.0), (None, 2, 0.0)]
    assert sorted((row["x"], row["split"]) for row in found["queries"]) == [(3.0, "test"), (4.0, "validation")]
    assert all(row["row_id"] == row["session_id"] for row in found["examples"])


def test_sessions_that_cannot_teach_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(START, float(n), "fire", True, f"s{n // 2}") for n in range(4)]
    with pytest.raises(
        DataError, match=r"a session_id must stand once in table 'sessions'; 2 stand more often, .* 's0'"
    ):
        of_table(spark, tmp_path, rows, has=["session_id"])
    alike = [(START, float(n), "fire", True) for n in range(4)]
    with pytest.raises(DataError, match="before the cut there are 4 that buy and 0 that do not"):
        of_table(spark, tmp_path, alike)
    queries = spark.createDataFrame([("a", "validation", 1.0)], "row_id string, split string, label float")
    ground = Ground({"queries": queries}, settings_in(tmp_path), tmp_path)
    with pytest.raises(DataError, match=r"sessions of both labels .* have 1 of label 1 and 0 of label 0"):
        decided_on_spark.thresholds(ground, {}, key=queries["row_id"], row="session")
    late = Ground({"examples": spark.createDataFrame([(CUT,)], "known_at timestamp")}, settings_in(tmp_path), tmp_path)
    with pytest.raises(DataError, match="no session was known before the validation days, which begin at 2025-03-12"):
        decided_on_spark.learnt(late, CUT, tmp_path / "no bundle", "session")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numbers": ["label"]}, "must differ from each other and from .*; got label"),
        ({"numbers": ["x"], "ids": ["x"]}, "got x"),
        ({"numbers": ["x"], "rule": "y"}, "rule must be one of numbers; got 'y'"),
        ({"has": ["user_id"]}, "has must be of session_id, arrival_time where sessions are read; got user_id"),
        ({"pages": {"cart": ["basket"]}}, "pages are counted of steps; set of to steps"),
        ({"of": "steps", "pages": {"cart": ["basket"]}, "flags": ["x"]}, "are columns of sessions; got x"),
        ({"of": "steps", "pages": {"cart": ["basket"]}, "has": ["user_id"]}, "has must name session_id"),
        ({"of": "steps"}, "pages must say by which words steps are counted"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        IntentOptions(**options)
