"""What executors write of items: once, whole, and the same wherever the rows were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import item_files
from spark_udfs.item_files import ItemFile, on_this_host, save_items
from training.errors import TableError

COLUMNS = "item bigint, near array<int>, share float"
ROWS = [(item, [item, -item], item / 2) for item in (9, 2, 30, 4, 11)]


@pytest.fixture
def items(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, COLUMNS)


def held(file: ItemFile) -> list[tuple[int, list[int], float]]:
    columns = [file.open(name) for name in ("item", "near", "share")]
    assert [str(column.dtype) for column in columns] == ["int64", "int32", "float32"]
    return [(int(item), near.tolist(), float(share)) for item, near, share in zip(*columns, strict=True)]


def test_rows_lie_in_the_order_of_their_items(items: DataFrame, tmp_path: Path) -> None:
    file = save_items(items.repartition(4), tmp_path / "made", "some")
    assert held(file) == sorted(ROWS)
    assert save_items(items, tmp_path / "made", "some") == file
    assert [path.name for path in (tmp_path / "made").iterdir()] == [file.name]


def test_no_rows_are_an_empty_file(items: DataFrame, tmp_path: Path) -> None:
    assert held(save_items(items.where("item < 0"), tmp_path, "some")) == []


def test_other_rows_get_another_name_and_old_ones_go(items: DataFrame, tmp_path: Path) -> None:
    files = [save_items(items.where(f"item > {least}"), tmp_path, "some") for least in (3, 5, 3, 10)]
    assert len({file.name for file in files}) == 3
    assert {path.name for path in tmp_path.iterdir()} == {files[2].name, files[3].name}
    assert item_files.KEPT == 2
    assert held(files[0]) == sorted(ROWS)[1:]


def test_what_a_killed_task_left_goes_when_nobody_writes_there(items: DataFrame, tmp_path: Path) -> None:
    old, young, slow = (tmp_path / f".some-{name}" for name in ("old", "young", "slow"))
    for scratch in (old, young, slow):
        scratch.mkdir()
        (scratch / "item").touch()
    for path in (old / "item", old, slow):
        os.utime(path, (0, 0))
    file = save_items(items, tmp_path, "some")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, young.name, slow.name}


def test_a_file_that_is_cut_short_is_refused(items: DataFrame, tmp_path: Path) -> None:
    file = save_items(items, tmp_path, "some")
    (Path(file.path) / "share").write_bytes(b"1234")
    with pytest.raises(TableError, match=r"share' must have 20 bytes, and has 4: it is torn"):
        file.open("share")


def test_lists_of_several_lengths_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    odd = spark.createDataFrame([(1, [1], 0.0), (2, [1, 2], 0.0)], COLUMNS)
    with pytest.raises(PythonException, match="must have one length; one has 2, one 1"):
        save_items(odd, tmp_path, "some")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_executors_do_not_have_is_refused(
    items: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor makes none: it would write where nobody looks."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(PythonException, match=r"nowhere' must be the same folder for the driver and all executors"):
        save_items(items, tmp_path / "nowhere", "some")


def test_what_was_shipped_is_found_where_spark_put_it(spark: SparkSession, items: DataFrame, tmp_path: Path) -> None:
    file = save_items(items, tmp_path, "shipped")
    spark.sparkContext.addArchive(f"{shutil.make_archive(file.path, 'zip', file.path)}#{file.name}")
    elsewhere = ItemFile(f"/another/host/{file.name}", file.rows, file.columns)

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.record_batch([pa.array([len(elsewhere.open("item"))])], ["items"])

    assert spark.range(0, 1, 1, 1).mapInArrow(count, "items bigint").collect() == [(len(ROWS),)]
    with pytest.raises(TableError, match="Spark shipped no file 'gone'"):
        on_this_host(str(tmp_path / "gone"))
