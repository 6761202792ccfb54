"""Pictures in files of their own, and in idx files: each a row, and what does not fit together is named."""

from __future__ import annotations

import gzip
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import picture_sources, sources
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


def test_a_folder_of_pictures_is_rows_with_their_folders_names(spark: SparkSession, tmp_path: Path) -> None:
    for folder in ("hats", "coats"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png(RNG.integers(0, 256, (4, 4, 3), np.uint8)))
        (tmp_path / folder / "2.JPG").write_bytes(b"no picture")
        (tmp_path / folder / "notes.txt").write_text("x")
    rows = read(spark, tmp_path, "images").rows.collect()
    assert sorted((row["folder"], row["file"]) for row in rows) == [
        ("coats", "1.png"), ("coats", "2.JPG"), ("hats", "1.png"), ("hats", "2.JPG")
    ]  # fmt: skip
    assert all(bytes(row["content"]) == (tmp_path / row["folder"] / row["file"]).read_bytes() for row in rows)
    if pictures.missing() is None:
        faults = {row["file"]: pictures.fault(bytes(row["content"])) for row in rows}
        assert faults == {"1.png": None, "2.JPG": "cannot be read"}


def test_both_formats_are_settings() -> None:
    assert {*picture_sources.FORMATS} == {"images", "idx"}
    assert all(SourceSettings(format=name).format == name for name in picture_sources.FORMATS)  # type: ignore[arg-type]
