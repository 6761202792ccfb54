"""Image on a planted world: three patterns are three categories, and of some items the shop's own is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import Row, SparkSession

from jobs import build_examples, evaluate, ingest, report, score, train, validation
from jobs.artefacts import ITEM_FILES
from jobs.ground import Ground
from jobs.settings import Settings
from jobs.settings_sections import ShopSettings
from jobs.tables import Tables
from jobs.task import OURS, TRUTH
from jobs.tasks import image, image_looks, image_on_spark
from spark_udfs import pictures
from spark_udfs.features import Cuts
from spark_udfs.png import png
from spark_udfs.simulated.catalogue import PICTURES as PICTURES_OF_SHOP
from spark_udfs.simulated.catalogue import SHAPES
from spark_udfs.simulated.planted import planted as planted_table
from tests.training import test_picture_models as drawn
from training.errors import DataError, SettingsError, TooManyBadRows
from training.schema import Schema
from training.world import World

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=60)
PICTURES = "item_id string, time timestamp, arrival_time timestamp, picture binary, category string, user_id string"
NAMES = {1: "across", 2: "down", 3: "square"}
ROWS = 600


@cache
def planted() -> list[tuple[Any, ...]]:
    """600 pictures in 120 days, one of twenty without a category, and one of twenty after the cut with a wrong one."""
    batch = drawn.pictures(11, ROWS)
    made = []
    for number, (pixels, label) in enumerate(zip(batch["picture"], batch["label"].tolist(), strict=True)):  # type: ignore[union-attr]
        time = START + timedelta(days=120 * number / ROWS)
        own = NAMES[int(label)]
        said = None if number % 20 == 7 else "across" if is_wrong(number) else own
        picture = png(np.frombuffer(pixels, np.uint8).reshape(drawn.SIDE, drawn.SIDE, 1))
        made.append((f"item {number}", time, None, picture, said, f"user {number % 50}"))
    return made


def is_wrong(number: int) -> bool:
    return number % 20 == 9 and number >= ROWS * 3 // 4 and shown()[number] != "across"


@cache
def shown() -> list[str]:
    return [NAMES[int(label)] for label in drawn.pictures(11, ROWS)["label"].tolist()]  # type: ignore[union-attr]


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "image",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {"has": ["arrival_time"], "size": drawn.SIDE, "channels": 1, "similar": 3},
        "examples": {"test_from": CUT, "validation_days": 30, "rows_per_group": 100},
        "model": {"name": "conv_net", "widths": [8, 16], "grid": 2, "dim": 8},
        "training": {"ranks": 1, "epochs": 8, "batch_size": 64, "learning_rate": 0.02},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


@pytest.fixture(scope="module", autouse=True)
def _pillow() -> None:
    pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("image"))
    made = spark.createDataFrame(planted(), PICTURES).repartition(3)
    tables = Tables(spark, settings.tables.root)
    tables.write("pictures", made, mode="overwrite", job="ingest", inputs={})
    return settings


@pytest.fixture(scope="module")
def trained(settings: Settings, spark: SparkSession) -> dict[str, Any]:
    build_examples.run(settings, spark)
    return train.run(settings, spark)


def held(settings: Settings, spark: SparkSession, name: str) -> dict[str, Row]:
    return {row["item_id"]: row for row in Tables(spark, settings.tables.root).read(name).collect()}


def _with(settings: Settings, **options: Any) -> Settings:
    values = settings.model_dump(mode="json")
    return Settings.model_validate(values | {"options": values["options"] | options})


def test_examples_are_pixels_with_the_numbers_of_classes(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    classes = {
        row["id"]: row["index"] for row in Tables(spark, settings.tables.root).read("vocabulary_classes").collect()
    }
    assert {*classes} == {*NAMES.values()}
    examples, pixels = held(settings, spark, "examples"), drawn.pictures(11, ROWS)["picture"]
    before = {number: row for number, row in enumerate(planted()) if row[1] < CUT and row[4] is not None}
    assert {name: (bytes(row["picture"]), row["label"]) for name, row in examples.items()} == {
        row[0]: (pixels[number], classes[row[4]]) for number, row in before.items()
    }


def test_classes_are_found_and_contenders_judged(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    result = evaluate.run(settings, spark)
    judged = result["protocols"]["after"]
    assert list(judged["models"]) == [OURS, "nearest_vectors", "pixels_regression", "majority"]
    wrong, asked = sum(map(is_wrong, range(ROWS))), sum(row[1] >= CUT and row[4] is not None for row in planted())
    ours = judged["models"][OURS]["accuracy"]
    assert 1 - wrong / asked - 0.05 < ours["value"] <= 1
    assert judged["models"]["nearest_vectors"]["accuracy"]["value"] > 0.85
    assert judged["users"] == asked
    assert [*judged["models"][OURS]["calibration_error"]] == ["value"]
    assert judged["differences"]["majority"]["accuracy"]["low"] > 0.3
    assert [row[0] for row in result["drawn"]["rows"]] == result["tables"][0]["columns"][1:]
    assert sum(sum(row[1:]) for row in result["tables"][0]["rows"]) == asked
    sure = [each["words"] for each in result["pictures"]["shown"]]
    assert len([words for words in sure if "across, taken for" in words]) >= wrong - 1
    page = Path(report.run(settings, spark)["path"]).read_text()
    assert page.count('<img src="data:image/png;base64,') == len(sure)
    assert "What is taken for what" in page


def test_all_pictures_are_scored_with_alarms_and_what_looks_alike(
    settings: Settings, trained: dict[str, Any], spark: SparkSession
) -> None:
    summary = score.run(settings, spark)
    rows = held(settings, spark, "image_scores")
    assert {*rows} == {row[0] for row in planted()}
    of = {row[0]: number for number, row in enumerate(planted())}
    right = [row["class"] == shown()[of[name]] for name, row in rows.items()]
    assert sum(right) > 0.95 * ROWS
    alarmed = {name for name, row in rows.items() if row["alarm"]}
    planted_wrong = {f"item {number}" for number in range(ROWS) if is_wrong(number)}
    assert summary["wrong_category_alarms"] == len(alarmed)
    assert len(alarmed & planted_wrong) >= len(planted_wrong) - 1
    assert len(alarmed - planted_wrong) < 0.02 * ROWS
    same = [shown()[of[near["item_id"]]] == shown()[of[name]] for name, row in rows.items() for near in row["similar"]]
    assert len(same) == 3 * ROWS
    assert sum(same) > 0.9 * len(same)
    _similar_are_the_nearest(rows)
    assert score.run(settings, spark)["up_to_date"]
    kept = {path.name.split("-")[0] for path in (Path(settings.run_dir) / ITEM_FILES).iterdir()}
    assert {"learnt_vectors", "scored_vectors"} <= kept  # where an erasure looks
    assert not (Path(settings.run_dir) / "vectors").exists()
    with pytest.raises(SettingsError, match=r"options\.size must be .*, 12; it is 16"):
        score.run(_with(settings, size=16), spark)


def test_a_category_that_nobody_had_before_counts_for_wrong(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = spark.createDataFrame([(1, "across"), (2, "down")], "index bigint, id string")
    labels = [1.0, 1.0, 2.0, 0.0, 0.0]
    asked = spark.createDataFrame([(f"{n}", label) for n, label in enumerate(labels)], "key string, label float")
    rows = [(OURS, f"{n}", max(int(label), 1), 0.9) for n, label in enumerate(labels)]
    answers = spark.createDataFrame(rows, "model string, key string, class bigint, p double")
    ground = Ground({"vocabulary_classes": numbers}, settings_in(tmp_path), tmp_path)
    judged = image_on_spark.judge(ground, asked, answers, [OURS])
    assert judged["users"] == 5
    assert judged["models"][OURS]["accuracy"]["value"] == pytest.approx(3 / 5)
    assert judged["models"][OURS]["macro_f1"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    taken: dict[str, Any] = {}
    monkeypatch.setattr(validation, "validation_of_rows", lambda *_, **given: taken.update(given))
    image.validation({}, Schema(()), World())
    said = torch.tensor([row[2] for row in rows]).float()
    assert taken["finish"](taken["sums"]({"class": said}, {"label": torch.tensor(labels)})) == {"accuracy": 3 / 5}


def test_pictures_on_a_page_are_as_small_as_it_shows_them() -> None:
    large = np.repeat(np.repeat(np.arange(100, dtype=np.uint8), 3)[:, None, None], 300, axis=1)
    shown = image_looks._shown(large)
    assert shown.shape == (75, 75, 1)
    assert shown[0, 0, 0] == 0
    assert shown[74, 74, 0] == 98
    assert image_looks._shown(large[:28, :28]).tobytes() == large[:28, :28].tobytes()


def _similar_are_the_nearest(rows: dict[str, Row]) -> None:
    names = [*rows]
    vectors = np.asarray([rows[name]["vector"] for name in names])
    cosines = vectors @ vectors.T - 4 * np.eye(len(names))
    for at in range(0, len(names), 50):
        found = [near["cosine"] for near in rows[names[at]]["similar"]]
        np.testing.assert_allclose(found, np.sort(cosines[at])[::-1][:3], atol=1e-5)
        assert names[at] not in {near["item_id"] for near in rows[names[at]]["similar"]}


def test_pictures_that_cannot_be_read_lie_in_quarantine(spark: SparkSession, tmp_path: Path) -> None:
    good = planted()[:40]
    whole = good[0][3]
    huge = whole[:16] + (100_000).to_bytes(4) * 2 + whole[24:]  # the header alone says so; its checksum is wrong too
    bad = [("cut", whole[:60]), ("text", b"no picture"), ("empty", b""), ("none", None), ("huge", huge)]
    rows = [*good, *((name, START, None, picture, "across", "user 1") for name, picture in bad)]
    spark.createDataFrame(rows, PICTURES).write.parquet(str(tmp_path / "raw"))
    asked = settings_in(
        tmp_path,
        sources={"pictures": {"path": str(tmp_path / "raw"), "format": "parquet", "persons": ["user_id"]}},
        tables={"root": str(tmp_path / "tables"), "quarantine_limit": 0.2},
    )
    told = ingest.run(asked, spark)["tables"]["pictures"]
    assert told["rows"] == 40
    assert sum(told["bad"].values()) == 5
    assert told["bad"]["picture cannot be read"] in (2, 3)
    assert told["bad"]["picture is missing"] == 2
    kept = Tables(spark, asked.tables.root).read("pictures").collect()
    assert {row["item_id"]: bytes(row["picture"]) for row in kept} == {row[0]: row[3] for row in good}
    aside = Tables(spark, asked.tables.root).read("quarantine").collect()
    assert all('"picture":"sha256 ' in row["row"] or '"item_id":"none"' in row["row"] for row in aside)
    assert ingest.run(asked, spark)["up_to_date"]
    strict = asked.model_copy(
        update={"tables": asked.tables.model_copy(update={"root": str(tmp_path / "other"), "quarantine_limit": 0.05})}
    )
    with pytest.raises(TooManyBadRows, match="5 of 45 rows"):
        ingest.run(strict, spark)


def test_pictures_without_the_package_that_reads_them_are_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.errors import EnvironmentProblem

    spark.createDataFrame(planted()[:2], PICTURES).write.parquet(str(tmp_path / "raw"))
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda _: None)
    asked = settings_in(tmp_path, sources={"pictures": {"path": str(tmp_path / "raw"), "format": "parquet"}})
    with pytest.raises(EnvironmentProblem, match=r"Pillow is not installed; pip install 'millrace\[images\]'"):
        ingest.run(asked, spark)


def test_pictures_that_cannot_teach_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    some = planted()[:60]
    for wrong, problem in (
        ([*some, some[7]], "a item_id must stand once in table 'pictures'; 1 stand more often"),
        ([(*one[:4], "across", one[5]) for one in some], "before the cut there are 1; map the column"),
    ):
        rows = spark.createDataFrame(wrong, PICTURES)
        read = {"pictures": rows, "lines": image_on_spark.lines({"pictures": rows})}
        with pytest.raises(DataError, match=problem):
            image_on_spark.examples(Ground(read, settings_in(tmp_path), tmp_path), Cuts(VALIDATION, CUT))


def test_the_planted_truth_is_what_is_shown(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planted_table(PICTURES_OF_SHOP, spark.range(50), ShopSettings(items=50, tastes=12), truth=True)
    monkeypatch.setattr(image_on_spark.simulate, "truth_of_source", lambda *_: made)
    numbers = spark.createDataFrame([(n + 1, shape) for n, shape in enumerate(SHAPES)], "index bigint, id string")
    ground = Ground({"lines": made, "vocabulary_classes": numbers}, settings_in(tmp_path), tmp_path)
    found = image_on_spark._truth(ground)[TRUTH](made.withColumnRenamed("item_id", "key"), "after").collect()
    shapes = {row["item_id"]: row["true_shape"] for row in made.collect()}
    assert {row["key"]: SHAPES[row["class"] - 1] for row in found} == shapes
