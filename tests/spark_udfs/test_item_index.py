"""Search by an index: against brute force over the lists that are looked at, with masks, ties and too few items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spark_udfs.item_index import ItemIndex, build_index, open_index
from spark_udfs.top_k import Floats, rows_of, top_k
from tests.spark_udfs.test_top_k import brute_force, lists

M, D, K = 600, 12, 9


def clustered(rng: np.random.Generator, rows: int) -> Floats:
    centres = 3 * rng.normal(size=(30, D))
    vectors = (centres[rng.integers(0, 30, rows)] + rng.normal(size=(rows, D))).astype(np.float32)
    vectors[rows // 2 :] = vectors[rng.integers(0, rows // 2, rows - rows // 2)]  # ties at every cut
    return vectors


def index_of(items: Floats, folder: Path, count: int | None, probes: int) -> ItemIndex:
    build_index(items, count, folder / "lists")
    return open_index(folder / "lists", items, probes)


@pytest.mark.parametrize("seed", range(4))
def test_where_all_lists_are_searched_nothing_differs(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    items, queries = clustered(rng, M), rng.normal(size=(40, D)).astype(np.float32)
    index = index_of(items, tmp_path, (None, 1, 50, M)[seed], M)
    seen = lists(*(rng.integers(-2, 3 * M, rng.integers(0, 2 * M)).tolist() for _ in range(40)))
    ids = np.sort(rng.choice(3 * M, M, replace=False))
    found, scores = top_k(queries, items, K, seen=seen, ids=ids, index=index)
    exact, of_exact = top_k(queries, items, K, seen=seen, ids=ids)
    assert found.tolist() == exact.tolist()
    assert scores.tobytes() == of_exact.tobytes()
    assert not index.is_short(queries, K, rows_of(seen, ids, M)).any()


def test_the_best_of_the_lists_that_are_searched_or_of_all_where_those_are_too_short(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    items, queries = clustered(rng, M), rng.normal(size=(60, D)).astype(np.float32)
    index = index_of(items, tmp_path, 50, 3)
    looked_at = [index.looked_at(query) for query in queries]
    # Every third one has seen what is looked at but for 4 items or less, and some of what is not.
    drawn = [rng.choice(some, len(some) - rng.integers(0, 5), replace=False) for some in looked_at]
    held = [[] if row % 3 else [*one.tolist(), *rng.integers(0, M, 9).tolist()] for row, one in enumerate(drawn)]
    short = [len(set(some.tolist()) - set(has)) < K for some, has in zip(looked_at, held, strict=True)]
    found, _ = top_k(queries, items, K, seen=lists(*held), index=index)
    for row, query in enumerate(queries):
        among = np.arange(M) if short[row] else looked_at[row]
        best = brute_force(query[None], items[among], K, lists(held[row]), among)
        assert found[row].tolist() == best[0].tolist()
    assert index.is_short(queries, K, rows_of(lists(*held), None, M)).tolist() == short
    assert 20 <= sum(short) < 60
    assert index.least <= min(map(len, looked_at))


def test_the_same_items_give_the_same_index_in_one_batch_or_in_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    items, queries = clustered(rng, M), rng.normal(size=(50, D)).astype(np.float32)
    index = index_of(items, tmp_path, 40, 2)
    (tmp_path / "again").mkdir()
    index_of(items, tmp_path / "again", 40, 2)
    assert (tmp_path / "again" / "lists").read_bytes() == (tmp_path / "lists").read_bytes()
    found, scores = top_k(queries, items, K, index=index)
    for row in range(0, 50, 7):
        alone = top_k(queries[row : row + 1], items, K, index=index)
        assert (alone[0].tolist(), alone[1].tobytes()) == (found[row : row + 1].tolist(), scores[row].tobytes())
