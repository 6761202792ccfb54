"""Attributes of items and users from tables of their own: typed, the newest of each, joined to what events say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import attributes as attributes_job
from jobs import ingest, sources
from jobs.attributes import AttributeReading, _refuse_other_types, rules_of
from jobs.erasure import erased
from jobs.settings import Settings
from jobs.settings_sources import AttributeSource, AttributeType, IngestSettings
from jobs.tables import Tables
from spark_udfs import attributes
from spark_udfs.attributes import TYPES, AttributeRules
from training.errors import SchemaError, SettingsError, TooManyBadRows

DAY_MS = 86_400_000
BEGIN_MS = 1_704_103_200_000
CLICKS = {
    "format": "json",
    "columns": {"item_id": "sku", "user_id": "visitor", "time": "ts", "kind": "event"},
    "kinds": {"pv": "view", "addToCart": "cart"},
    "time_format": "epoch_ms",
}
PRODUCTS = {
    "table": "products",
    "columns": {"item_id": "sku", "time": "at", "name": "title", "brand": "brand", "sizes": "sizes", "weight": "kg"},
}
VISITORS = {
    "delimiter": ";",
    "decimal": ",",
    "columns": {"user_id": "id", "tags": "tags", "score": "score", "member": "member", "since": "since"},
    "types": {"tags": "texts", "score": "number", "member": "flag", "since": "time"},
    "time_format": "dd.MM.yyyy",
}


def products(spark: SparkSession, weight: str = "1.5D") -> DataFrame:
    return spark.sql(
        f"SELECT * FROM VALUES ('s1', date'2024-01-01', 'old', 'A', array(1, 2), {weight}), "
        f"('s1', date'2024-03-01', 'Lamp', 'B', array(3), {weight}), ('s1', date'2024-02-01', 'x', 'C', null, null), "
        f"('never sold', date'2024-01-01', null, 'A', array(), {weight}), "
        "(null, date'2024-01-01', 'y', 'D', null, null) "
        "AS t(sku, at, title, brand, sizes, kg)"
    )


def shop(folder: Path, *lines: str, limit: float = 0.3) -> Settings:
    """A click stream in JSON lines without prices, with attributes in two other tables."""
    rows = [
        {"sku": f"s{n % 3}", "visitor": f"v{n % 2}", "ts": BEGIN_MS + n * DAY_MS, "event": ("pv", "addToCart")[n % 2]}
        for n in range(6)
    ]
    (folder / "clicks.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "\n".join(["id;tags;score;member;since", *lines, ""])
    (folder / "visitors.csv").write_text(text, encoding="utf-8")
    section: dict[str, Any] = {
        **CLICKS,
        "path": f"{folder}/clicks.json",
        "items": [PRODUCTS],
        "users": [{**VISITORS, "path": f"{folder}/visitors.csv"}],
    }
    root = {"root": str(folder / "tables"), "quarantine_limit": limit}
    return Settings.model_validate({"tables": root, "ingest": section})


@pytest.mark.slow
def test_a_click_stream_with_attributes_in_two_other_tables(spark: SparkSession, tmp_path: Path) -> None:
    lines = ("v0;a|b;1.000,5;yes;01.02.2024", 'v1;["c|d"];;0;', "v9;;2;true;01.01.2020", "v8;;two;;")
    settings, tables = shop(tmp_path, *lines), Tables(spark, str(tmp_path / "tables"))
    first = ingest.run(settings, spark, frames={"products": products(spark)})
    assert first["dispositions"] == {"view": 3, "cart": 3}
    expected = {"attributes": 2, "older_attributes": 2, "missing_id": 1}
    assert first["attributes"]["items"] == {"products": expected}
    assert [*first["attributes"]["users"].values()] == [{"attributes": 3, "unreadable_attribute": 1}]
    items = tables.require(tables.read("items"), "items", {"item_id": "string", "name": "string", "brand": "string",
                           "sizes": "array<int>", "weight": "double"})  # fmt: skip
    assert sorted(tuple(row) for row in items.where("item_id != 's0'").collect()) == [
        ("never sold", None, "A", [], 1.5),
        ("s1", "Lamp", "B", [3], 1.5),
        ("s2", "s2", None, None, None),
    ]
    users = {row["user_id"]: row for row in tables.read("users").collect()}
    assert set(users) == {"v0", "v1", "v9"}
    assert (users["v0"]["tags"], users["v0"]["score"], users["v0"]["member"]) == (["a", "b"], 1000.5, True)
    assert (users["v1"]["tags"], users["v1"]["score"], users["v1"]["member"]) == (["c|d"], None, False)
    assert users["v9"]["first_seen"] is None
    reasons = {(row["reason"], "two" in row["row"]) for row in tables.read("quarantine").collect()}
    assert reasons == {("missing_id", False), ("unreadable_attribute", True)}
    again = ingest.run(settings, spark, frames={"products": products(spark).repartition(2)})
    assert again == first | {"up_to_date": True}


def test_an_attribute_of_another_type_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    tables = Tables(spark, str(tmp_path))
    tables.write("items", spark.sql("SELECT 'a' item_id, 1.5D weight"), mode="overwrite", job="ingest", inputs={})
    same, other = spark.sql("SELECT 'a' item_id, 2D weight"), spark.sql("SELECT 'a' item_id, '1.5' weight")
    _refuse_other_types(tables, "items", same, ["weight"])
    with pytest.raises(SchemaError, match=r"'weight' is string and was double\. Say the type in types"):
        _refuse_other_types(tables, "items", other, ["weight"])


def test_persons_who_were_erased_get_no_row(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.createDataFrame([("v1", "a"), (" v9 ", "b"), (None, "of v9")], "user_id string, segment string")
    asked = AttributeSource(table="users", columns={"user_id": "user_id", "segment": "segment"})
    rules = rules_of(IngestSettings(users=(asked,)))["ingest.users[0]"]
    reading = AttributeReading(sources.find("ingest.users[0]", asked, spark, {"users": rows}), rules)
    tables = Tables(spark, str(tmp_path))
    erased.remember(tables, ["v9"])
    persons = erased.known(tables)
    with attributes_job.gathered(tables, "users", [reading], {"n": 1}, limit=0.5, persons=persons) as made:
        assert [(row["user_id"], row["segment"]) for row in made.collect()] == [("v1", "a")]


def sort_out(spark: SparkSession, rows: list[tuple[Any, ...]], columns: str, **rules: Any) -> dict[str, int]:
    held = spark.createDataFrame(rows, columns)
    of = AttributeRules("item_id", {name: name for name in held.columns}, {}, "epoch_s", **rules)
    return {row["disposition"]: row["rows"] for row in attributes.counts(attributes.sort_out(held, of)).collect()}


def test_rows_of_one_id_without_a_time_are_bad_but_for_one(spark: SparkSession) -> None:
    rows = [("a", "x"), ("a", "y"), ("a", "y"), ("b", "x"), (" ", "z")]
    expected = {"attributes": 2, "several_rows": 1, "duplicate": 1, "missing_id": 1}
    assert sort_out(spark, rows, "item_id string, brand string") == expected
    timed = [("a", "1704103200", "x"), ("a", "1704103201", "y"), ("a", "soon", "y")]
    expected = {"attributes": 1, "older_attributes": 1, "unreadable_time": 1}
    assert sort_out(spark, timed, "item_id string, time string, brand string") == expected


@pytest.mark.slow
def test_bad_rows_past_the_limit_stop_and_name_the_settings(spark: SparkSession, tmp_path: Path) -> None:
    settings = shop(tmp_path, "v0;;two;;", "v1;;;;", limit=0.2)
    with pytest.raises(TooManyBadRows, match=r"1 of 2 rows of '.*visitors.csv' .* ingest.users\[0\]\.columns and"):
        ingest.run(settings, spark, frames={"products": products(spark).where("sku IS NOT NULL")})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"columns": {"brand": "b"}}, r"ingest.items\[0\].columns needs 'item_id'"),
        ({"columns": {"item_id": "i"}}, r"names no attribute"),
        ({"columns": {"item_id": "i", "price": "p"}}, r"has 'price', which items have of the events"),
        ({"columns": {"item_id": "i", "unit price": "p"}}, r"'unit price': an attribute's name has letters"),
        ({"columns": {"item_id": "i", "brand": "i"}}, r"the file's column 'i' more than once"),
        ({"columns": {"item_id": "i", "brand": "b"}, "types": {"b": "text"}}, r"types has 'b', which is no attribute"),
    ],
)
def test_attributes_that_cannot_be(section: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        rules_of(IngestSettings(items=({"path": "x", **section},)))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_file_of_attributes_that_changes_or_is_read_otherwise(spark: SparkSession, tmp_path: Path) -> None:
    """By the same Spark; one that is read twice counts twice."""
    place, settings = tmp_path / "brands.csv", shop(tmp_path, "v0;a;1;yes;01.01.2024", limit=1.0)
    brand = {"path": str(place), "columns": {"item_id": "sku", "brand": "brand"}}
    size = {"path": str(place), "columns": {"item_id": "sku", "size": "size"}}

    def run(text: str, *sources: dict[str, Any]) -> tuple[Any, dict[str, str]]:
        place.write_text(f"sku,brand,size\n{text}\n")
        section = IngestSettings.model_validate(settings.ingest.model_dump() | {"items": sources, "users": ()})
        made = ingest.run(settings.model_copy(update={"ingest": section}), spark)["attributes"]["items"]
        rows = Tables(spark, settings.tables.root).read("items").where("brand IS NOT NULL").collect()
        return made[str(place)], {row["item_id"]: row["brand"] for row in rows}

    assert run("s1,'A, B',1", brand) == ({"malformed_line": 1}, {})
    assert run("s1,'A, B',1", brand | {"quote": "'"}) == ({"attributes": 1}, {"s1": "A, B"})
    assert run("s1,C,1", brand, size) == ({"attributes": 2}, {"s1": "C"})


def test_an_attribute_of_two_sources_and_a_map_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    both = {"path": "x", "columns": {"item_id": "i", "brand": "b"}}
    with pytest.raises(SettingsError, match=r"items\[1\].columns has the attribute 'brand', and so has ingest.items"):
        rules_of(IngestSettings.model_validate({"items": [both, both]}))
    frame = spark.sql("SELECT 's1' sku, date'2024-01-01' at, 'n' title, map('a', 1) brand, array(1) sizes, 1.5D kg")
    with pytest.raises(SchemaError, match=r"attribute 'brand' of 'products' is map<string,int>"):
        ingest.run(shop(tmp_path, "v0;;;;"), spark, frames={"products": frame})
    assert not Tables(spark, f"{tmp_path}/tables").exists("events")  # it is said before the events are read


def test_the_types_of_the_settings_are_ours() -> None:
    from typing import get_args

    assert get_args(AttributeType) == tuple(TYPES)


@pytest.mark.slow
def test_a_price_counts_from_its_time_on(spark: SparkSession, tmp_path: Path) -> None:
    """All rows of a history are kept, the newest stands in the table; each row asks as of its own time."""
    prices = {"table": "products", "columns": {"item_id": "sku", "time": "at", "list_price": "kg"}, "history": True}
    held_from = [("s1", "2024-01-01", 1.0), ("s1", "2024-03-01", 3.0), ("s1", "2024-02-01", None)]
    held_from += [("s2", "2024-02-01", 2.0)]
    kg = spark.createDataFrame(held_from, "sku string, at string, kg double").withColumn("at", F.to_date("at"))
    asked = shop(tmp_path, "v0;a;1;yes;01.01.2024")
    section = IngestSettings.model_validate(asked.ingest.model_dump() | {"items": [prices]})
    ingest.run(asked.model_copy(update={"ingest": section}), spark, frames={"products": kg})
    tables = Tables(spark, asked.tables.root)
    held = tables.read("item_history")
    assert held.columns == ["item_id", "time", "list_price"]
    assert held.count() == 4
    newest = {row["item_id"]: row["list_price"] for row in tables.read("items").where("item_id != 's0'").collect()}
    assert newest == {"s1": 3.0, "s2": 2.0}
    times = [
        ("s1", "2023-12-31", None),
        ("s1", "2024-01-01", 1.0),
        ("s1", "2024-02-02", 1.0),
        ("s1", "2024-03-05", 3.0),
    ]
    times += [("s2", "2024-01-31", None), ("never", "2024-06-01", None)]
    rows = spark.createDataFrame(times, "item_id string, at string, wanted double")
    rows = rows.withColumn("time", rows["at"].cast("timestamp"))
    told = attributes.as_of(rows, held, "item_id", ["list_price"])
    assert told.columns == ["item_id", "at", "wanted", "time", "list_price"]
    assert [row["list_price"] for row in told.collect()] == [row["wanted"] for row in told.collect()]
    assert told.count() == len(times)


def test_a_history_needs_times() -> None:
    section = IngestSettings.model_validate(
        {"items": [{"table": "p", "columns": {"item_id": "sku", "brand": "b"}, "history": True}]}
    )
    with pytest.raises(SettingsError, match=r"ingest.items\[0\].history needs 'time' in ingest.items\[0\].columns"):
        rules_of(section)
