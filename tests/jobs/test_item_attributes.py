"""A shop whose new items are told by their attributes alone: as of each cut, in training, evaluation and lists."""

from __future__ import annotations

import random
import shutil
import statistics
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, evaluate, score, train
from jobs.ground import Ground
from jobs.learn_spec import learn_spec
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs.features import Cuts
from tests.training.text_models import CONFIG as TINY
from tests.training.text_models import save_folder, tensors_of
from training.configs import CONFIGS
from training.errors import SchemaError, SettingsError, TooManyBadRows, WeightsError
from training.schema import Schema
from training.state.text_encoder import load_encoder

START, TASTES, USERS = datetime(2025, 1, 1, tzinfo=UTC), 4, 40
VALIDATION, TEST, END = 40, 50, 60
ATTRIBUTES = {"category": "id", "tags": "ids", "list_price": "number", "description": "text", "name": "id",
              "story": "vector", "look": "vector(3)"}  # fmt: skip
STORIES = ("red lantern", "blue paper", "a cafe", "paper lantern")  # of tastes, in words that the tiny encoder knows
EVENTS = "event_id string, user_id string, item_id string, kind string, time timestamp, arrival_time timestamp"
ITEMS = (
    "item_id string, name string, category string, tags array<string>, list_price double, description string, "
    "story string, look array<double>"
)
OLD, MIDDLE, NEW = (
    [f"{letter}{number}" for number in range(count)] for letter, count in (("o", 24), ("m", 4), ("n", 8))
)
LATE, ODD = "late", "odd"  # listed after the test cut; of a category that no other item has


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def taste(item: str) -> int:
    return int(item[1:]) % TASTES if item not in (LATE, ODD) else 0


