"""The evaluation of a small shop: protocols, files, and what is refused."""

from __future__ import annotations

import collections
import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import builds, evaluate
from jobs.artefacts import EVALUATION, LATEST, read_json, write_json
from jobs.erasure import erased
from jobs.ground import Ground
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS, recommend_on_spark
from tests.jobs.anew import make_anew
from tests.jobs.small_shop import NEWCOMER, small_shop
from tests.spark_udfs.bundles import two_tower_bundle
from training.errors import BundleError, DataError, TableError

MODELS = ["millrace", "popularity", "recent_popularity", "item_item", "als", "ease"]
EVALUATION_OF_ALL = {
    "ks": (3, 5), "bootstrap": 100, "baselines": MODELS[1:], "als_rank": 4, "als_iterations": 2, "ease_l2": 5.0
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return small_shop(spark, tmp_path_factory.mktemp("shop"), evaluation=EVALUATION_OF_ALL)


@pytest.fixture(scope="module")
def result(settings: Settings, spark: SparkSession) -> dict:
    return evaluate.run(settings, spark)


def test_every_model_is_judged_by_both_protocols(result: dict) -> None:
    assert list(result["protocols"]) == ["new", "any", "cold_users"]
    for protocol in (result["protocols"][name] for name in ("new", "any")):
        assert list(protocol["models"]) == MODELS
        assert list(protocol["differences"]) == MODELS[1:]
        for metrics in protocol["models"].values():
            recall = metrics["recall_at_5"]
            assert 0 <= recall["low"] <= recall["value"] <= recall["high"] <= 1
            assert set(metrics["coverage_at_3"]) == {"value"}
            assert metrics["novelty_at_5"]["value"] > 0
    new, every = (result["protocols"][name] for name in ("new", "any"))
    assert 0 < new["users"] <= every["users"] <= 40


def test_users_and_popularity_agree_with_a_plain_count(result: dict, settings: Settings, spark: SparkSession) -> None:
    queries = Tables(spark, settings.tables.root).read("queries").where("split = 'test'").collect()
    owners = collections.Counter(item for row in queries for item in row["seen"])
    order = sorted(owners, key=lambda item: (-owners[item], item))
    for protocol, masked in (("new", True), ("any", False)):
        recalls, found = [], 0
        for row in queries:
            truth = set(row["truth"]) - (set(row["seen"]) if masked else set())
            found += len(truth)
            top = [item for item in order if not masked or item not in row["seen"]][:5]
            recalls += [len(truth & set(top)) / len(truth)] if truth else []
        judged = result["protocols"][protocol]
        assert judged["users"] == len(recalls)
        assert judged["pairs"]["count"] == found
        assert len(judged["pairs"]["hash"]) == 16
        assert judged["models"]["popularity"]["recall_at_5"]["value"] == pytest.approx(sum(recalls) / len(recalls))


def test_who_came_after_the_cut_is_judged_apart(result: dict, settings: Settings, spark: SparkSession) -> None:
    cold = result["protocols"]["cold_users"]
    assert (cold["users"], cold["pairs"]["count"]) == (1, 1)
    assert list(cold["models"]) == MODELS[:3]  # the others have nothing to answer from
    recent = cold["models"]["recent_popularity"]
    assert cold["models"]["millrace"]["recall_at_5"] == recent["recall_at_5"]
    tables, cut = Tables(spark, settings.tables.root), datetime.fromisoformat(result["test_from"])
    read = {name: tables.read(name) for name in ("catalogue", "queries", "vocabulary_users", "vocabulary_items")}
    lines = TASKS["recommend"].lines({"events": tables.read("events")}, settings)
    few = settings.evaluation.model_copy(update={"cold_history": 9})
    asked = settings.model_copy(update={"evaluation": few})
    ground = Ground({**read, "lines": lines}, asked, Path(settings.run_dir))
    rows = {row["user_id"]: row for row in recommend_on_spark.slices(ground, cut)["cold_users"].rows.collect()}
    ground.release()
    known = [row for row in read["queries"].where("split = 'test'").collect() if set(row["truth"]) - set(row["seen"])]
    assert set(rows) == {NEWCOMER, *(row["user_id"] for row in known if len(row["history"]) <= 9)}
    assert 1 < len(rows) < len(known)
    newcomer, items = rows[NEWCOMER], read["vocabulary_items"].where("id = 'item 2'").head()
    assert newcomer["user"] > read["vocabulary_users"].count()
    assert (newcomer["history"], newcomer["seen"], newcomer["truth"]) == ([], [], [items["index"]])


@pytest.mark.parametrize("name", ["item_item", "ease"])
def test_items_that_go_together_find_the_planted_halves(result: dict, name: str) -> None:
    models = result["protocols"]["new"]["models"]
    assert models[name]["recall_at_5"]["value"] > models["popularity"]["recall_at_5"]["value"]


def test_examples_and_deciles_are_there_to_look_at(result: dict) -> None:
    assert len(result["examples"]) == 10
    for example in result["examples"]:
        assert example["user_id"].startswith("user ")
        assert all(name.startswith("the item ") for name in example["bought"] + example["recommended"])
        assert len(example["recommended"]) == 5
        assert not set(example["recommended"]) & set(example["bought"])
    deciles = result["popularity_of_recommended"]
    assert list(map(len, (deciles["bought"], *deciles["recommended"].values()))) == [10] * 7
    assert set(deciles["recommended"]) == set(MODELS)


def test_it_is_written_and_a_second_run_changes_nothing(result: dict, settings: Settings, spark: SparkSession) -> None:
    file = Path(settings.run_dir) / "evaluation.json"
    written, held = file.read_text(), read_json(settings.run_dir, EVALUATION)
    assert held == json.loads(json.dumps(result))
    assert result["bundle"].startswith("two_tower-")
    assert result["test_from"] == "2025-02-20T00:00:00+00:00"
    assert result["ks"] == [3, 5]
    assert evaluate.run(settings, spark) == held | {"up_to_date": True}
    assert file.read_text() == written


def test_tables_that_were_made_anew_under_their_old_versions_are_others(
    result: dict, settings: Settings, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(settings.run_dir).parent, tmp_path, dirs_exist_ok=True)
    places = {"tables": {"root": str(tmp_path / "tables")}, "run_dir": str(tmp_path / "run")}
    copied = Settings(**(settings.model_dump() | places))
    tables = Tables(spark, copied.tables.root)
    assert evaluate.run(copied, spark)["up_to_date"]
    make_anew(tables, "queries", "user > 1")
    with pytest.raises(TableError, match=r"table 'queries' at .* must be the one that the build in force names"):
        evaluate.run(copied, spark)
    since, build = builds.newest(tables)
    assert build is not None
    build["ids"]["queries"] = tables.id("queries")  # as the next build names it
    builds.publish(tables, build, job="build_examples", since=since)
    monkeypatch.setattr(evaluate, "_evaluated", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.run(copied, spark)


def test_a_bundle_that_has_seen_the_answers_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = small_shop(spark, tmp_path)
    later = {"build": {"cuts": {"test": "2025-03-01T00:00:00+00:00"}}}
    shutil.rmtree(tmp_path / "run" / "bundles")  # the shop's own has the same weights, so the same name
    bundle = two_tower_bundle(tmp_path / "run" / "bundles", users=41, items=31, provenance=later)
    write_json(settings.run_dir, LATEST, {"bundle": bundle.name, "identity": "untrained", "summary": {}})
    with pytest.raises(BundleError, match=r"trained on events up to 2025-03-01.*the test split begins at 2025-02-20"):
        evaluate.run(settings, spark)


def test_an_evaluation_of_persons_who_were_erased_meanwhile_is_not_written(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_shop(spark, tmp_path)

    def judged(*_: object) -> dict[str, object]:
        erased.remember(Tables(spark, settings.tables.root), ["user 1"])
        return {}

    monkeypatch.setattr(evaluate, "_evaluated", judged)
    with pytest.raises(DataError, match=r"persons were erased .* while `millrace evaluate` .* are not published"):
        evaluate.run(settings, spark)
    assert read_json(settings.run_dir, EVALUATION) is None


def test_no_bundle_and_nobody_to_judge_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    settings = small_shop(spark, tmp_path)
    tables = Tables(spark, settings.tables.root)
    spark.sql(f"DELETE FROM delta.`{tables.path('queries')}` WHERE size(truth) > 0")
    since, build = builds.newest(tables)
    assert build is not None
    build["versions"]["queries"] = tables.version("queries")
    builds.publish(tables, build, job="build_examples", since=since)
    with pytest.raises(TableError, match=r"nothing to judge after the cut \(2025-02-20T00:00:00.*: items new"):
        evaluate.run(settings, spark)
    (tmp_path / "run" / "latest.json").unlink()
    with pytest.raises(BundleError, match="there is no bundle in"):
        evaluate.run(settings, spark)
