"""Files of pictures to pixels: each kind by its rule, and what is none is said so; neighbours as brute force has
them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_udfs import nearest_vectors, pictures
from spark_udfs.baselines import pixels
from spark_udfs.png import png
from training.errors import DataError

Image = pytest.importorskip("PIL.Image")


def file(image: Any, kind: str, **more: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **more)
    return held.getvalue()


def of_one_colour(mode: str, colour: Any, kind: str = "PNG", **more: Any) -> bytes:
    return file(Image.new(mode, (8, 8), colour), kind, **more)


def with_palette(**more: Any) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return file(image, "PNG", **more)


def test_pixels_of_a_pictures_own_size_are_its_own() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        own = rng.integers(0, 256, (9, 9, channels), dtype=np.uint8)
        assert pictures.pixels(png(own), 9, channels) == own.tobytes()
        assert pictures.fault(png(own)) is None


@pytest.mark.parametrize(
    ("held", "seen"),
    [
        (of_one_colour("L", 70), (70, 70, 70)),
        (of_one_colour("1", 1), (255, 255, 255)),
        (of_one_colour("P", 0), (0, 0, 0)),
        (of_one_colour("RGB", (10, 20, 30)), (10, 20, 30)),
        (of_one_colour("RGB", (10, 20, 30), "BMP"), (10, 20, 30)),
        (of_one_colour("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (of_one_colour("RGBA", (10, 20, 30, 0)), (255, 255, 255)),  # what is transparent lies on white
        (of_one_colour("LA", (10, 0)), (255, 255, 255)),
        (with_palette(transparency=1), (255, 255, 255)),
        (with_palette(), (10, 20, 30)),
        (file(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"), (156, 156, 156)),
        (of_one_colour("CMYK", (0, 0, 0, 0), "JPEG"), (255, 255, 255)),
    ],
)
def test_each_kind_of_colour_has_its_rule(held: bytes, seen: tuple[int, int, int]) -> None:
    found = pictures.pixels(held, 8, 3)
    assert found is not None
    assert tuple(found[:3]) == seen
    grey = pictures.pixels(held, 8, 1)
    assert grey is not None
    assert abs(grey[0] - np.dot(seen, (0.299, 0.587, 0.114))) < 1


def test_a_picture_is_scaled_to_fit_and_its_rest_has_the_colour_of_its_corner() -> None:
    wide = np.full((10, 20, 3), 50, np.uint8)
    wide[:, 10:] = 200
    found = np.frombuffer(pictures.pixels(png(wide), 10, 3) or b"", np.uint8).reshape(10, 10, 3)
    assert (found[:2] == 50).all()
    assert (found[-2:] == 50).all()
    assert (found[4:6, 6:] == 200).all()


def test_a_camera_that_was_turned_is_followed() -> None:
    held = Image.new("L", (8, 8))
    held.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    found = np.frombuffer(pictures.pixels(file(held, "PNG", exif=exif), 8, 1) or b"", np.uint8).reshape(8, 8)
    assert found[7, 7] == 255
    assert found.sum() == 255


def test_what_is_no_picture_is_told() -> None:
    own = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    cut = png(own)[:-40]
    for held in (b"", b"no picture", cut, file(Image.fromarray(own), "JPEG")[:-200]):
        assert pictures.fault(held) == "cannot be read"
        assert pictures.pixels(held, 8, 3) is None
    assert pictures.fault(file(Image.fromarray(own), "PPM")) == "cannot be read"  # no kind that shops show
    bomb = file(Image.new("1", (8_000, 8_000)), "PNG")
    assert len(bomb) < 20_000
    assert pictures.fault(bomb) == "has more than 50,000,000 pixels"


def test_neighbours_are_those_of_brute_force(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(1, 4, 60)
    rows = [(f"row {n}", [*map(float, vectors[n])], int(labels[n])) for n in range(60)]
    held = spark.createDataFrame(rows, "key string, vector array<float>, label bigint")
    file = nearest_vectors.save(held, tmp_path, "rows")
    cosines = vectors @ vectors.T
    told = {row["key"]: row for row in nearest_vectors.classes(held, file, 5).collect()}
    for n in range(60):
        votes = labels[np.argsort(-cosines[n])[:5]]
        counts = np.bincount(votes)
        assert (told[f"row {n}"]["class"], told[f"row {n}"]["p"]) == (counts.argmax(), counts.max() / 5)
    alike = nearest_vectors.similar(held, nearest_vectors.save(held.drop("label"), tmp_path, "alike"), 3).collect()
    np.fill_diagonal(cosines, -2)
    for row in alike:
        own = np.sort(cosines[int(row["key"].split()[1])])[::-1]
        assert abs(row["cosine"] - own[row["rank"] - 1]) < 1e-5
    assert len(alike) == 180
    with pytest.raises(DataError, match="told apart by their key's hash; 2 have the hash"):
        nearest_vectors.save(held.union(held.limit(1)), tmp_path, "rows")


def test_the_regression_of_pixels_finds_what_pixels_say(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, 200)
    held = [rng.integers(150 * one, 100 + 150 * one, (60, 60, 1)).astype(np.uint8).tobytes() for one in bright]
    rows = [(f"row {n}", picture, int(one) + 1) for n, (picture, one) in enumerate(zip(held, bright, strict=True))]
    frame = spark.createDataFrame(rows, "key string, picture binary, label bigint")
    model = pixels.fit(frame, (60, 60, 1))  # of squares of three pixels
    assert model.numFeatures == 400
    found = pixels.answer(frame, model, (60, 60, 1)).join(frame, on="key").collect()
    assert all(row["class"] == row["label"] and row["p"] > 0.9 for row in found)
