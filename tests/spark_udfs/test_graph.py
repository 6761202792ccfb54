"""A small graph with all that may be wrong with one: what lies within two steps of items, and what joins them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs import graph
from spark_udfs.simulated import brands
from spark_udfs.simulated.shop import Shop

ITEMS = ["a", "b", "c", "lone"]
TRIPLES = [
    ("a", "brand", "x"), ("a", "brand", "x"),  # twice
    ("b", "brand", "y"), ("c", "brand", "z"), ("lone", "brand", "w"),
    ("x", "made_by", "m"), ("y", "made_by", "m"), ("m", "made_by", "x"),  # a circle
    ("z", "made_by", "n"), ("n", "owned_by", "m"),
    ("a", "goes with", "c"), ("c", "goes with", "c"),  # with itself
    ("a", "sku", "1"), ("b", "sku", "2"), ("c", "sku", "3"),  # nothing meets there
    *((item, "sold_by", "shop") for item in ITEMS), *((f"other {n}", "sold_by", "shop") for n in range(50)),  # a hub
]  # fmt: skip
MOST, PLACES = 20, 8


@pytest.fixture(scope="module")
def triples(spark: SparkSession) -> DataFrame:
    rows = spark.createDataFrame(TRIPLES, "head string, relation string, tail string")
    return graph.cleaned([rows]).persist()


@pytest.fixture(scope="module")
def near(spark: SparkSession, triples: DataFrame) -> DataFrame:
    items = spark.createDataFrame([(item,) for item in ITEMS], "item_id string")
    return graph.neighbours(triples, items, graph.hubs(triples, MOST), PLACES).persist()


def of_item(near: DataFrame, item: str) -> dict[tuple[str, ...], set[str]]:
    found: dict[tuple[str, ...], set[str]] = {}
    for row in near.where(F.col("item_id") == item).collect():
        found.setdefault(tuple(row["path"]), set()).add(row["entity"])
    return found


def test_triples_stand_once_and_none_is_of_a_thing_with_itself(triples: DataFrame) -> None:
    assert sorted(map(tuple, triples.collect())) == sorted({triple for triple in TRIPLES if triple[0] != triple[2]})


def test_what_lies_within_two_steps(near: DataFrame) -> None:
    """Along relations and against them, round no circle to where it came from, through no hub, to nothing alone."""
    assert of_item(near, "a") == {
        (">brand",): {"x"},
        (">brand", ">made_by"): {"m"},
        (">brand", "<made_by"): {"m"},
        (">goes with",): {"c"},
        (">goes with", ">brand"): {"z"},
        (">sold_by",): {"shop"},
        (">goes with", ">sold_by"): {"shop"},
    }
    assert of_item(near, "lone") == {(">sold_by",): {"shop"}}


def test_each_neighbour_has_the_triples_that_lead_there(near: DataFrame, triples: DataFrame) -> None:
    known = {tuple(triple) for triple in triples.collect()}
    for row in near.collect():
        at = row["item_id"]
        for step, triple in zip(row["path"], row["triples"], strict=True):
            assert tuple(triple) in known
            assert step[1:] == triple["relation"]
            start, end = (triple["head"], triple["tail"]) if step[0] == ">" else (triple["tail"], triple["head"])
            assert at == start
            at = end
        assert at == row["entity"]


def test_no_list_is_longer_than_its_places(spark: SparkSession) -> None:
    """An item of a hundred tags; the rarest come first."""
    rows = [("a", "tag", f"t{n}") for n in range(100)] + [("b", "tag", f"t{n}") for n in range(95)]
    rows += [(f"c{n}", "tag", "t3") for n in range(5)]
    held = graph.cleaned([spark.createDataFrame(rows, "head string, relation string, tail string")])
    items = spark.createDataFrame([("a",)], "item_id string")
    within = graph.neighbours(held, items, graph.hubs(held, 200), 3)
    found = within.orderBy("place").collect()
    assert [row["place"] for row in found] == [1, 2, 3]
    assert graph.neighbours(held, items, graph.hubs(held, 200), 99).where("size(path) = 1").count() == graph.OF_PATH
    assert graph.neighbours(held, items, graph.hubs(held, 99), 99).isEmpty()
    assert "t3" not in {row["entity"] for row in found}


def test_what_says_nothing_is_named(triples: DataFrame) -> None:
    assert [row["relation"] for row in graph.useless(triples).collect()] == ["sku"]
    assert sorted(map(tuple, graph.hubs(triples, MOST).collect())) == [("shop", "<sold_by")]


def test_pairs_get_numbers_where_two_items_have_them(spark: SparkSession, near: DataFrame) -> None:
    pairs = sorted(row["id"] for row in graph.frequent(near).collect())
    assert '[">brand",">made_by","m"]' in pairs
    assert '[">brand","x"]' not in pairs
    vocabulary = spark.createDataFrame(list(enumerate(pairs, 1)), "index bigint, id string")
    rows = spark.createDataFrame([(item,) for item in (*ITEMS, "new")], "item_id string")
    found = {row["item_id"]: row for row in graph.numbered(rows, near, vocabulary, PLACES).collect()}
    maker = pairs.index('[">brand",">made_by","m"]') + 1
    assert maker in found["a"]["graph"]
    assert maker in found["b"]["graph"]
    assert maker not in found["c"]["graph"]
    for row in found.values():
        assert len(row["graph"]) == len(row["graph_path"]) == PLACES
        assert [pair > 0 for pair in row["graph"]] == [path > 0 for path in row["graph_path"]]
    by = {item: dict(zip(found[item]["graph"], found[item]["graph_path"], strict=True)) for item in ("a", "b")}
    assert by["a"][maker] == by["b"][maker]
    assert set(found["new"]["graph"]) == {0}


def test_items_are_joined_by_the_fewest_true_triples(spark: SparkSession, near: DataFrame, triples: DataFrame) -> None:
    asked = spark.createDataFrame([(1, "a"), (1, "lone"), (2, "a"), (3, "b")], "user bigint, item_id string")
    had = spark.createDataFrame([(1, "b"), (2, "b"), (2, "c"), (3, "other")], "user bigint, item_id string")
    found = {
        (row["user"], row["item_id"]): [tuple(triple) for triple in row["path"]]
        for row in graph.joining(asked, had, near).collect()
    }
    assert found == {
        (1, "a"): [("a", "sold_by", "shop"), ("b", "sold_by", "shop")],
        (1, "lone"): [("lone", "sold_by", "shop"), ("b", "sold_by", "shop")],
        (2, "a"): [("a", "goes with", "c")],
    }
    without = near.where("entity != 'shop'")
    (row,) = graph.joining(asked.where("user = 1"), had, without).collect()
    path = [tuple(triple) for triple in row["path"]]
    assert path[0][0] == "a"
    assert path[-1] == ("b", "brand", "y")
    assert len(path) == 4
    assert set(path) <= {tuple(triple) for triple in triples.collect()}


def test_words_of_texts_are_tails(spark: SparkSession) -> None:
    values = spark.createDataFrame(
        [("a", "A GLASS bowl, glassy", ["1", "1", None]), ("b", None, None)],
        "item_id string, name string, tags array<string>",
    )
    assert list(map(tuple, graph.of_words(values, "made_of", "name", ["Glass", "oak"]).collect())) == [
        ("a", "made_of", "glass")
    ]
    assert list(map(tuple, graph.of_attribute(values, "tags").collect())) == [("a", "tags", "1")]


def test_the_planted_taste_lies_at_the_second_step() -> None:
    shop = Shop(items=3_000, tastes=10, seed=3)
    items, held = brands.items_of(np.arange(shop.items), shop), _triples_of(shop)
    assert len(np.unique(items["brand"])) > shop.items / 3
    right = held["maker_is_right"][held["relation"] == "made by"]
    assert right.mean() == pytest.approx(1 - brands.WRONG_MAKER, abs=0.02)
    for relation, least, most in (("made by", 0.85, 0.95), ("from", 0.1, 0.2)):
        mine = held["relation"] == relation
        counts = np.zeros((shop.tastes, 1 + held["number"][mine].max()))
        np.add.at(counts, (held["taste"][mine], held["number"][mine]), 1)
        assert least < counts.max(axis=0).sum() / mine.sum() < most  # how often the tail's likeliest taste is right


def _triples_of(shop: Shop) -> dict[str, Any]:
    units = np.arange(brands.BRAND_TRIPLES.units(shop))
    rows = {name: np.asarray(values) for name, values in brands.triples_of(units, shop).items()}
    return rows | {"number": np.unique(rows["tail"].astype(str), return_inverse=True)[1]}
