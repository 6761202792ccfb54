"""A shop whose new items are told by a knowledge graph alone: of a source and of attributes, learnt and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, ingest, score, source_tables, train
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from jobs.tasks.recommend_on_spark import knowledge
from tests.jobs import test_item_attributes as by_attributes
from tests.jobs.test_item_attributes import NEW, OLD, TEST, USERS, day, events, prices, taste
from training.errors import SchemaError, SettingsError

ITEMS = "item_id string, name string, brand string, words string"


def settings_for(folder: Path, **more: Any) -> Settings:
    held = by_attributes.settings_for(folder, item_attributes={}, text_weights=None, graph={"attributes": ["brand"]})
    triples = {"path": str(folder / "triples.csv"), "columns": {"head": "what", "relation": "how", "tail": "to"}}
    return Settings(**held.model_dump(exclude={"sources"}) | {"sources": {"triples": triples}} | more)


def brand(item: str) -> str:
    """Two items of a taste have one; those that are new have brands of their own."""
    return f"brand {item[0]}{int(item[1:]) % 4}{int(item[1:]) // 8}"


def write_triples(folder: Path) -> None:
    """Brands are made by a maker of their taste; and rows that are none."""
    made = {f"{brand(item)},made by,maker {taste(item)}" for item in (*OLD, *NEW)}
    wrong = [",made by,maker 1", "x,made by,x", "nobody,made by,maker 9"]
    (folder / "triples.csv").write_text("what,how,to\n" + "\n".join([*sorted(made), sorted(made)[0], *wrong]) + "\n")


def write_shop(spark: SparkSession, settings: Settings) -> None:
    tables, bought = Tables(spark, settings.tables.root), spark.createDataFrame(events(), by_attributes.EVENTS)
    sold = bought.where(F.col("item_id").isin(*OLD, *NEW)).coalesce(1)
    rows = [(item, item, brand(item), "An oak thing") for item in (*OLD, *NEW)]
    history = spark.createDataFrame(prices(), "item_id string, time timestamp, list_price double")
    made = {"events": sold, "users": sold.select("user_id").distinct(), "items": spark.createDataFrame(rows, ITEMS)}
    made |= {"item_attributes": made["items"], "item_history": history}
    for name, held in made.items():
        tables.write(name, held.coalesce(1), mode="overwrite", job="ingest", inputs={})


def bring(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    tables = Tables(spark, settings.tables.root)
    found: dict[str, Any] = source_tables.ingest(settings, tables, TASKS["recommend"])["tables"]["triples"]
    return found


def test_a_source_of_triples_is_brought_in(spark: SparkSession, tmp_path: Path) -> None:
    write_triples(tmp_path)
    settings = settings_for(tmp_path, tables={"root": str(tmp_path / "tables"), "quarantine_limit": 0.1})
    told = bring(spark, settings)
    assert told["bad"] == {"head is missing": 1}
    rows = Tables(spark, settings.tables.root).read("triples")
    assert rows.columns == ["head", "relation", "tail"]
    assert rows.count() == told["rows"] == rows.where("relation = 'made by'").count()
    assert bring(spark, settings)["up_to_date"]


def test_what_the_graph_is_made_of_must_be_there(spark: SparkSession, tmp_path: Path) -> None:
    items, cut = spark.createDataFrame([("a", "a", "b", "c")], ITEMS), day(TEST)
    settings = settings_for(tmp_path, sources={})

    def parts(**asked: Any) -> list[Any]:
        held = settings.examples.model_copy(update={"graph": type(settings.examples.graph)(**asked)})  # type: ignore[attr-defined]
        return knowledge.parts_of({"items": items}, settings.model_copy(update={"examples": held}), cut)

    assert len(parts(attributes=["brand"], words={"made of": {"attribute": "words", "words": ["oak"]}})) == 2
    with pytest.raises(SettingsError, match=r"names no attributes and no words, and sources\.triples is not set"):
        parts()
    with pytest.raises(SchemaError, match=r"'maker' is missing, and it has brand, item_id"):
        parts(attributes=["maker"])
    with pytest.raises(ValueError, match=r"price: of all events"):
        parts(attributes=["price"])
    with pytest.raises(SettingsError, match=r"and of triples; 'recommend' reads events: .* sources\.triplets"):
        ingest.run(settings_for(tmp_path, sources={"triplets": {"path": "x.csv"}}), spark)


@pytest.mark.slow
def test_new_items_are_found_by_the_graph_and_shown_with_its_triples(spark: SparkSession, tmp_path: Path) -> None:
    """By makers, two steps away: their brands sold nothing before. Each path is of triples of the pinned table."""
    write_triples(tmp_path)
    settings = settings_for(tmp_path)
    settings = settings.model_copy(update={"scoring": settings.scoring.model_copy(update={"paths": True})})
    write_shop(spark, settings)
    settings = settings.model_copy(update={"tables": settings.tables.model_copy(update={"quarantine_limit": 0.1})})
    bring(spark, settings)
    build = build_examples.run(settings, spark)
    counts = build["counts"]
    assert (counts["graph_duplicates"], counts["graph_self_loops"], counts["graph_unknown_heads"]) == (1, 1, 1)
    assert build["read"]["triples"] == 0
    assert build_examples.run(settings, spark)["up_to_date"]
    train.run(settings)
    score.run(settings, spark)
    tables = Tables(spark, settings.tables.root)
    pinned = tables.read("graph", build["versions"]["graph"]).where("split = 'test'")
    known = {(row["head"], row["relation"], row["tail"]) for row in pinned.collect()}
    lists = tables.read("recommendations").collect()
    new = [row for row in lists if row["item_id"] in NEW]
    assert len({row["user_id"] for row in new}) > 0.9 * USERS
    assert sum(taste(row["item_id"]) == int(row["user_id"][1:]) % 4 for row in new) / len(new) > 0.7
    shown = [row for row in lists if row["path"] is not None]
    assert all(taste(row["item_id"]) == int(row["user_id"][1:]) % 4 for row in shown)  # no maker has another taste
    assert {row["item_id"] for row in new if taste(row["item_id"]) == int(row["user_id"][1:]) % 4} <= {
        row["item_id"] for row in shown
    }
    for row in shown:
        path = [(triple["head"], triple["relation"], triple["tail"]) for triple in row["path"]]
        assert set(path) <= known
        assert row["item_id"] in path[0]
