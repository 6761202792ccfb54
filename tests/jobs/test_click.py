"""Clicks on a planted world: users like items of their own colour, and few look at what stands below."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, evaluate, score, train
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import click_known, click_on_spark
from spark_udfs.pieces import FIRST
from spark_udfs.pieces import name as piece_of
from training.errors import DataError

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=45), START + timedelta(days=38)
WINDOW = timedelta(minutes=30)
IMPRESSIONS = (
    "list_id string, user_id string, item_id string, position int, time timestamp, arrival_time timestamp, "
    "label boolean, device string"
)
CANDIDATES = "user_id string, item_id string, rank int, bundle string, moment timestamp"
USERS, ITEMS, LONG = 24, 12, 4


@cache
def planted() -> list[tuple[Any, ...]]:
    """900 lists of four items in 60 days; every fourth list arrives a day late, and a few users are not known."""
    rng, rows = random.Random(4), []
    for number in range(900):
        user, time = rng.randrange(USERS), START + timedelta(days=60 * rng.random())
        arrival = time + timedelta(days=1) if number % 4 == 0 else None
        name = None if rng.random() < 0.03 else f"user {user}"
        for place, item in enumerate(rng.sample(range(ITEMS), LONG)):
            clicked = rng.random() < (0.8 if item % 3 == user % 3 else 0.06) / (1 + place)
            rows.append((f"list {number}", name, f"item {item}", place + 1, time, arrival, clicked, f"d{user % 2}"))
    return rows


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "click",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {"ids": ["device"], "has": ["position", "arrival_time"], "places": 3, "max_history": 5, "lately": 2},
        "examples": {"test_from": CUT, "validation_days": 7, "rows_per_group": 200},
        "model": {"name": "fm", "dim": 8},
        "training": {"ranks": 1, "epochs": 8, "batch_size": 64, "learning_rate": 0.02},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


def write(spark: SparkSession, settings: Settings, rows: list[tuple[Any, ...]]) -> Tables:
    tables = Tables(spark, settings.tables.root)
    made = spark.createDataFrame(rows, IMPRESSIONS).repartition(3)
    tables.write("impressions", made, mode="overwrite", job="ingest", inputs={"rows": len(rows)})
    return tables


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("click"))
    write(spark, settings, planted())
    build_examples.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings, spark: SparkSession) -> Settings:
    train.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def result(trained: Settings, spark: SparkSession) -> dict[str, Any]:
    return evaluate.run(trained, spark)


def held(settings: Settings, spark: SparkSession, name: str, where: str = "true") -> dict[tuple[str, str], Row]:
    rows = Tables(spark, settings.tables.root).read(name).where(where).collect()
    return {tuple(json.loads(row["impression_id"])): row for row in rows}  # type: ignore[misc]


def known(row: tuple[Any, ...]) -> datetime:
    """From when on it is known whether it was clicked."""
    return max(row[4] + WINDOW, row[5] or row[4])


def test_examples_are_what_was_known_before_the_cut(settings: Settings, spark: SparkSession) -> None:
    wanted = {
        (row[0], row[2]): FIRST if known(row) <= VALIDATION else piece_of(VALIDATION)
        for row in planted()
        if known(row) <= CUT
    }
    assert {key: row["piece"] for key, row in held(settings, spark, "examples").items()} == wanted


def test_what_is_known_of_user_and_item_is_as_of_the_moment(settings: Settings, spark: SparkSession) -> None:
    """By a loop over all rows: of users whose clicks are counted and listed, and of items."""
    rows, found = planted(), held(settings, spark, "examples")
    index = {row["id"]: row["index"] for row in Tables(spark, settings.tables.root).read("vocabulary_items").collect()}
    for row in rows[::37]:
        if (row[0], row[2]) not in found:
            continue
        got, at = found[row[0], row[2]], row[4]
        before = [one for one in rows if one[4] < at and (one[5] or one[4]) <= at]
        told = [one for one in before if known(one) <= at]
        for entity, column in (("user", 1), ("item", 2)):
            shown, labels = ([one for one in of if row[column] and one[column] == row[column]] for of in (before, told))
            assert got[f"{entity}_rows"] == len(shown)
            assert got[f"{entity}_labels"] == len(labels)
            assert got[f"{entity}_clicks"] == sum(one[6] for one in labels)
        clicks = sorted((known(one), one[4], index[one[2]]) for one in told if one[6] and row[1] and one[1] == row[1])
        assert got["clicked"] == [item for _, _, item in clicks if clicks][-5:]
        assert got["clicked_lately"] == got["clicked"][-2:]
        assert got["item_clicked"] == got["clicked"].count(index[row[2]])
        assert got["position"] == min(row[3], 3)


@pytest.mark.slow
def test_a_model_finds_the_taste_and_the_look(result: dict[str, Any]) -> None:
    judged = result["protocols"]["after"]
    ours, rate = (judged["models"][name] for name in (OURS, "past_click_rate"))
    assert judged["users"] == sum(row[4] >= CUT and known(row) <= max(one[4] for one in planted()) for row in planted())
    assert ours["gauc"]["value"] > 0.75
    assert ours["auc"]["value"] > 0.75 > rate["auc"]["value"]
    assert judged["differences"]["past_click_rate"]["log_loss"]["high"] < 0
    assert {*result["protocols"]} == {"after", "new_users"}  # who is not known counts as new
    assert len(result["drawn"]["rows"]) == 10
    assert [curve["title"] for curve in result["curves"]] == ["Precision over recall", "Predicted and actual"]


@pytest.mark.slow
def test_candidates_stand_in_the_order_of_what_a_user_likes(trained: Settings, spark: SparkSession) -> None:
    """Of a user's lists the newest; the answer names the bundle that listed them; a second run changes nothing."""
    every = [
        (f"user {user}", f"item {item}", item + 1, "retrieval-1", START + timedelta(days=58))
        for user in range(USERS)
        for item in (*range(ITEMS), 99)
    ]
    old = [
        ("user 1", "item 5", 1, "retrieval-0", START + timedelta(days=57)),
        ("user 1", "item 7", 1, "retrieval-2", START + timedelta(days=99)),  # nobody has listed it yet
        ("user 99", "item 1", 1, "x", START),
    ]
    tables = Tables(spark, trained.tables.root)
    tables.write(
        "candidates", spark.createDataFrame(every + old, CANDIDATES), mode="overwrite", job="ingest", inputs={}
    )
    summary = score.run(trained, spark)
    rows = tables.read("click_scores").collect()
    assert summary["users"] == USERS + 1
    assert summary["items"] == len(rows) == len(every) + 1
    assert {(row["listed_by"], row["listed_rank"]) for row in rows if row["user_id"] == "user 99"} == {("x", 1)}
    assert {row["listed_by"] for row in rows} == {"retrieval-1", "x"}
    right = 0
    for user in range(USERS):
        own = sorted((row for row in rows if row["user_id"] == f"user {user}"), key=lambda row: row["rank"])
        assert [row["rank"] for row in own] == list(range(1, ITEMS + 2))
        assert [row["p"] for row in own] == sorted((row["p"] for row in own), reverse=True)
        right += sum(int(row["item_id"].split()[1]) % 3 == user % 3 for row in own[:4])
    assert right > 0.7 * 4 * USERS
    assert score.run(trained, spark)["up_to_date"]
    assert build_examples.run(trained, spark)["up_to_date"]  # candidates are no part of a build