def events() -> list[tuple[Any, ...]]:
    """Customers buy by taste: old items; from day 42 on one that is new then, after the test cut those that are."""
    rng, bought = random.Random(3), list[tuple[int, str, float]]()
    for user in range(USERS):
        mine = {kind: [item for item in items if taste(item) == user % TASTES] for kind, items in
                (("old", OLD), ("middle", MIDDLE), ("new", NEW))}  # fmt: skip
        bought += [(user, rng.choice(mine["old"]), 4.0 * number + user / USERS) for number in range(12)]
        bought += [(user, mine["middle"][0], 42.5)] * (user < USERS // 2)
        bought += [(user, item, 51.0 + number) for number, item in enumerate([*mine["new"], LATE, ODD])]
    bought += [(user, ODD, 5.0) for user in range(3)]
    return [(f"e{n}", f"u{user}", item, "purchase", day(at), day(at)) for n, (user, item, at) in enumerate(bought)]


def prices() -> list[tuple[str, datetime, float]]:
    """Since when each item is listed, and at what price; two prices change later."""
    listed = dict.fromkeys((*OLD, ODD), -10) | dict.fromkeys((*MIDDLE, *NEW), 30) | {LATE: 55}
    first = [(item, day(since), 10.0 + len(listed) % (2 + taste(item))) for item, since in listed.items()]
    return [*first, ("o1", day(45), 1_000.0), ("o2", day(52), 5_000.0)]


def items(category: str = "c") -> list[tuple[Any, ...]]:
    """Some attributes are missing; the price is the newest."""
    newest = {item: price for item, _, price in prices()}

    def of(item: str) -> tuple[Any, ...]:
        if item == ODD:
            return item, item, "unique", None, newest[item], None, None, None
        name = None if item == "o0" else f"{category}{taste(item)}"
        look = None if item == "o0" else [1.0, float(taste(item)), -0.5]
        told = f"Thing, of taste-{taste(item)}!", "" if item == "o0" else STORIES[taste(item)], look
        return item, item, name, [f"t{taste(item)}", "all", None], newest[item], *told

    return [of(item) for item in newest]


def write(spark: SparkSession, settings: Settings, prices: list[tuple[str, datetime, float]], **of: Any) -> None:
    tables, described = Tables(spark, settings.tables.root), spark.createDataFrame(items(**of), ITEMS)
    history = spark.createDataFrame(prices, "item_id string, time timestamp, list_price double")
    made = {"items": described, "item_attributes": described.drop("name"), "item_history": history}
    for name, rows in made.items():
        tables.write(name, rows.coalesce(1), mode="overwrite", job="ingest", inputs={"n": len(prices), **of})


def settings_for(folder: Path, **examples: Any) -> Settings:
    asked = {"test_from": day(TEST).replace(tzinfo=None), "validation_days": TEST - VALIDATION, "max_history": 20}
    asked |= {"rows_per_group": 100, "item_attributes": ATTRIBUTES, "text_weights": str(folder / "weights"), **examples}
    return Settings(
        **{
            "tables": {"root": str(folder / "tables")},
            "run_dir": str(folder / "run"),
            "examples": asked,
            "model": {"name": "two_tower", "dim": 16},
            "training": {"ranks": 1, "epochs": 6, "batch_size": 32, "learning_rate": 0.01,
                         "embedding_learning_rate": 0.1, "device": "cpu"},
            "evaluation": {"ks": (5,), "bootstrap": 100, "baselines": ("popularity",)},
            "scoring": {"k": 5, "moment": day(TEST).replace(tzinfo=None)},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def begun(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attributes")
    settings = settings_for(folder)
    tables, bought = Tables(spark, settings.tables.root), spark.createDataFrame(events(), EVENTS).coalesce(1)
    tables.write("events", bought, mode="overwrite", job="ingest", inputs={})
    tables.write("users", bought.select("user_id").distinct(), mode="overwrite", job="ingest", inputs={})
    write(spark, settings, prices())
    save_folder(folder / "weights")
    build_examples.run(settings, spark)
    return folder


def catalogue(spark: SparkSession, settings: Settings) -> dict[str, dict[str, Any]]:
    """The catalogue's rows of both splits, by split and item."""
    return by_split_and_item(Tables(spark, settings.tables.root).read("catalogue"))


def by_split_and_item(rows: DataFrame) -> dict[str, dict[str, Any]]:
    return {f"{row['split']} {row['item_id']}": row.asDict() for row in rows.where("item IS NOT NULL").collect()}


def ids(spark: SparkSession, settings: Settings, name: str) -> dict[str, int]:
    rows = Tables(spark, settings.tables.root).read(f"vocabulary_{name}").collect()
    return {row["id"]: row["index"] for row in rows}


@pytest.mark.slow
def test_attributes_are_as_of_each_cut(spark: SparkSession, begun: Path) -> None:
    settings = settings_for(begun)
    rows, categories = catalogue(spark, settings), ids(spark, settings, "attribute_category")
    tags = ids(spark, settings, "attribute_tags")
    assert set(categories) == {f"c{n}" for n in range(TASTES)}
    assert set(tags) == {"all", *(f"t{n}" for n in range(TASTES))}
    assert set(ids(spark, settings, "items")) == {*OLD, *MIDDLE, *NEW, ODD}
    new, old, odd = (rows[f"test {item}"] for item in ("n5", "o0", ODD))
    assert (new["listed"], new["count"], new["attribute_category"]) == (True, 0, categories["c1"])
    assert [tag for tag in new["attribute_tags"] if tag] == sorted([tags["t1"], tags["all"]])
    assert (len(new["attribute_tags"]), len(new["attribute_description"])) == (16, 32)
    words = [set(row["attribute_description"]) - {0} for row in (new, rows["test n1"], rows["test n2"])]
    assert len(words[0]) == 4
    assert words[0] == words[1] != words[2]
    assert (old["attribute_category"], odd["attribute_category"]) == (0, 0)
    assert ids(spark, settings, "attribute_name") == {}  # no two items have one
    assert set(odd["attribute_tags"]) == set(odd["attribute_description"]) == {0}
    assert new["attribute_look"] == [1.0, 1.0, -0.5]
    assert old["attribute_look"] == odd["attribute_look"] == [0.0] * 3
    assert (rows["validation m0"]["count"], rows["validation m0"]["listed"]) == (0, True)
    assert rows["test m0"]["count"] > 0


@pytest.mark.slow
def test_a_text_has_its_vector_by_the_weights_that_are_there(spark: SparkSession, begun: Path, tmp_path: Path) -> None:
    """Zeros where there is none; by other weights examples are made anew, by the same ones elsewhere they are not."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    settings = settings_for(tmp_path)
    see_vectors(catalogue(spark, settings), tmp_path / "weights")
    before = build_examples.run(settings, spark)
    assert before["versions"] == build_examples.run(settings_for(begun), spark)["versions"]
    other = {name: -2 * tensor for name, tensor in tensors_of(TINY).items()}
    shutil.rmtree(tmp_path / "weights")
    save_folder(tmp_path / "weights", tensors=other)
    after = build_examples.run(settings, spark)
    assert after["inputs"]["options"] != before["inputs"]["options"]
    see_vectors(catalogue(spark, settings), tmp_path / "weights")


def see_vectors(rows: dict[str, dict[str, Any]], weights: Path) -> None:
    wanted = load_encoder(weights).vectors([*STORIES, ""])
    for split, item in (("test", "n5"), ("validation", "m2"), ("test", "o3")):
        np.testing.assert_allclose(rows[f"{split} {item}"]["attribute_story"], wanted[taste(item)], atol=1e-6)
    for item in ("o0", ODD):
        assert rows[f"test {item}"]["attribute_story"] == [0.0] * TINY["hidden_size"]


def test_weights_are_asked_for_before_anything_is_built(tmp_path: Path) -> None:
    task = TASKS["recommend"]
    with pytest.raises(WeightsError, match=r"nowhere' lacks config\.json.*name one in the layout of Hugging Face"):
        task.decides(settings_for(tmp_path, text_weights=str(tmp_path / "nowhere")))
    words = {"description": "text"}
    with pytest.raises(
        ValidationError, match=r"text_weights is '.*weights' and none of .* is taken as vector, .*leave"
    ):
        settings_for(tmp_path, item_attributes=words)
    assert task.decides(settings_for(tmp_path, item_attributes=words, text_weights=None)) == {}


def see_numbers(rows: dict[str, dict[str, Any]], prices: list[tuple[str, datetime, float]]) -> None:
    """Of each split, prices in standard deviations from the mean, by what was known at its cut."""
    for split, cut in (("validation", VALIDATION), ("test", TEST)):
        held = {item: price for item, since, price in prices if since <= day(cut)}
        mean, deviation = statistics.fmean(held.values()), statistics.pstdev(held.values())
        for item, price in held.items():
            found = rows[f"{split} {item}"]["attribute_list_price"]
            assert found == pytest.approx(min((price - mean) / deviation, 10.0), abs=1e-4)


@pytest.mark.slow
def test_numbers_are_standardised_by_what_was_known(spark: SparkSession, begun: Path) -> None:
    see_numbers(catalogue(spark, settings_for(begun)), prices())


@pytest.mark.slow
def test_what_comes_after_the_cut_changes_nothing_and_what_came_before_is_never_stale(
    spark: SparkSession, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both by a build that goes on; and all rows make the same of it."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    settings = settings_for(tmp_path)
    before, vocabulary = catalogue(spark, settings), ids(spark, settings, "items")
    told = [*prices(), ("o3", day(TEST - 1), 500.0)]
    later = [("n1", day(TEST + 1), 7_777.0), ("never sold", day(TEST + 1), 1.0)]
    write(spark, settings, [*told, *later], category="d")
    capsys.readouterr()
    grown = build_examples.run(settings, spark)
    assert "from all rows" not in capsys.readouterr().err
    rows, categories = catalogue(spark, settings), ids(spark, settings, "attribute_category")
    assert rows["test n5"]["attribute_category"] == categories["d1"] > TASTES
    see_numbers(rows, told)
    assert Schema.from_json(grown["schema"]).vocabularies()["attribute_category"] == 2 * TASTES + 1
    changed = ("attribute_category", "attribute_list_price")
    assert {of: without(row, *changed) for of, row in rows.items()} == {
        of: without(row, *changed) for of, row in before.items()
    }
    assert ids(spark, settings, "items") == vocabulary
    assert of_all_rows(spark, settings, grown["versions"]) == rows


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def of_all_rows(spark: SparkSession, settings: Settings, versions: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The catalogue that a build of all rows makes by the vocabularies of a build."""
    tables, task = Tables(spark, settings.tables.root), TASKS["recommend"]
    read = {name: tables.read(name) for name in ("events", "items", "item_attributes", "item_history")}
    read |= {name: tables.read(name, at) for name, at in versions.items() if name.startswith("vocabulary_")}
    ground = Ground(read | {"lines": task.lines(read, settings)}, settings, Path(settings.run_dir))
    made = task.spark().examples(ground, Cuts(validation=day(VALIDATION), test=day(TEST)))["catalogue"]
    found = by_split_and_item(made)
    ground.release()
    return found


@pytest.mark.slow
def test_new_items_are_recommended_on_their_first_day(spark: SparkSession, begun: Path) -> None:
    """By their attributes; ids alone, of the same build, find none of them."""
    settings = settings_for(begun)
    train.run(settings)
    by_ids = train.run(_by_ids(settings, begun / "by ids"))
    beside = settings.evaluation.model_copy(update={"bundles": (by_ids["bundle_path"],)})
    protocols = evaluate.run(settings.model_copy(update={"evaluation": beside}), spark)["protocols"]
    cold = protocols["cold_items"]
    recall = {name: metrics["recall_at_5"]["value"] for name, metrics in cold["models"].items()}
    assert (cold["users"], cold["pairs"]["count"]) == (USERS, 2 * USERS)
    assert recall["millrace"] > 0.7
    assert (recall["popularity"], recall[by_ids["bundle"]]) == (0, 0)
    assert protocols["new"]["models"][by_ids["bundle"]]["recall_at_5"]["value"] < 0.5
    assert protocols["new"]["pairs"]["count"] == 3 * USERS - 3  # new items, and the odd one of who had it not
    score.run(settings, spark)
    lists = Tables(spark, settings.tables.root).read("recommendations").where(F.col("item_id").isin(NEW)).collect()
    assert len({row["user_id"] for row in lists}) > 0.9 * USERS
    same = [taste(row["item_id"]) == int(row["user_id"][1:]) % TASTES for row in lists]
    assert sum(same) / len(same) > 0.7


@pytest.mark.slow
def test_models_that_know_ids_alone_learn_from_the_same_build(spark: SparkSession, begun: Path) -> None:
    """Their schema, and so their bundle, says nothing of items."""
    settings = settings_for(begun)
    build_examples.run(settings, spark)
    assert len(_spec_schema(settings).of_items) == len(ATTRIBUTES)
    schema = _spec_schema(_by_ids(settings, begun))
    assert (schema.of_items, schema.names) == ((), _spec_schema(settings).names)


def _by_ids(settings: Settings, run_dir: Path) -> Settings:
    model = {"name": "matrix_factorisation", **CONFIGS["matrix_factorisation"]().model_dump()}
    short = settings.training.model_copy(update={"epochs": 1})
    return settings.model_copy(update={"model": model, "run_dir": str(run_dir), "training": short})


def _spec_schema(settings: Settings) -> Schema:
    return Schema.from_json(learn_spec(settings, splits=("train",), validate=False)["schema"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"colour": "id"}, r"'items'; it has no colour, but category, .*Bring them in by ingest\.items"),
        (
            {"list_price": "id", "tags": "vector"},
            r"'list_price' is double, 'tags' is array<string>\. Take them as another",
        ),
    ],
)
def test_attributes_that_the_table_does_not_have_so(
    spark: SparkSession, begun: Path, asked: dict[str, str], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        build_examples.run(settings_for(begun, item_attributes=asked | {"story": "vector"}), spark)


def with_looks(spark: SparkSession, looks: list[Any], kind: str = "array<double>") -> dict[str, DataFrame]:
    rows = [(f"i{number}", look) for number, look in enumerate(looks)]
    return {"items": spark.createDataFrame(rows, f"item_id string, look {kind}")}


@pytest.mark.parametrize(
    ("looks", "kind", "message"),
    [
        (["1|2"], "string", r"'look' is string.*say their type in ingest\.items \(types\)"),
        ([None, []], "array<double>", r"look takes vectors from column 'look' .* no item has one; see that ingest"),
        ([[1.0, 2.0], [1.0]], "array<double>", r"look is vector\(2\), and 1 of 2 vectors .* from 1 to 2; name"),
        ([[1.0, 2.0], [1.0, float("nan")]], "array<double>", r"1 of 2 vectors of .*look have .* NaN .* over .*0\.05"),
    ],
)  # fmt: skip
def test_vectors_that_a_table_brings_must_be_some(
    spark: SparkSession, tmp_path: Path, looks: list[Any], kind: str, message: str
) -> None:
    settings = settings_for(tmp_path, item_attributes={"look": "vector(2)"}, text_weights=None)
    with pytest.raises((SchemaError, TooManyBadRows), match=message):
        TASKS["recommend"].more_ids(with_looks(spark, looks, kind), settings, day(TEST))


def test_a_vector_that_is_none_is_told_and_taken_as_missing(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tmp_path, item_attributes={"look": "vector(2)"}, text_weights=None)
    TASKS["recommend"].more_ids(with_looks(spark, [*([[1.0, 2.0]] * 30), [1.0, None]]), settings, day(TEST))
    assert "1 vectors of examples.item_attributes.look have a number that is null" in capsys.readouterr().err


def test_vectors_of_no_length_are_no_way_to_take_an_attribute(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"or vector\(N\).*e\.g\. vector\(64\); got 'vector\(0\)'"):
        settings_for(tmp_path, item_attributes={"look": "vector(0)"}, text_weights=None)


def test_what_events_say_of_all_times_is_no_attribute(tmp_path: Path) -> None:
    with pytest.raises((SettingsError, ValueError), match=r"price: of all events, those after the cut too"):
        settings_for(tmp_path, item_attributes={"price": "number"}, text_weights=None)
