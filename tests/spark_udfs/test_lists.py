"""Ranking rows of a DataFrame, and the matrix that a host's workers share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import shared_matrix as sharing
from spark_udfs.lists import MatrixFile, by_inner_product, by_order, save_matrix
from spark_udfs.shared_matrix import digest_of, shared_matrix
from training.errors import DataError, SchemaError

SEEN = "user bigint, seen array<bigint>"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharing.tempfile, "gettempdir", lambda: str(tmp_path))
    sharing._mapped.clear()
    return tmp_path / f"millrace-matrices-{os.getuid()}"


def rows(df: DataFrame) -> list[tuple[int, int, int]]:
    return sorted((row["user"], row["rank"], row["item"]) for row in df.collect())


def test_by_order_passes_over_what_was_seen(spark: SparkSession) -> None:
    queries = spark.createDataFrame([(1, [3]), (2, []), (3, None)], SEEN)
    answer = by_order(queries, np.array([3, 5, 2]), k=2, exclude_seen=True)
    assert rows(answer) == [(1, 1, 5), (1, 2, 2), (2, 1, 3), (2, 2, 5), (3, 1, 3), (3, 2, 5)]
    assert rows(by_order(queries, np.array([3, 5, 2]), k=1, exclude_seen=False)) == [(1, 1, 3), (2, 1, 3), (3, 1, 3)]
    first = answer.where("user = 1 AND rank = 1").collect()[0]
    assert (first["score"], first["fallback"]) == (2.0, False)


def test_by_inner_product_masks_and_restricts(spark: SparkSession, tmp_path: Path) -> None:
    matrix = np.array([[9, 9], [1, 0], [2, 0], [3, 0], [0, 1]], np.float32)  # row 0 would win everywhere
    items = save_matrix(tmp_path / "items.npy", matrix)
    queries = spark.createDataFrame(
        [(1, [1.0, 0.0], [3]), (2, [0.0, 1.0], [])], "user bigint, vector array<float>, seen array<bigint>"
    )
    assert rows(by_inner_product(queries, items, k=2, exclude_seen=True)) == [
        (1, 1, 2),
        (1, 2, 1),
        (2, 1, 4),
        (2, 2, 1),
    ]
    limited = by_inner_product(queries, items, k=2, exclude_seen=False, allowed=np.array([0, 1, 3, 99]))
    assert rows(limited) == [(1, 1, 3), (1, 2, 1), (2, 1, 1), (2, 2, 3)]


def test_wrong_columns_are_all_named(spark: SparkSession) -> None:
    queries = spark.createDataFrame([(1,)], "user int")
    with pytest.raises(
        SchemaError, match=r"'user' must be bigint, it is int; column 'seen' must be array<bigint>, it is miss"
    ):
        by_order(queries, np.array([1]), k=1, exclude_seen=True)


def test_a_null_user_a_short_vector_and_a_missing_matrix_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(PythonException, match="'user' must not be null; it is in 1 rows"):
        by_order(spark.createDataFrame([(None, [])], SEEN), np.array([1]), k=1, exclude_seen=True).collect()
    queries = spark.createDataFrame([(1, [1.0], [])], "user bigint, vector array<float>, seen array<bigint>")
    items = save_matrix(tmp_path / "items.npy", np.ones((3, 2), np.float32))
    with pytest.raises(PythonException, match="must have the items' 2 dimensions; one has 1"):
        by_inner_product(queries, items, k=1, exclude_seen=True).collect()
    with pytest.raises(PythonException, match=r"Spark shipped no file 'gone\.npy'"):
        by_inner_product(queries, MatrixFile(str(tmp_path / "gone.npy"), "x"), k=1, exclude_seen=True).collect()


def test_a_shipped_matrix_is_found_where_spark_put_it(spark: SparkSession, tmp_path: Path) -> None:
    items = save_matrix(tmp_path / "shipped_items.npy", np.eye(3, dtype=np.float32))
    spark.sparkContext.addFile(items.path)
    queries = spark.createDataFrame([(1, [0.0, 0.0, 1.0], [])], "user bigint, vector array<float>, seen array<bigint>")
    elsewhere = MatrixFile("/another/host/shipped_items.npy", items.digest)
    assert rows(by_inner_product(queries, elsewhere, k=1, exclude_seen=True)) == [(1, 1, 2)]


def test_a_shared_matrix_is_built_once_and_mapped(folder: Path) -> None:
    built: list[int] = []

    def build() -> np.ndarray:
        built.append(1)
        return np.arange(6, dtype=np.float64).reshape(3, 2)

    first = shared_matrix("a/b c", build)
    sharing._mapped.clear()  # as another worker of this host
    second = shared_matrix("a/b c", build)
    assert built == [1]
    assert second.dtype == np.float32
    assert first.tolist() == second.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert [file.name for file in folder.glob("*.npy")] == ["a_b_c.npy"]


def test_a_torn_shared_matrix_is_built_again(folder: Path) -> None:
    shared_matrix("torn", lambda: np.ones((50, 4), np.float32))
    sharing._mapped.clear()
    file = folder / "torn.npy"
    file.write_bytes(file.read_bytes()[:300])
    assert shared_matrix("torn", lambda: np.full((2, 2), 7, np.float32)).tolist() == [[7, 7], [7, 7]]


def test_old_shared_matrices_are_removed(folder: Path) -> None:
    for number in range(sharing.KEPT + 3):
        shared_matrix(f"m{number}", lambda: np.zeros((1, 1), np.float32))
    assert len(list(folder.glob("*.npy"))) == sharing.KEPT


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    owner = os.getuid()
    monkeypatch.setattr(sharing.os, "getuid", lambda: owner + 1)
    folder.rename(folder.parent / f"millrace-matrices-{owner + 1}")
    with pytest.raises(DataError, match=f"must belong to user {owner + 1}, not {owner}"):
        shared_matrix("x", lambda: np.zeros((1, 1), np.float32))


def test_digests_tell_parts_apart() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc")
    assert digest_of(b"ab") == digest_of("ab")
