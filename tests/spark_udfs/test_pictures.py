"""Files of pictures to pixels: each kind by its rule, and what is none is said so; neighbours as brute force has
them."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

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
        (file(Image.fromarray(np.full((8, 8), 1_000, np.uint16)), "PNG", transparency=1_000), (255, 255, 255)),
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
    from PIL import ImageOps

    held = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for kind in ("PNG", "TIFF"):
        for turn in range(9):
            exif = Image.Exif()
            exif[0x0112] = turn
            turned = file(held, kind, exif=exif)
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
            assert pictures.pixels(turned, 8, 1) == upright.tobytes()
            assert (upright.tobytes() == held.tobytes()) == (turn < 2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_note_of_the_camera_harms_no_picture() -> None:
    held = file(Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)), "JPEG", quality=100)
    upright = np.frombuffer(pictures.pixels(held, 8, 1) or b"", np.uint8)
    maker = struct.pack(">HHII", 0x010F, 5, 1, 38)  # a text, and a ratio is there: Pillow cannot write it again
    odd = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + maker + struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0) + bytes(12)
    for note, seen in ((odd, upright[::-1]), (b"Exif\0\0II*\0\xff\xff\xff\xff", upright), (b"Exif\0\0II*\0", upright)):
        found = pictures.pixels(held[:2] + b"\xff\xe1" + (len(note) + 2).to_bytes(2) + note + held[2:], 8, 1)
        assert found == seen.tobytes()


def test_whatever_is_raised_of_a_file_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AttributeError("no such part")

    monkeypatch.setattr(Image, "open", refuse)
    assert pictures.fault(of_one_colour("L", 70)) == "cannot be read"


def test_long_thin_pictures_keep_a_line() -> None:
    for side in (8, 28):
        for shape in ((3_000, 6, 1), (6, 3_000, 1), (900, 1, 1), (1, 900, 1)):
            found = np.frombuffer(pictures.pixels(png(np.full(shape, 70, np.uint8)), side, 1) or b"", np.uint8)
            assert (found == 70).all()
            assert len(found) == side * side


def test_a_large_picture_is_shrunk_in_strips_as_it_would_be_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    own = np.kron(rng.integers(0, 256, (9, 7, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    at_once = pictures.pixels(png(own), 9, 3)
    assert at_once is not None
    monkeypatch.setattr(pictures, "STRIP", 1)
    assert pictures.pixels(png(own), 9, 3) == at_once
    fitted = Image.fromarray(own).resize((7, 9), Image.Resampling.BOX)
    found = np.frombuffer(at_once, np.uint8).reshape(9, 9, 3)
    assert np.abs(found[:, 1:8].astype(int) - np.asarray(fitted)).max() <= 2


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
    assert pictures.fault(of_one_tile(40_000)) == "has more than 50,000,000 pixels"
    assert pictures.fault(of_one_tile(16)) is None
    assert pictures.fault(b"x" * 20_000_001) == "has more than 20 MB"
    for mode in ("I", "F"):
        assert pictures.fault(of_one_colour(mode, 7, "TIFF")) == "has 32 bits a channel"


def test_a_file_that_is_too_large_goes_to_no_worker(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 200)  # here; workers have the module's own
    large = png(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    rows = [("small", of_one_colour("L", 70)), ("large", large), ("none", None), ("bad", b"no picture")]
    frame = spark.createDataFrame(rows, "key string, picture binary")
    found = frame.select("key", pictures.faults(F.col("picture"))).collect()
    assert dict(map(tuple, found)) == {
        "small": None, "large": "has more than 20 MB", "none": None, "bad": "cannot be read"
    }  # fmt: skip


def of_one_tile(side: int) -> bytes:
    """A TIFF file of 8 x 8 pixels in one tile; of a large one the pixels are left out."""
    data = bytes(side * side if side < 100 else 100)
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side, 324: 0, 325: len(data)}
    begin = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, begin if tag == 324 else value) for tag, value in tags.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


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


def test_the_most_frequent_is_found_among_any_number_of_votes() -> None:
    votes = np.random.default_rng(0).integers(1, 6, (200, 7))
    best, share = nearest_vectors.most_frequent(votes)
    counts = [np.bincount(row) for row in votes]
    assert best.tolist() == [count.argmax() for count in counts]
    assert share.tolist() == [count.max() / 7 for count in counts]
    assert nearest_vectors.most_frequent(np.array([[4], [2]]))[0].tolist() == [4, 2]


def test_the_regression_of_pixels_finds_what_pixels_say(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, 200)
    held = [rng.integers(150 * one, 100 + 150 * one, (60, 60, 1)).astype(np.uint8).tobytes() for one in bright]
    rows = [(f"row {n}", picture, int(one) + 1) for n, (picture, one) in enumerate(zip(held, bright, strict=True))]
    frame = spark.createDataFrame(rows, "key string, picture binary, label bigint")
    drawn = {row["key"] for row in pixels.drawn(frame, 50).collect()}
    assert drawn == {row["key"] for row in frame.orderBy(F.xxhash64("key")).limit(50).collect()}
    model = pixels.fit(frame, (60, 60, 1))  # of squares of three pixels
    assert model.numFeatures == 400
    found = pixels.answer(frame, model, (60, 60, 1)).join(frame, on="key").collect()
    assert all(row["class"] == row["label"] and row["p"] > 0.9 for row in found)
