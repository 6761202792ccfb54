"""Item-item neighbours on counts small enough to work out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.baselines import item_item as module
from spark_udfs.baselines import neighbours as module_of_neighbours
from spark_udfs.baselines.item_item import Neighbours, item_item, sums_of_neighbours
from spark_udfs.baselines.neighbours import NEIGHBOURS, nearest, save_neighbours
from spark_udfs.item_files import ItemFile
from spark_udfs.top_k import Lists


@pytest.fixture(scope="module")
def counts(spark: SparkSession) -> DataFrame:
    """Users 1 and 2 buy 10 and 11, user 3 buys 11 and 12, user 4 only 12."""
    pairs = [(1, 10), (1, 11), (2, 10), (2, 11), (3, 11), (3, 12), (4, 12)]
    return spark.createDataFrame([(user, item, 1) for user, item in pairs], "user bigint, item bigint, count bigint")


@pytest.fixture(scope="module")
def near(counts: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> ItemFile:
    return save_neighbours(counts, tmp_path_factory.mktemp("near"))


def ranks(df: DataFrame) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in df.orderBy("user", "rank").collect():
        found.setdefault(row["user"], []).append(row["item"])
    return found


def test_neighbours_are_cosines_of_the_users_sets_nearest_first(near: ItemFile) -> None:
    ids, items, similarities = (near.open(name) for name in ("item", "neighbours", "similarities"))
    assert ids.tolist() == [10, 11, 12]
    assert items.shape == similarities.shape == (3, NEIGHBOURS)
    assert items[:, :3].tolist() == [[11, 0, 0], [10, 12, 0], [11, 0, 0]]
    near_10, near_12 = 2 / math.sqrt(6), 1 / math.sqrt(6)
    assert similarities[:, :2].tolist() == [
        [pytest.approx(near_10), 0],
        [pytest.approx(near_10), pytest.approx(near_12)],
        [pytest.approx(near_12), 0],
    ]


def test_neighbours_are_those_of_all_pairs_however_the_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bought = rng.random((60, 30)) < 0.3
    bought[:, 7] = False
    sizes = bought.sum(axis=0)
    together = bought.T.astype(np.float64) @ bought
    np.fill_diagonal(together, 0)
    cosine = together / np.sqrt(np.outer(sizes, sizes) + (together == 0))
    wanted = {}
    for item in np.flatnonzero(together.any(axis=1)):
        order = [other for other in np.lexsort((np.arange(30), -cosine[item])) if cosine[item, other] > 0][:4]
        wanted[int(item) + 1] = [(int(other) + 1, pytest.approx(cosine[item, other])) for other in order]
    ids = np.flatnonzero(sizes) + 1
    rows = [
        (int(item) + 1, np.flatnonzero(bought[user]) + 1)
        for item in range(30)
        for user in range(60)
        if bought[user, item]
    ]
    for at_once, most in ((len(rows), 16), (7, 16), (7, 0)):
        monkeypatch.setattr(module_of_neighbours, "FEW", most)
        monkeypatch.setattr(module_of_neighbours, "AT_ONCE", at_once)  # parts are added up as they come
        cut = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        batches = [
            pa.record_batch(
                [pa.array([item for item, _ in part]), pa.array([items for _, items in part])], ["item", "items"]
            )
            for part in cut
        ]
        found = nearest(batches, ids, sizes[ids - 1], 4)
        assert {item: list(zip(others, near, strict=True)) for item, others, near in found} == wanted


def test_a_user_of_many_items_counts_with_so_many_of_them(
    spark: SparkSession, counts: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_neighbours, "MAX_ITEMS_PER_USER", 2)
    many = spark.range(20, 60).selectExpr("9L AS user", "id AS item", "1L AS count")
    near = save_neighbours(counts.unionByName(many), tmp_path, top=1)
    assert len([item for item in near.open("item") if item >= 20]) == 2


def test_a_shop_without_pairs_has_no_neighbours(spark: SparkSession, counts: DataFrame, tmp_path: Path) -> None:
    near = save_neighbours(counts.where("user = 4"), tmp_path)
    asked = spark.createDataFrame([(1, [12])], "user bigint, seen array<bigint>")
    assert ranks(item_item(asked, near, k=3, exclude_seen=True)) == {}


def test_item_item_adds_up_similarities(spark: SparkSession, near: ItemFile) -> None:
    rows = [(1, [10, 12]), (2, [11]), (3, []), (4, [-5, 0, 11, 1_000])]
    asked = spark.createDataFrame(rows, "user bigint, seen array<bigint>")
    answer = item_item(asked, near, k=3, exclude_seen=True)
    assert ranks(answer) == {1: [11], 2: [10, 12], 4: [10, 12]}
    assert answer.where("user = 1").collect()[0]["score"] == pytest.approx(3 / math.sqrt(6))
    assert ranks(item_item(asked, near, k=1, exclude_seen=False)) == {1: [11], 2: [10], 4: [10]}


def test_seen_items_are_left_out_only_where_asked() -> None:
    items = np.array([[2, 3], [1, 3], [2, 1]], np.int32)
    similarities = np.array([[0.9, 0.2], [0.9, 0.5], [0.5, 0.2]], np.float32)
    near, seen = Neighbours(np.array([1, 2, 3]), items, similarities), Lists(np.array([1, 2]), np.array([0, 2]))
    found, scores = sums_of_neighbours(seen, near, 3, exclude_seen=False)
    assert found.tolist() == [[1, 2, 3]]
    assert scores[0].tolist() == pytest.approx([0.9, 0.9, 0.7])
    assert sums_of_neighbours(seen, near, 2, exclude_seen=True)[0].tolist() == [[3, -1]]


def test_blocks_within_a_small_memory_bound_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 40, (40, 6)).astype(np.int32)
    near = Neighbours(np.arange(1, 41), items, rng.random((40, 6), np.float32))
    lengths = rng.integers(0, 9, 30)
    seen = Lists(rng.integers(1, 40, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    whole = sums_of_neighbours(seen, near, 5, exclude_seen=True)
    monkeypatch.setattr(module, "CELLS", 30)
    blocks = sums_of_neighbours(seen, near, 5, exclude_seen=True)
    assert blocks[0].tolist() == whole[0].tolist()
    assert blocks[1].tobytes() == whole[1].tobytes()
