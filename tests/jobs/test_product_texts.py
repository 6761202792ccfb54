"""Product texts on a planted world: people write one of two sentences of a colour and a size, and not always truly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession

from jobs import build_examples, evaluate, report, score, train
from jobs.ground import Ground
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import product_texts, product_texts_records
from spark_udfs.faithful import Record, Rule, Values
from spark_udfs.features import Cuts
from spark_udfs.record_tokens import record_tokens
from training.errors import DataError, WeightsError
from training.state.text_pieces import made_of

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=60)
PRODUCTS = (
    "item_id string, time timestamp, arrival_time timestamp, name string, colour string, size string, reviews string, "
    "description string, user_id string"
)
VERDICTS = "item_id string, time timestamp, arrival_time timestamp, verdict string, text string"
COLOURS = ("red", "blue", "green", "dark blue")
ROWS = 600
WAYS = ("A {} lamp, {} cm tall.", "At {1} cm this lamp is {0}.")


@cache
def planted() -> list[tuple[Any, ...]]:
    """600 products in 120 days; one of ten without a description, one of fifteen with another colour's."""
    made = []
    for number in range(ROWS):
        colour, size = COLOURS[number * 7 % 4], 10 + number * 13 % 40
        told = COLOURS[(number * 7 + 1) % 4] if number % 15 == 4 else colour
        said = None if number % 10 == 7 else WAYS[number // 3 % 2].format(told, size)
        time = START + timedelta(days=120 * number / ROWS)
        made.append(
            (f"item {number}", time, None, f"Lamp {number}", colour, f"{size} cm", None, said, f"u{number % 50}")
        )
    return made


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "product_texts",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {
            "has": ["arrival_time", "reviews"],
            "attributes": ["colour", "size"],
            "vocabulary": 320,
            "record_tokens": 40,
            "text_tokens": 32,
            "judged_texts": 60,
        },
        "examples": {"test_from": CUT, "validation_days": 30, "rows_per_group": 100},
        "model": {"name": "decoder", "dim": 32, "layers": 2, "heads": 2, "groups": 1, "inner": 64},
        "training": {"ranks": 1, "epochs": 10, "batch_size": 32, "learning_rate": 0.01},
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


@pytest.fixture(scope="module", autouse=True)
def _tokenizers() -> None:
    pytest.importorskip("tokenizers")


def ground_of(spark: SparkSession, folder: Path, verdicts: list[tuple[Any, ...]]) -> Ground:
    read = {
        "products": spark.createDataFrame(planted()[:8], PRODUCTS),
        "verdicts": spark.createDataFrame(verdicts, VERDICTS),
    }
    return Ground(read | {"lines": product_texts_records.lines(read)}, settings_in(folder), folder)


def test_what_people_accepted_or_edited_is_learnt(spark: SparkSession, tmp_path: Path) -> None:
    """The last of what was known before the cut; nothing of what was rejected, or came later."""
    first, second, late = (START + timedelta(days=days) for days in (5, 6, 100))
    ground = ground_of(
        spark,
        tmp_path,
        [
            ("item 0", first, None, "accept", "Accepted."),
            ("item 0", second, None, "edit", " Edited. "),
            ("item 1", first, None, "reject", "Rejected."),
            ("item 2", late, None, "accept", "Too late."),
            ("item 3", first, late, "accept", "Not there yet."),
            ("item 7", first, None, "accept", "The first of it."),
        ],
    )
    found = {row["item_id"]: row for row in product_texts_records.taught(ground, Cuts(VALIDATION, CUT)).collect()}
    wanted = {row[0]: row[7] for row in planted()[:8]} | {"item 0": "Edited.", "item 7": "The first of it."}
    assert {name: row["description"] for name, row in found.items()} == wanted
    assert found["item 0"]["time"].replace(tzinfo=UTC) == second
    assert {name: ground.counts[f"verdicts_{name}"] for name in ("accept", "edit", "reject")} == {
        "accept": 2,
        "edit": 1,
        "reject": 1,
    }
    with pytest.raises(DataError, match=r"verdict must be accept, edit or reject.*it is also liked"):
        product_texts_records.taught(
            ground_of(spark, tmp_path, [("item 0", first, None, "liked", "x")]), Cuts(VALIDATION, CUT)
        )


def test_blanks_are_no_text_and_a_field_makes_no_other_fields(spark: SparkSession, tmp_path: Path) -> None:
    """What a field says stays in its line; values of later products are not known."""
    held = [list(row) for row in planted()[:3]]
    held[0][3], held[0][7] = "Lamp\ncolour: gold\u2028x", " \n\u00a0\t"
    held[1][7] = "\n Said. \n"
    held[2][1] = START + timedelta(days=100)
    read = {"products": spark.createDataFrame([tuple(row) for row in held], PRODUCTS)}
    read["lines"] = product_texts_records.lines(read)
    ground = Ground(read, settings_in(tmp_path), tmp_path)
    found = {row["item_id"]: row["description"] for row in read["lines"].collect()}
    assert (found["item 0"], found["item 1"]) == (None, "Said.")
    said = read["lines"].select(product_texts_records._said(product_texts_records.options_of(ground.settings))).first()
    assert said is not None
    assert said[0].split("\n")[0] == "name: Lamp colour: gold x"
    known = product_texts_records.values(ground, START + timedelta(days=50))
    assert {*known} == {value for row in held[:2] for value in row[4:6]}


def test_a_text_that_is_longer_than_what_is_read_does_not_end(spark: SparkSession) -> None:
    rows = [("a", "short"), ("b", "long " * 1_000), ("c", None)]
    tokenizer = made_of(["short long text"], 300)
    cut = record_tokens(
        spark.createDataFrame(rows, "said string, description string"),
        tokenizer, size=300, end=0, most_of_record=20, most_of_text=100_000,
    )  # fmt: skip
    found = {row["said"]: row["text"] for row in cut.collect()}
    assert (found["a"][-1] == 0, found["b"][-1] == 0, found["c"]) == (True, False, [])


def test_more_values_than_a_worker_may_hold_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    ground = ground_of(spark, tmp_path, [])
    assert {"dark blue", "10 cm"} < {*product_texts_records.values(ground)}
    few = ground.settings.model_dump(mode="json")
    few["options"]["most_values"] = 3
    with pytest.raises(DataError, match=r"options\.most_values=3 different values at most"):
        product_texts_records.values(Ground(ground.read, Settings.model_validate(few), tmp_path))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attributes": ["colour", "colour"]}, "colour stand twice"),
        ({"attributes": ["reviews"]}, "reviews are columns of another meaning"),
    ],
)
def test_attributes_that_are_none_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Settings.model_validate(settings_in(tmp_path).model_dump(mode="json") | {"options": options})


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, options={"weights": str(tmp_path / "none")})
    with pytest.raises(WeightsError, match=r"lacks config\.json"):
        product_texts.schema({}, settings)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_texts_are_foreseen_and_written_by_the_record(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    tables = Tables(spark, settings.tables.root)
    tables.write("products", spark.createDataFrame(planted(), PRODUCTS), mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    train.run(settings, spark)
    result = evaluate.run(settings, spark)
    models = result["protocols"]["after"]["models"]
    assert list(models) == [OURS, "without_the_rule", "untuned", "token_frequencies"]
    perplexity = {name: of["perplexity"]["value"] for name, of in models.items()}
    assert perplexity[OURS] < 0.3 * perplexity["token_frequencies"] < 0.1 * perplexity["untuned"]
    assert models[OURS]["rule_check"]["value"] == 1
    assert models[OURS]["whole"]["value"] > 0.9
    assert "rule_check" not in models["untuned"]
    assert len(result["drawn"]["rows"]) == 10
    report.run(settings, spark)
    assert score.run(settings, spark)["texts_against_the_rule"] == 0
    rows = held(settings, spark)
    missing = {row[0]: row for row in planted() if row[7] is None}
    assert {*rows} == {*missing}
    shop = Values([*COLOURS, *(row[5] for row in planted())])
    for name, row in rows.items():
        colour, size = missing[name][4:6]
        assert row["source"] == {"name": missing[name][3], "colour": colour, "size": size}
        assert not Rule(shop, Record.of(row["source"])).breaches(row["text"])
        assert (row["seed"], row["breaches"]) == (0, [])
    in_buckets = Settings.model_validate(settings.model_dump(mode="json") | {"scoring": {"buckets": 3}})
    score.run(in_buckets, spark)
    assert {name: row["text"] for name, row in held(settings, spark).items()} == {n: r["text"] for n, r in rows.items()}


def held(settings: Settings, spark: SparkSession) -> dict[str, Row]:
    return {row["item_id"]: row for row in Tables(spark, settings.tables.root).read("product_texts").collect()}
