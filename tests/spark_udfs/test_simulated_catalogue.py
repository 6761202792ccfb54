"""Items of the simulated shop: names as in the order lines, texts and pictures that tell as much as is planted."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_udfs.simulated import catalogue, tastes
from spark_udfs.simulated.planted import planted
from spark_udfs.simulated.shop import Shop, planted_lines

SHOP = Shop(users=40, items=3_000, days=100, orders_per_user=4.0, tastes=8, seed=5)


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return {name: np.asarray(values) for name, values in catalogue.items_of(np.arange(SHOP.items), SHOP).items()}


def pixels(file: bytes) -> Any:
    """A PNG of ours read by hand, its checksums held against its bytes."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(file):
        (length,), kind = struct.unpack(">I", file[at : at + 4]), file[at + 4 : at + 8]
        found[kind] = file[at + 8 : at + 8 + length]
        assert struct.unpack(">I", file[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + found[kind])
        at += 12 + length
    width, height = struct.unpack(">II", found[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, 1 + width * 3)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def test_names_are_those_of_the_order_lines(spark: SparkSession) -> None:
    small = Shop(users=30, items=60, days=60, orders_per_user=4.0, tastes=4, seed=7)
    lines = planted_lines(spark.range(small.users).withColumnRenamed("id", "user"), small)
    lines = lines.where("dirt IS NULL").select("item_id", "name", "price").distinct()
    texts = planted(catalogue.ITEMS, spark.range(small.items), small)
    texts = texts.selectExpr("item_id", "name AS said", "price AS asked")
    both = lines.join(texts, on="item_id", how="left").toPandas()
    assert len(both) > 20
    assert (both.name == both.said).all()
    assert (both.price.astype(float) == both.asked).all()


def test_categories_are_wrong_where_planted(rows: dict[str, Any]) -> None:
    right = rows["category_is_right"]
    assert right.mean() == pytest.approx(1 - catalogue.WRONG_CATEGORY, abs=0.02)
    assert (right == (rows["category"] == rows["taste"])).all()


def test_items_are_on_sale_from_when_they_appeal(rows: dict[str, Any]) -> None:
    begins = rows["on_sale_from"] - tastes.start_s(SHOP) / 86_400
    assert (begins < 0).mean() == pytest.approx(tastes.EARLY_SHARE, abs=0.04)
    for ahead, on_sale in ((0, True), (-1.001, False)):
        later = begins >= 0
        found = tastes.appeal(np.arange(SHOP.items)[later], begins[later] + ahead, SHOP) > 0
        assert found.all() if on_sale else not found.any()


def test_descriptions_tell_the_taste_as_planted(rows: dict[str, Any]) -> None:
    posterior = catalogue.taste_posterior(np.arange(SHOP.items), SHOP)
    right = (posterior.argmax(axis=1) == rows["taste"]).mean()
    assert 0.6 < right < 0.97
    assert right == pytest.approx(posterior.max(axis=1).mean(), abs=0.03)
    said = catalogue.style_words(np.arange(50), SHOP)
    for text, numbers in zip(rows["description"], said, strict=False):
        told = [word for word in text.replace(",", "").split() if word in catalogue.WORDS]
        assert told == [catalogue.WORDS[number] for number in numbers]


def test_a_text_and_a_shape_tell_more_of_the_taste_than_either() -> None:
    shop, items = Shop(items=1_200, tastes=12), np.arange(1_200)
    taste = tastes.taste_of_item(items, shop)
    by_text = catalogue.taste_posterior(items, shop)
    of_shape = np.arange(shop.tastes) % len(catalogue.SHAPES) == (taste % len(catalogue.SHAPES))[:, None]
    right = [(told.argmax(axis=1) == taste).mean() for told in (by_text, of_shape, by_text * of_shape)]
    assert right == pytest.approx([0.72, 0.5, 0.91], abs=0.02)


def test_pictures_show_their_shape_and_colour() -> None:
    """By the mean over many pictures: an empty middle is a ring's alone; the ink is the item's colour."""
    items = np.arange(800)
    made = catalogue.pictures_of(items, SHOP)
    shape, said = np.asarray(made["true_shape"]), np.asarray(made["shape"])
    assert (shape != said).mean() == pytest.approx(catalogue.WRONG_SHAPE, abs=0.03)
    shown = np.asarray([pixels(file.as_py()) for file in made["picture"]]).astype(float)
    assert shown.shape == (800, 32, 32, 3)
    ink = (shown.mean(axis=3) < 190).mean(axis=(1, 2))
    assert ink[shape == "square"].mean() > ink[shape == "cross"].mean() * 1.2
    middle = shown[:, 13:19, 13:19].mean(axis=(1, 2, 3))
    assert middle[shape == "ring"].mean() > middle[shape == "disc"].mean() + 40
    red = np.asarray(catalogue.items_of(items, SHOP)["colour"]) == "red"
    excess = (shown[..., 0] - shown[..., 2]).mean(axis=(1, 2))
    assert excess[red].mean() > 3 * abs(excess[~red].mean())
    few, more = (catalogue.rendered(items[:count], items[:count] % 6, SHOP) for count in (5, 9))
    assert (few == more[:5]).all()
