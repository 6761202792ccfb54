"""Pictures in files of their own, and in idx files: each a row, and what does not fit together is named."""

from __future__ import annotations

import gzip
import os
import re
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import file_endings, picture_sources, sources
from jobs.sessions import session_settings
from jobs.settings_sources import SourceSettings
from jobs.source import Raw
from spark_udfs import pictures
from spark_udfs.png import png
from training.errors import DataError

RNG = np.random.default_rng(0)
SPLIT = datetime(2002, 9, 27, tzinfo=UTC)


def idx_of(values: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def read(spark: SparkSession, path: Path, kind: Any) -> Raw:
    source = sources.find("sources.pictures", SourceSettings(path=str(path), format=kind), spark)
    return sources.read(spark, source, {}, typed=True)


def test_idx_files_become_pictures_on_the_sides_that_they_come_with(spark: SparkSession, tmp_path: Path) -> None:
    parts = {"train": RNG.integers(0, 256, (30, 5, 6), np.uint8), "t10k": RNG.integers(0, 256, (7, 5, 6), np.uint8)}
    for part, pixels in parts.items():
        packed = gzip.compress if part == "train" else bytes
        ending = ".gz" if part == "train" else ""
        (tmp_path / f"{part}-images-idx3-ubyte{ending}").write_bytes(packed(idx_of(pixels)))
        labels = np.arange(len(pixels), dtype=np.uint8) % 10
        (tmp_path / f"{part}-labels-idx1-ubyte{ending}").write_bytes(packed(idx_of(labels)))
    (tmp_path / "LICENSE").write_text("MIT")
    rows = read(spark, tmp_path, "idx").rows.collect()
    assert sorted(row["item_id"] for row in rows) == sorted(f"{p}-{n:06d}" for p in parts for n in range(len(parts[p])))
    for row in rows:
        number = int(row["item_id"][-6:])
        assert row["label"] == str(number % 10)
        assert bytes(row["picture"]) == png(parts[row["part"]][number][..., None])
        assert (row["time"].astimezone(UTC) >= SPLIT) == (row["part"] == "t10k")
    assert {row["time"] for row in read(spark, tmp_path, "idx").rows.collect()} == {row["time"] for row in rows}


def test_idx_files_that_do_not_fit_are_named(spark: SparkSession, tmp_path: Path) -> None:
    images, labels = idx_of(RNG.integers(0, 256, (3, 2, 2), np.uint8)), idx_of(np.arange(3, dtype=np.uint8))
    for given, words in (
        ({"images-idx3": images}, "there is no file labels-idx1-ubyte"),
        ({"images-idx3": images, "labels-idx1": idx_of(np.arange(2, dtype=np.uint8))}, "there are 2 for 3"),
        ({"images-idx3": images[:-1], "labels-idx1": labels}, "images must have 12 bytes, .*; they have 11"),
        ({"images-idx3": b"x" * 40, "labels-idx1": labels}, "images must begin as idx files"),
        ({"images-idx3": gzip.compress(images)[:-9], "labels-idx1": labels}, "images are cut short"),
    ):
        folder = tmp_path / str(abs(hash(words)))
        folder.mkdir()
        for name, held in given.items():
            (folder / f"train-{name}-ubyte").write_bytes(held)
        with pytest.raises(DataError, match=f"idx files of the part 'train' that cannot be read: .*{words}"):
            read(spark, folder, "idx")


def test_idx_files_are_told_by_their_names_alone_and_never_mixed(spark: SparkSession, tmp_path: Path) -> None:
    held = {"images-idx3": idx_of(np.zeros((3, 2, 2), np.uint8)), "labels-idx1": idx_of(np.arange(3, dtype=np.uint8))}
    folder = tmp_path / "x-images-idx3"
    folder.mkdir()
    for name, content in held.items():
        (folder / f"TRAIN-{name}-ubyte".upper()).write_bytes(content)
    rows = read(spark, folder, "idx").rows.collect()
    assert [(row["part"], row["label"]) for row in rows] == [("train", "0"), ("train", "1"), ("train", "2")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train-images-idx3-ubyte").write_bytes(held["images-idx3"])
    with pytest.raises(DataError, match="must have one file images-idx3-ubyte of the part 'train'; it has 2, such as"):
        read(spark, tmp_path, "idx")
    (folder / "TRAIN-IMAGES-IDX3-UBYTE").unlink()  # one of each, in two folders
    with pytest.raises(DataError, match="part 'train' that cannot be read: there is no file"):
        read(spark, tmp_path, "idx")


def test_idx_files_that_unpack_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    held = gzip.compress(idx_of(np.zeros((3, 10, 10), np.uint8)))
    assert picture_sources._bytes_of(held, 3, "images").shape == (3, 10, 10)
    monkeypatch.setattr(picture_sources, "MOST_BYTES", 300)
    with pytest.raises(DataError, match="images must have 300 bytes at most; they have more"):
        picture_sources._bytes_of(held, 3, "images")
    with pytest.raises(DataError, match="images must have 18,446,744,065,119,617,025 bytes"):  # no number wraps round
        picture_sources._bytes_of(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 1)[:16], 3, "images")


def test_a_folder_of_pictures_is_rows_with_their_folders_names(spark: SparkSession, tmp_path: Path) -> None:
    for folder in ("hats", "coats"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png(RNG.integers(0, 256, (4, 4, 3), np.uint8)))
        (tmp_path / folder / "2.JPG").write_bytes(b"no picture")
        (tmp_path / folder / "notes.txt").write_text("x")
    (tmp_path / "top.png").write_bytes(b"no picture")
    every = read(spark, tmp_path, "images").rows
    paths = {row["path"]: row["folder"] for row in every.collect()}
    assert paths == {f"{of}/{name}": of for of in ("hats", "coats") for name in ("1.png", "2.JPG")} | {"top.png": None}
    alone = read(spark, tmp_path / "hats" / "1.png", "images").rows.collect()
    assert [(row["path"], row["folder"]) for row in alone] == [("1.png", None)]
    of_pattern = read(spark, tmp_path / "*" / "1.png", "images").rows.collect()
    assert {(row["path"], row["folder"]) for row in of_pattern} == {("hats/1.png", "hats"), ("coats/1.png", "coats")}
    assert read(spark, Path(os.path.relpath(tmp_path)), "images").rows.where("path = 'top.png'").count() == 1
    rows = every.where("folder IS NOT NULL").collect()
    assert sorted((row["folder"], row["file"]) for row in rows) == [
        ("coats", "1.png"), ("coats", "2.JPG"), ("hats", "1.png"), ("hats", "2.JPG")
    ]  # fmt: skip
    assert all(bytes(row["content"]) == (tmp_path / row["folder"] / row["file"]).read_bytes() for row in rows)
    if pictures.missing() is None:
        faults = {row["file"]: pictures.fault(bytes(row["content"])) for row in rows}
        assert faults == {"1.png": None, "2.JPG": "cannot be read"}


def test_many_small_pictures_are_read_by_few_tasks(spark: SparkSession, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.png").write_bytes(b"x" * 500)
    with session_settings(spark, picture_sources.READING):
        rows = read(spark, tmp_path, "images").rows
        assert rows.select(F.spark_partition_id()).distinct().count() <= 2  # by Spark's own settings there are four


def test_compressed_files_are_listed_where_they_can_be_read() -> None:
    for of_format, name, is_read in (
        ("images", "1.png", True),
        ("images", "1.png.gz", False),
        ("idx", "t10k-labels-idx1-ubyte.gz", True),
        ("idx", "t10k-labels-idx1-ubyte.bz2", False),
        ("csv", "1.csv.bz2", True),
    ):
        assert (re.search(file_endings.pattern_of(of_format), name) is not None) == is_read
        assert (".bz2" in file_endings.glob_of(of_format)) == (of_format == "csv")


def test_both_formats_are_settings() -> None:
    assert {*picture_sources.FORMATS} == {"images", "idx"}
    assert all(SourceSettings(format=name).format == name for name in picture_sources.FORMATS)  # type: ignore[arg-type]
