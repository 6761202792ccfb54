"""Customers held out whole: asked by their questions, and known to nothing that is learnt."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, evaluate
from jobs.ground import Ground
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from jobs.tasks.recommend_on_spark.asked import held_out
from jobs.tasks.recommend_on_spark.asked import questions as questions_of
from jobs.tasks.recommend_on_spark.known import cap_of
from spark_udfs import features
from tests.jobs.small_shop import EVENTS, ITEMS, START, small_shop
from training.errors import DataError, SettingsError

HALF = ITEMS // 2
VALIDATION, TEST = 40, 50  # days of the shop's cuts
STRANGE = "sold to nobody"


def questions() -> list[tuple[str, str, float]]:
    """Who is asked at either cut has four items of one half before it, then two more of it, and a strange one."""
    told = []
    for user in range(8):
        cut, half = (TEST, VALIDATION)[user % 2], HALF * (user // 2 % 2)
        told += [(f"asked {user}", f"item {half + (user + 2 * n) % HALF}", cut + day)
                  for n, day in enumerate((-4.0, -3.0, -2.0, -1.0, 0.0, 0.0))]  # fmt: skip
        told += [(f"asked {user}", STRANGE, cut + 0.0)]
    return told


def append(spark: SparkSession, settings: Settings, rows: list[tuple[str, str, float]]) -> None:
    events: list[tuple[Any, ...]] = [
        (f"q{user}{n}", None, user, item, "question", at, at, 1, 2.5, f"the {item}")
        for n, (user, item, day) in enumerate(rows)
        for at in [START + timedelta(days=day)]
    ]
    Tables(spark, settings.tables.root).write(
        "events", spark.createDataFrame(events, EVENTS), mode="append", job="ingest", inputs={"asked": len(rows)}
    )


class Asked(NamedTuple):
    """A shop with customers who are asked, as it was built; and the rows of its tables when they were not there yet."""

    settings: Settings
    manifest: dict[str, Any]
    before: dict[str, list[str]]


def rows_of(tables: Tables) -> dict[str, list[str]]:
    names = ("vocabulary_users", "vocabulary_items", "examples", "catalogue", "histories")
    return {name: sorted(map(str, tables.read(name).collect())) for name in names}


@pytest.fixture(scope="module")
def asked(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    baselines = ("als", "ease")
    wanted = {"ks": (5,), "bootstrap": 100, "als_rank": 4, "als_iterations": 5, "ease_l2": 5.0, "baselines": baselines}
    settings = small_shop(spark, folder, evaluation=wanted)
    before = rows_of(Tables(spark, settings.tables.root))
    append(spark, settings, questions())
    examples = settings.examples.model_copy(update={"asked": "questions"})
    settings = settings.model_copy(update={"examples": examples})
    return Asked(settings, build_examples.run(settings, spark), before)


def test_nothing_is_learnt_from_those_who_are_asked(spark: SparkSession, asked: Asked) -> None:
    tables, counts = Tables(spark, asked.settings.tables.root), asked.manifest["counts"]
    assert rows_of(tables) == asked.before
    assert (counts["question_lines"], counts["question_lines_of_unknown_items"]) == (56, 8)
    item = {row["id"]: row["index"] for row in tables.read("vocabulary_items").collect()}
    rows = {(row["split"], row["user_id"]): row for row in tables.read("queries").collect()}
    assert set(rows) == {(("test", "validation")[user % 2], f"asked {user}") for user in range(8)}
    had: dict[str, list[int]] = {}
    for user, name, _ in questions():
        had.setdefault(user, []).append(item.get(name, 0))
    for (_, user), row in rows.items():
        assert row["user"] == 0
        assert row["history"] == had[user][:4]
        assert row["history_age"] == [4.0, 3.0, 2.0, 1.0]
        assert (row["seen"], row["truth"]) == (sorted(had[user][:4]), sorted(had[user][4:6]))


@pytest.mark.slow
def test_of_one_who_asked_too_much_the_newest_lines_count(spark: SparkSession, asked: Asked, tmp_path: Path) -> None:
    """At a cut at which customers from whom is learnt have too many lines too."""
    tables, cuts = Tables(spark, asked.settings.tables.root), asked.manifest["cuts"]
    examples = asked.settings.examples.model_copy(update={"max_lines": 3})
    read = {name: tables.read(name) for name in ("events", "vocabulary_users", "vocabulary_items")}
    ground = Ground(read, asked.settings.model_copy(update={"examples": examples}), tmp_path)
    validation, test = (datetime.fromisoformat(cuts[name]) for name in ("validation", "test"))
    every = read["vocabulary_items"].select(F.col("index").alias("item"))
    learnt = features.indexed(features.purchases(read["events"]), read["vocabulary_users"], read["vocabulary_items"])
    assert cap_of(ground, learnt, test) is not None
    splits = {features.VALIDATION: (validation, test), features.TEST: (test, None)}
    rows = questions_of(ground, splits, lambda _: every).collect()
    ground.release()
    assert [(len(row["history"]), len(row["seen"])) for row in rows] == [(3, 3)] * 8


@pytest.mark.slow
def test_they_are_judged_one_by_one_by_all_who_can_answer(spark: SparkSession, asked: Asked) -> None:
    result = evaluate.run(asked.settings, spark)["protocols"]
    assert list(result) == ["new", "any"]
    for judged in result.values():
        assert judged["users"] == 4
        assert judged["pairs"]["count"] == 8
        assert list(judged["models"]) == ["millrace", "als", "ease"]
    for name in ("als", "ease"):  # of what they have, each knows their half of the shop
        assert result["new"]["models"][name]["recall_at_5"]["value"] > 0.2


def test_who_is_held_out_is_learnt_nothing_from(spark: SparkSession) -> None:
    lines = spark.createDataFrame([("a",), ("b",), ("b",)], "user_id string")
    customers = spark.createDataFrame([(1, "b"), (2, "c")], "index bigint, id string")
    with pytest.raises(DataError, match=r"must have no others before the test cut.*; 1 have; take one or the other"):
        held_out(lines, customers)
    with pytest.raises(
        DataError, match=r"examples\.asked=questions needs events of the kind question, and there is no"
    ):
        held_out(lines.where("user_id IS NULL"), customers)


def test_questions_teach_nothing() -> None:
    with pytest.raises(SettingsError, match="from events of the kind question nothing is learnt; leave it out"):
        load_settings(None, ["examples.weights={purchase: 1, question: 1}"])
