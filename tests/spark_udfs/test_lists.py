"""Ranking rows of a DataFrame, and the matrix that a host's workers share."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import shared_matrix as sharing
from spark_udfs.answers import Order
from spark_udfs.item_files import ItemFile
from spark_udfs.lists import by_inner_product, by_order, longest
from spark_udfs.shared_matrix import shared_matrix
from tests.spark_udfs.bundles import items_in
from training.errors import DataError, SchemaError

SEEN = "user bigint, seen array<bigint>"
ORDER = Order(np.array([3, 5, 2]), 3)
ONE = Order(np.array([1]), 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharing.tempfile, "gettempdir", lambda: str(tmp_path))
    sharing._mapped.clear()
    return tmp_path / f"millrace-matrices-{os.getuid()}"


def rows(df: DataFrame) -> list[tuple[int, int, int]]:
    return sorted((row["user"], row["rank"], row["item"]) for row in df.collect())


def test_by_order_passes_over_what_was_seen(spark: SparkSession) -> None:
    queries = spark.createDataFrame([(1, [3]), (2, []), (3, None)], SEEN)
    answer = by_order(queries, ORDER, k=2, exclude_seen=True)
    assert rows(answer) == [(1, 1, 5), (1, 2, 2), (2, 1, 3), (2, 2, 5), (3, 1, 3), (3, 2, 5)]
    assert rows(by_order(queries, ORDER, k=1, exclude_seen=False)) == [(1, 1, 3), (2, 1, 3), (3, 1, 3)]
    first = answer.where("user = 1 AND rank = 1").collect()[0]
    assert (first["score"], first["fallback"]) == (2.0, False)


def test_an_order_needs_no_more_than_k_and_the_longest_list(spark: SparkSession) -> None:
    queries = spark.createDataFrame([(1, [3, 9]), (2, []), (3, None)], SEEN)
    assert longest(queries) == 2
    assert longest(queries.where("user > 1")) == longest(queries.where("user > 3")) == 0
    rng = np.random.default_rng(0)
    whole = rng.permutation(np.arange(1, 40))
    cut = by_order(queries, Order(whole[:5], 39), k=3, exclude_seen=True).orderBy("user", "rank").collect()
    assert cut == by_order(queries, Order(whole, 39), k=3, exclude_seen=True).orderBy("user", "rank").collect()


def test_by_inner_product_masks_and_answers_with_the_items_alone(spark: SparkSession, tmp_path: Path) -> None:
    items = items_in(tmp_path, [1, 2, 3, 90], vector=np.array([[1, 0], [2, 0], [3, 0], [0, 1]], np.float32))
    queries = spark.createDataFrame(
        [(1, [1.0, 0.0], [3]), (2, [0.0, 1.0], [])], "user bigint, vector array<float>, seen array<bigint>"
    )
    assert rows(by_inner_product(queries, items, k=2, exclude_seen=True)) == [
        (1, 1, 2),
        (1, 2, 1),
        (2, 1, 90),
        (2, 2, 1),
    ]
    assert rows(by_inner_product(queries, items, k=1, exclude_seen=False)) == [(1, 1, 3), (2, 1, 90)]


def test_wrong_columns_are_all_named(spark: SparkSession) -> None:
    queries = spark.createDataFrame([(1,)], "user int")
    with pytest.raises(
        SchemaError, match=r"'user' must be bigint, it is int; column 'seen' must be array<bigint>, it is miss"
    ):
        by_order(queries, ONE, k=1, exclude_seen=True)


def test_a_null_user_a_short_vector_and_a_missing_matrix_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(PythonException, match="'user' must not be null; it is in 1 rows"):
        by_order(spark.createDataFrame([(None, [])], SEEN), ONE, k=1, exclude_seen=True).collect()
    queries = spark.createDataFrame([(1, [1.0], [])], "user bigint, vector array<float>, seen array<bigint>")
    items = items_in(tmp_path, [1, 2, 3], vector=np.ones((3, 2), np.float32))
    with pytest.raises(PythonException, match="must have the items' 2 dimensions; one has 1"):
        by_inner_product(queries, items, k=1, exclude_seen=True).collect()
    gone = ItemFile(str(tmp_path / "gone"), items.rows, items.columns)
    with pytest.raises(PythonException, match=r"Spark shipped no file 'gone'"):
        by_inner_product(queries, gone, k=1, exclude_seen=True).collect()


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


@pytest.mark.parametrize("left", [300, 40, 0])
def test_a_torn_shared_matrix_is_built_again(folder: Path, left: int) -> None:
    shared_matrix("torn", lambda: np.ones((50, 4), np.float32))
    sharing._mapped.clear()
    file = folder / "torn.npy"
    file.write_bytes(file.read_bytes()[:left])
    assert shared_matrix("torn", lambda: np.full((2, 2), 7, np.float32)).tolist() == [[7, 7], [7, 7]]


def test_old_shared_matrices_are_removed_but_those_that_are_mapped(folder: Path) -> None:
    held = shared_matrix("held", lambda: np.ones((1, 1), np.float32))
    for number in range(sharing.KEPT + 3):
        shared_matrix(f"m{number}", lambda: np.zeros((1, 1), np.float32))
    kept = {f"m{number}.npy" for number in range(3, sharing.KEPT + 3)}
    assert {file.name for file in folder.glob("*.npy")} == kept | {"held.npy"}
    assert held.tolist() == [[1]]
    del held
    shared_matrix("last", lambda: np.zeros((1, 1), np.float32))
    assert not (folder / "held.npy").exists()


def test_another_matrix_does_not_wait_for_one_that_is_being_built(folder: Path) -> None:
    others, is_building = list[bool](), threading.Event()

    def build() -> np.ndarray:
        is_building.set()
        other.join(10)
        others.append(other.is_alive())
        return np.ones((1, 1), np.float32)

    def ask_other() -> None:
        is_building.wait(60)
        shared_matrix("other", lambda: np.zeros((1, 1), np.float32))

    other = threading.Thread(target=ask_other)
    other.start()
    assert shared_matrix("slow", build).tolist() == [[1]]
    assert others == [False]


def test_who_asks_for_a_matrix_that_is_being_built_waits_for_it(folder: Path) -> None:
    found, built = list[float](), list[int]()

    def build() -> np.ndarray:
        built.append(1)
        time.sleep(0.1)
        return np.ones((1, 1), np.float32)

    asking = [threading.Thread(target=lambda: found.append(shared_matrix("one", build).item())) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    assert (built, found) == ([1], [1, 1, 1])


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    owner = os.getuid()
    monkeypatch.setattr(sharing.os, "getuid", lambda: owner + 1)
    folder.rename(folder.parent / f"millrace-matrices-{owner + 1}")
    with pytest.raises(DataError, match=f"must belong to user {owner + 1}, not {owner}"):
        shared_matrix("x", lambda: np.zeros((1, 1), np.float32))
