"""Scoring a small shop: who gets what, and that a second run changes nothing."""

from __future__ import annotations

import json
import runpy
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from cluster.errors import EnvironmentProblem
from jobs import answers, builds, ingest_feedback, report, score, score_ground
from jobs.ground import Before, Ground
from jobs.in_sql import register
from jobs.recommender import Recommender
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from jobs.tasks.recommend_on_spark import scored
from jobs.trained import latest_bundle
from spark_udfs import features
from spark_udfs.features import Cuts
from spark_udfs.histories import histories
from tests.jobs.anew import make_anew
from tests.jobs.silences import silences
from tests.jobs.small_shop import EVENTS, ITEMS, LOOKER, NEW_ITEM, NEWCOMER, START, TEST_FROM, USERS, small_shop
from training.errors import BundleError, DataError, SettingsError, TableError

SINCE, LATER = START + timedelta(days=58, hours=12), START + timedelta(days=62)


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return small_shop(spark, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def summary(settings: Settings, spark: SparkSession) -> dict:
    return score.run(settings, spark)


@pytest.fixture(scope="module")
def rows(summary: dict, settings: Settings, spark: SparkSession) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in Tables(spark, settings.tables.root).read("recommendations").orderBy("user_id", "rank").collect():
        found.setdefault(row["user_id"], []).append(row)
    return found


def test_everybody_gets_k_rows_that_name_bundle_and_moment(summary: dict, rows: dict[str, list[Row]]) -> None:
    assert set(rows) == {*(f"user {user}" for user in range(USERS)), LOOKER, NEWCOMER}
    for of_user in rows.values():
        assert [row["rank"] for row in of_user] == [1, 2, 3, 4]
        assert {row["bundle"] for row in of_user} == {summary["bundle"]}
        assert len({row["item_id"] for row in of_user}) == 4
        scores = [row["score"] for row in of_user]
        assert scores == sorted(scores, reverse=True)
    assert summary["rows"] == 4 * (USERS + 2)


def test_counts_say_who_is_cold_and_what_is_unknown(summary: dict, rows: dict[str, list[Row]]) -> None:
    assert (summary["users"], summary["cold_users"], summary["unknown_users"]) == (USERS + 2, 1, 2)
    assert summary["unknown_ids"] == 1  # the new item's purchase
    assert summary["fallback_rows"] == 4
    assert {user for user, of_user in rows.items() if of_user[0]["fallback"]} == {LOOKER}
    assert {user for user, of_user in rows.items() if of_user[0]["user"] == 0} == {LOOKER, NEWCOMER}
    assert NEW_ITEM not in {row["item_id"] for of_user in rows.values() for row in of_user}


def test_nobody_is_shown_what_they_have(rows: dict[str, list[Row]], settings: Settings, spark: SparkSession) -> None:
    events = Tables(spark, settings.tables.root).read("events").where("kind = 'purchase'").collect()
    bought = {(row["user_id"], row["item_id"]) for row in events}
    assert not bought & {(row["user_id"], row["item_id"]) for of_user in rows.values() for row in of_user}


@pytest.mark.slow
def test_sql_gives_the_same_lists(settings: Settings, spark: SparkSession) -> None:
    bundle, root = latest_bundle(settings.run_dir), settings.tables.root
    assert register(spark, bundle, tables=root) == "recommend"
    recommender = Recommender.load(bundle, root)
    (by_id,) = recommender.recommend(["user 3"], k=3)
    found = spark.sql("SELECT * FROM recommend('user 3', 3)").collect()
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert [row["item_id"] for row in found] == [one.item_id for one in by_id]
    baskets = "(VALUES (1, array('item 1', 'item 4'), array(9, 2)), (2, NULL, NULL)) AS b(basket, items, ages)"
    lateral = f"SELECT basket, r.* FROM {baskets}, LATERAL recommend(items, 2, ages) r ORDER BY basket, rank"
    by_history = recommender.recommend(history=[["item 1", "item 4"], []], ages=[[9, 2], []], k=2)
    told = [(row["item_id"], row["name"], row["fallback"]) for row in spark.sql(lateral).collect()]
    assert told == [(one.item_id, one.name, one.fallback) for row in by_history for one in row]
    with pytest.raises(PythonException, match="it has no 'nobody'"):
        spark.sql("SELECT * FROM recommend('nobody', 3)").collect()


def test_the_notebook_runs_as_a_script(
    settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Path(__file__).parents[2] / "docs" / "notebooks" / "asking_a_bundle.py"
    first, *cells = notebook.read_text().split("\n\n# COMMAND ----------\n\n")
    assert first.startswith("# Databricks notebook source\n")
    assert sum(cell.startswith("# MAGIC %md") for cell in cells) == 3
    monkeypatch.setenv("MILLRACE_SHOP", str(Path(settings.run_dir).parent))
    made = runpy.run_path(str(notebook), run_name="__main__")
    assert [row["rank"] for row in made["asked"].where("basket = 2").collect()] == [1, 2, 3]
    said = capsys.readouterr().out
    assert f"{made['customers'][0]} \n    {made['first'].name}" in said
    assert f"{made['why'].name}: {made['why'].score:.3f}, without a history" in said
    assert said.count(f"| {made['customers'][1]}|") == 3


def test_a_second_run_changes_nothing_and_reads_nothing_in_silence(
    summary: dict, settings: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = silences(spark, monkeypatch)
    again = score.run(settings, spark)
    assert found == []
    assert again.pop("up_to_date")
    assert {name: summary[name] for name in again} == again
    assert Tables(spark, settings.tables.root).version("recommendations") == summary["version"]


@pytest.mark.slow
def test_tables_that_were_made_anew_under_their_old_versions_are_others(
    summary: dict, settings: Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(settings.run_dir).parent, tmp_path, dirs_exist_ok=True)
    places = {"tables": {"root": str(tmp_path / "tables")}, "run_dir": str(tmp_path / "run")}
    copied = Settings(**(settings.model_dump() | places))
    assert score.run(copied, spark)["up_to_date"]
    make_anew(Tables(spark, copied.tables.root), "events", "user_id != 'user 1'")
    monkeypatch.setattr(answers, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score.run(copied, spark)
    make_anew(Tables(spark, copied.tables.root), "catalogue")
    with pytest.raises(TableError, match=r"table 'catalogue' at .* must be the one that the build in force names"):
        score.run(copied, spark)


def test_another_moment_adds_rows_and_looks_no_further(
    summary: dict, settings: Settings, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring = {"k": 2, "exclude_seen": False, "cold_users": "skip", "moment": datetime(2025, 2, 1)}
    before = score.run(Settings(**(settings.model_dump() | {"scoring": scoring})), spark)
    assert before["moment"] == "2025-02-01T00:00:00+00:00"
    assert "histories are made of all lines: the build in force is as of 2025-02-20" in capsys.readouterr().err
    assert (before["cold_users"], before["fallback_rows"]) == (2, 0)  # the newcomer has not come yet
    assert before["rows"] == 2 * USERS
    held = Tables(spark, settings.tables.root).read("recommendations").groupBy("moment").count().collect()
    assert sorted(row["count"] for row in held) == sorted([summary["rows"], before["rows"]])


def test_whoever_asks_without_spark_gets_the_same_lists(settings: Settings, spark: SparkSession) -> None:
    at_cut = Settings(**(settings.model_dump() | {"scoring": {"k": ITEMS, "moment": TEST_FROM}}))
    made = score.run(at_cut, spark)
    held = Tables(spark, settings.tables.root).read("recommendations").where(answers.mine(made["bundle"], TEST_FROM))
    of_job: dict[str, list[tuple[str, str, float, bool]]] = {}
    for row in held.orderBy("user_id", "rank").collect():
        told = (row["item_id"], f"the {row['item_id']}", row["score"], row["fallback"])
        of_job.setdefault(row["user_id"], []).append(told)
    recommender = Recommender.load(Path(settings.run_dir, "bundles", made["bundle"]), settings.tables.root)
    ids = [f"user {user}" for user in range(USERS)][::-1]
    found = recommender.recommend(ids, k=ITEMS)
    assert [[one[:2] for one in row] for row in found] == [[one[:2] for one in of_job[user_id]] for user_id in ids]
    scores = [[one.score for row in found for one in row], [one[2] for user_id in ids for one in of_job[user_id]]]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)
    (cold,) = recommender.recommend(history=[[NEW_ITEM]], k=ITEMS)
    assert cold == of_job[LOOKER]
    with pytest.raises(DataError, match=r"must stand in table '.*/queries', .*; it has no 'nobody', 'looker'"):
        recommender.recommend(["user 1", "nobody", LOOKER])


def test_a_table_with_times_for_folders_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """Such as earlier versions made: the time in the folder's name has no zone."""
    old = spark.sql("SELECT 'u' AS user_id, 'b' AS bundle, TIMESTAMP '2025-02-01 00:00:00' AS moment")
    folders = ["bundle", "moment"]
    old.write.format("delta").partitionBy(*folders).save(f"{tmp_path}/recommendations")
    with pytest.raises(TableError, match=r"has folders by bundle, moment, not by bundle, as_of: .*rename its folder"):
        answers.refuse_another(Tables(spark, str(tmp_path)), TASKS["recommend"], ())


def test_a_moment_before_the_first_event_is_refused(settings: Settings, spark: SparkSession) -> None:
    too_early = Settings(**(settings.model_dump() | {"scoring": {"moment": datetime(2024, 1, 1)}}))
    with pytest.raises(
        TableError, match=r"before scoring\.moment 2024-01-01T00:00:00\+00:00; the first is of 2025-01-0"
    ):
        score.run(too_early, spark)


@pytest.fixture(scope="module")
def lately(summary: dict, settings: Settings, spark: SparkSession) -> Settings:
    """The shop that was scored; since then a purchase has arrived that was made before."""
    late = [("late", "o", "user 5", "item 3", "purchase", START, SINCE + timedelta(hours=2), 1, 2.5, "the item 3")]
    events = spark.createDataFrame(late, EVENTS)
    Tables(spark, settings.tables.root).write("events", events, mode="append", job="ingest", inputs={"late": 1})
    return settings


def _scoring(settings: Settings, **values: object) -> Settings:
    return Settings(**(settings.model_dump() | {"scoring": {"k": 4, "moment": LATER} | values}))


def _lists(settings: Settings, spark: SparkSession, moment: str) -> dict[str, list[Row]]:
    read = Tables(spark, settings.tables.root).read("recommendations").where(F.col("moment") == F.lit(moment))
    found: dict[str, list[Row]] = {}
    for row in read.orderBy("user_id", "rank").select("user_id", "rank", "item_id", "score", "fallback").collect():
        found.setdefault(row["user_id"], []).append(row)
    return found


def _see_same(lists: dict[str, list[Row]], others: dict[str, list[Row]]) -> None:
    """The same items for the same users; a score may differ by what a processor's sums over other batches differ by."""
    assert lists.keys() == others.keys()
    for user, rows in lists.items():
        held = others[user]
        assert [(row.rank, row.item_id, row.fallback) for row in rows] == [
            (row.rank, row.item_id, row.fallback) for row in held
        ]
        assert [row.score or 0.0 for row in rows] == pytest.approx([row.score or 0.0 for row in held], rel=1e-5)


def test_those_since_a_time_get_the_lists_that_they_would_get_among_all(
    summary: dict,
    lately: Settings,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, indexed, of_everybody = list[DataFrame](), features.indexed, summary
    with monkeypatch.context() as patched:
        patched.setattr(features, "indexed", lambda lines, *ids: read.append(lines) or indexed(lines, *ids))
        summary = score.run(_scoring(lately, since=SINCE), spark)
    assert "histories are made of all lines" not in capsys.readouterr().err
    # Of lines that were known at the validation cut, the build's histories say all: none of them is looked for.
    cut = TEST_FROM - timedelta(days=lately.examples.validation_days)
    assert [lines.where(features.known_before(cut)).count() for lines in read] == [0]
    events = Tables(spark, lately.tables.root).read("events").where("kind = 'purchase'")
    touched = {row[0] for row in events.where(features.known_since(SINCE)).select("user_id").distinct().collect()}
    lists = _lists(lately, spark, summary["moment"])
    assert set(lists) == touched
    assert {"user 1", "user 5"} < touched
    assert len(touched) < USERS
    assert (summary["users"], summary["rows"]) == (len(touched), 4 * len(touched))
    assert summary["unknown_ids"] == 1
    assert datetime.fromisoformat(summary["since"]) == SINCE.replace(tzinfo=UTC)
    assert score.run(_scoring(lately, since=SINCE), spark)["up_to_date"]
    before = _lists(lately, spark, of_everybody["moment"])
    assert len(before) == USERS + 2  # those of the others are the earlier ones

    feedback = ingest_feedback.run(lately, spark)
    assert feedback["shown"] == summary["rows"]
    page = Path(report.run(lately)["path"]).read_text()
    assert "since" in page
    shutil.rmtree(Path(lately.tables.root) / "feedback")  # or it makes lines too, and all of them are read


@pytest.mark.slow
def test_everybody_answered_meanwhile_is_not_replaced_by_those_since_a_time(
    lately: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And everybody's lists have those of the touched, made of the build's histories or of all lines."""
    summary = score.run(_scoring(lately, since=SINCE), spark)
    lists = _lists(lately, spark, summary["moment"])
    capsys.readouterr()
    look, others = score_ground._before, list[dict]()

    def late(*args: object) -> Before | None:
        if not others:
            others.append({})
            others[0] |= score.run(_scoring(lately), spark)
        return look(*args)

    with monkeypatch.context() as patched:  # everybody is answered while those since a time are
        patched.setattr(score_ground, "_before", late)
        with pytest.raises(TableError, match=r"answers to everybody as of .*, which a score of fewer would replace"):
            score.run(_scoring(lately, since=SINCE - timedelta(hours=1)), spark)
    assert "histories are made of all lines" not in capsys.readouterr().err
    (everybody,) = others
    assert everybody["moment"] == summary["moment"]
    of_all = _lists(lately, spark, summary["moment"])
    assert sum(map(len, of_all.values())) == everybody["rows"]  # in place of those since a time
    _see_same({user: of_all[user] for user in lists}, lists)
    with monkeypatch.context() as patched:
        patched.setattr(score_ground, "_before", lambda *_: None)  # then histories are made of all lines
        (Path(lately.run_dir) / "score.json").unlink()
        assert not score.run(_scoring(lately), spark)["up_to_date"]
    _see_same(_lists(lately, spark, summary["moment"]), of_all)
    with pytest.raises(TableError, match=r"answers to everybody as of .*, which a score of fewer would replace"):
        score.run(_scoring(lately, since=SINCE), spark)


@pytest.mark.slow
def test_where_settings_are_others_than_the_builds_all_lines_are_read(
    lately: Settings, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is a line is another thing now: it is no score of the same inputs either."""
    weighed = lately.examples.model_copy(update={"weights": {"purchase": 1.0, "view": 0.5}})
    held, asked = list[dict](), list[dict]()

    def stop(*args: Any) -> int:
        held.append(args[-1])
        raise ZeroDivisionError

    monkeypatch.setattr(answers, "write", stop)
    monkeypatch.setattr(score, "read_json", lambda *_: asked[-1] if asked else None)
    of_views = _scoring(lately.model_copy(update={"examples": weighed}), moment=LATER + timedelta(days=1), since=SINCE)
    with pytest.raises(ZeroDivisionError):
        score.run(of_views, spark)
    assert "histories are made of all lines: settings, or tables" in capsys.readouterr().err
    assert held[0]["weights"] == {"purchase": 1.0, "view": 0.5}
    monkeypatch.setattr(Tables, "up_to_date", lambda *_: True)
    asked.append(json.loads(json.dumps({"inputs": held[0]})))
    assert score.run(of_views, spark)["up_to_date"]
    with pytest.raises(TableError, match=r"is of task recommend, and the settings' task is fraud: run `millrace build"):
        builds.refuse_other_task(Tables(spark, "here"), {"inputs": {"task": "recommend"}}, "fraud")


def test_a_run_folder_that_is_read_only_is_refused_before_anything_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(EnvironmentProblem, match=rf"run_dir '{tmp_path}' cannot be written to, and score\.json says"):
        score.run(Settings(run_dir=str(tmp_path)))


def test_nobody_since_a_time_changes_nothing(lately: Settings, spark: SparkSession) -> None:
    version = Tables(spark, lately.tables.root).version("recommendations")
    summary = score.run(_scoring(lately, since=datetime(2026, 1, 1)), spark)
    assert (summary["rows"], summary["up_to_date"]) == (0, True)
    assert Tables(spark, lately.tables.root).version("recommendations") == version


def test_a_time_after_the_moment_and_a_task_that_asks_all_are_refused(lately: Settings, spark: SparkSession) -> None:
    arrived_late = SINCE + timedelta(hours=1)
    tables = Tables(spark, lately.tables.root)
    spark.sql(f"DELETE FROM delta.`{tables.path('events')}` WHERE time >= '{SINCE}'")
    with pytest.raises(SettingsError, match=r"scoring\.since must be before the moment, 2025-01-01T00:00:01"):
        score.run(_scoring(lately, since=arrived_late, moment=None), spark)
    other = Settings(task="demand", scoring={"since": SINCE})
    with pytest.raises(SettingsError, match=r"scoring\.since must be left out where the task is demand"):
        score.run(other, spark)


@pytest.mark.slow
def test_an_erased_users_index_is_nobodys(settings: Settings, spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, settings.tables.root)
    vocabulary = tables.read("vocabulary_users").persist()
    highest = vocabulary.agg({"index": "max"}).collect()[0][0]
    read = {name: tables.read(name) for name in ("events", "items", "users", "vocabulary_items")}
    erased = vocabulary.withColumn("id", F.when(F.col("index") < highest, F.col("id")))
    moment = datetime(2025, 3, 2, tzinfo=UTC)
    lines = features.purchases(read["events"])
    ground = Ground(read | {"vocabulary_users": erased, "lines": lines}, settings, tmp_path)
    queries = scored.queries_of(scored._Asked(ground, moment, None, None))
    outside = [row["user"] for row in queries.where("NOT in_vocabulary").collect()]
    assert len(outside) == 3  # the newcomer, the looker, and the erased user, whom the events still have
    assert min(outside) > highest


@pytest.mark.slow
def test_what_is_told_after_the_moment_is_worth_nothing_at_it(spark: SparkSession, tmp_path: Path) -> None:
    """Of a customer all of whose lines are read, too: a view came in late, and still later that it was a purchase."""

    def day(number: int) -> datetime:
        return START + timedelta(days=number)

    told = [("i1", day(1), day(1), 1.0), ("i2", day(2), day(2), 1.0), ("i3", day(3), day(3), 1.0)]
    told += [("i4", day(6), day(12), 0.25), ("i4", day(6), day(20), 1.0)]
    rows = [("u", *line, line[-1] == 1) for line in told]
    kinds = "item_id string, time timestamp, arrival_time timestamp, weight double, is_goal boolean"
    items = spark.createDataFrame([(number, f"i{number}") for number in range(1, 5)], "index bigint, id string")
    users = spark.createDataFrame([(1, "u")], "index bigint, id string")
    read = {"lines": spark.createDataFrame(rows, f"user_id string, {kinds}"), "vocabulary_items": items}
    read |= {"vocabulary_users": users, "users": users.select(F.col("id").alias("user_id"))}
    settings, cut, moment = Settings(examples={"max_history": 1}), day(10), day(15)
    known = features.indexed(read["lines"], users, items)
    held = histories(known, users.toDF("user", "user_id"), cut, 2).withColumn("as_of", F.lit(cut))
    before = Before(Cuts(cut, cut), {"histories": held}, {})
    for build in (before, None):
        ground = Ground(read, settings, tmp_path)
        asked = scored._Asked(ground, moment, build, cut if build else None)
        (row,) = scored.queries_of(asked).collect()
        assert (row["history"], row["history_weight"], row["seen"]) == ([4], [0.25], [1, 2, 3])
        ground.release()


def test_no_purchases_no_tables_and_no_bundle_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = small_shop(spark, tmp_path)
    tables = Tables(spark, settings.tables.root)
    spark.sql(f"DELETE FROM delta.`{tables.path('events')}`")
    with pytest.raises(TableError, match="has no purchase with all ids; run `millrace ingest`"):
        score.run(settings, spark)
    nowhere = Settings(**(settings.model_dump() | {"tables": {"root": str(tmp_path / "nowhere")}}))
    with pytest.raises(TableError, match=r"table 'events' does not exist at .*nowhere"):
        score.run(nowhere, spark)
    (tmp_path / "run" / "latest.json").unlink()
    with pytest.raises(BundleError, match="there is no bundle in"):
        score.run(settings, spark)
