"""Rows scored where they are read, against the same rows through a DataFrame."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from spark_udfs import direct
from spark_udfs.direct import Piece, pieces_of, predicted_from
from spark_udfs.scoring import parts_of, predicted
from tests.spark_udfs.asked_rows import ROWS, awkward_table, bundle_of
from training.errors import NoTableError, SchemaError, SnapshotError
from training.schema import Column, Kind


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("tables") / "asked")
    awkward_table(spark, path)
    return path


def test_it_gives_what_a_dataframe_gives(
    spark: SparkSession, bundle: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "BYTES", 12_000)  # files are cut
    for version, rows in ((None, ROWS * 9 // 10), (0, ROWS)):
        told = spark.read.format("delta").options(**({} if version is None else {"versionAsOf": version})).load(table)
        wanted = predicted(told, str(bundle), key="key", names=["p", "none"])
        found = predicted_from(spark, table, str(bundle), key="key", names=["p", "none"], version=version)
        assert found.rdd.getNumPartitions() > 4
        assert found.schema == wanted.schema
        answers = {row["key"]: (row["p"], row["none"]) for row in found.collect()}
        assert len(answers) == rows
        # A row's last bit depends on how many others stand beside it.
        asked = {row["key"]: (pytest.approx(row["p"], rel=1e-6), None) for row in wanted.collect()}
        assert answers == asked


def test_what_is_pinned_is_read_whatever_is_written_meanwhile(
    spark: SparkSession, bundle: Path, table: str, tmp_path: Path
) -> None:
    copy = str(tmp_path / "copy")
    spark.read.format("delta").load(table).write.format("delta").save(copy)
    found = predicted_from(spark, copy, str(bundle), key="key", names=["p"])
    rows = found.count()
    spark.sql(f"DELETE FROM delta.`{copy}`")
    assert found.count() == rows > 0
    shutil.rmtree(copy)
    spark.read.format("delta").load(table).limit(3).write.format("delta").save(copy)
    with pytest.raises(
        PythonException, match=r"was removed and made anew|is gone"
    ):  # the second where the log is known
        found.count()
    for file in Path(copy).glob("*.parquet"):
        file.unlink()
    with pytest.raises(PythonException, match=r"SnapshotError: file '.*' of version 0 of table '.*copy' is gone"):
        predicted_from(spark, copy, str(bundle), key="key", names=["p"]).count()


def test_tables_that_do_not_fit_are_refused(spark: SparkSession, bundle: Path, table: str, tmp_path: Path) -> None:
    wrong = str(tmp_path / "wrong")
    spark.sql("SELECT 1.5D AS key, 1 AS shop, array(1) AS tags, 2.0D AS x").write.format("delta").save(wrong)
    problems = (
        r"'key' must be bigint or string, it is double; 'shop' must be int64, it is int32; "
        r"'tags' must be list<int64>, it is list<.*int32>; 'x' must be float, it is double; write it with these"
    )
    with pytest.raises(SchemaError, match=problems):
        predicted_from(spark, wrong, str(bundle), key="key", names=["p"])
    with pytest.raises(SchemaError, match="'other' must be bigint or string, it is missing"):
        predicted_from(spark, table, str(bundle), key="other", names=["p"])
    with pytest.raises(NoTableError, match="nowhere"):
        predicted_from(spark, str(tmp_path / "nowhere"), str(bundle), key="key", names=["p"])
    with pytest.raises(SnapshotError, match="99"):
        predicted_from(spark, table, str(bundle), key="key", names=["p"], version=99)


def test_an_empty_table_gives_no_rows(spark: SparkSession, bundle: Path, table: str, tmp_path: Path) -> None:
    empty = str(tmp_path / "empty")
    spark.read.format("delta").load(table).limit(0).write.format("delta").save(empty)
    assert predicted_from(spark, empty, str(bundle), key="key", names=["p"]).collect() == []


def test_pieces_are_of_about_one_size_and_every_part_is_in_one() -> None:
    assert pieces_of([], 10) == []
    assert pieces_of([3, 4, 9, 25, 1], 10) == [
        [Piece(0, 0, 1), Piece(1, 0, 1)],
        [Piece(2, 0, 1)],
        [Piece(3, 0, 3)],
        [Piece(3, 1, 3)],
        [Piece(3, 2, 3), Piece(4, 0, 1)],
    ]
    sizes = np.random.default_rng(0).integers(0, 50, 200).tolist()
    dealt = [piece for task in pieces_of(sizes, 10) for piece in task]
    assert sorted(dealt) == [
        (file, part, max(1, -(-size // 10)))
        for file, size in enumerate(sizes)
        for part in range(max(1, -(-size // 10)))
    ]


@pytest.mark.parametrize(
    ("column", "at_once"),
    [
        (Column("x", Kind.DENSE), 16_384),
        (Column("x", Kind.DENSE, length=10_000), 52),
        (Column("x", Kind.DENSE, ragged=True), 2_048),
        (Column("x", Kind.IDS, vocabulary="x", size=9), 2_048),
    ],
)
def test_so_many_rows_go_through_a_model_as_their_numbers_allow(column: Column, at_once: int) -> None:
    rows = pa.record_batch([pa.array(range(40_000))], ["x"])
    parts = [part.num_rows for part in parts_of(rows, [column])]
    assert max(parts) == at_once
    assert sum(parts) == 40_000