def test_a_candidate_knows_what_an_impression_of_that_moment_knew(
    settings: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    """Asked by another way: what is learnt from and what is scored are the same numbers."""
    tables = Tables(spark, settings.tables.root)
    read = {name: tables.read(name) for name in ("vocabulary_users", "vocabulary_items", "vocabulary_device")}
    lines = click_on_spark.lines({"impressions": spark.createDataFrame(planted(), IMPRESSIONS)})
    ground = click_on_spark.Ground({**read, "lines": lines}, settings, tmp_path)
    shown = click_known.shown_lists(ground)
    lists = sorted({(row[4], row[0]) for row in planted()})[700:703]
    asked = shown.where(F.col("list_id").isin([name for _, name in lists]))
    found = {row["impression_id"]: row for row in click_known.as_of_moment(ground, asked, shown).collect()}
    assert len(found) == LONG * len(lists)
    for key, row in held(settings, spark, "queries").items():
        if (got := found.get(row["impression_id"])) is not None:
            names = [name for name in got.asDict() if name not in ("impression_id", "arrival_time")]
            assert {name: got[name] for name in names} == {name: row[name] for name in names}, key
    assert any(row["user_labels"] > 5 for row in found.values())


@pytest.mark.slow
def test_without_candidates_the_last_lists_are_put_into_order(
    trained: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    moment = START + timedelta(days=50)
    shown = spark.createDataFrame([row for row in planted() if row[4] < moment], IMPRESSIONS)
    tables = Tables(spark, trained.tables.root)
    read = {name: tables.read(name) for name in ("vocabulary_users", "vocabulary_items", "vocabulary_device")}
    bundle = next((Path(trained.run_dir) / "bundles").iterdir())
    ground = click_on_spark.Ground(
        {**read, "lines": click_on_spark.lines({"impressions": shown})}, trained, tmp_path, bundle
    )
    scored = click_on_spark.score(ground, moment)
    rows = scored.answer(scored.asked).collect()
    last: dict[str, tuple[datetime, str]] = {}
    for row in planted():
        if row[1] and row[4] < moment and (row[5] or row[4]) <= moment:
            last[row[1]] = max(last.get(row[1], (START, "")), (row[4], row[0]))
    assert {(row["user_id"], row["listed_by"]) for row in rows} == {(user, name) for user, (_, name) in last.items()}
    assert len(rows) == LONG * len(last)
    assert all(sorted(row["rank"] for row in rows if row["user_id"] == user) == [1, 2, 3, 4] for user in last)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            lambda row: (*row[:3], 4, *row[4:]),
            "must show an item once in table 'impressions'; 1 do not, such as list 'list 0'",
        ),
        (
            lambda row: (*row[:2], "item x", 4, row[4] + WINDOW, *row[5:]),
            "must have one time in .* such as list 'list 0'",
        ),
        (lambda row: (*row[:2], "item x", 0, *row[4:]), "must have positions from 1 on in .* such as list 'list 0'"),
    ],
)
def test_odd_lists_are_refused(more: Any, problem: str, spark: SparkSession) -> None:
    rows = planted()[:40]
    shown = spark.createDataFrame([*rows, more(rows[0])], IMPRESSIONS)
    with pytest.raises(DataError, match=problem):
        click_known.refuse_odd_lists(shown)
    click_known.refuse_odd_lists(spark.createDataFrame(rows, IMPRESSIONS))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ids": ["label"]}, "names must differ"),
        ({"numbers": ["fraud"]}, "names must differ"),
        ({"numbers": ["user_rate", "a", "a"]}, "names must differ .*; got a, user_rate"),
        ({"places": 0}, "greater than or equal"),
        ({"k": 3}, "k"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings_in(tmp_path, options=options)
