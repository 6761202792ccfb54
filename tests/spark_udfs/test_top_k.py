"""Exact top-K: against brute force, with masks, ties and too few items."""

from __future__ import annotations

import numpy as np
import pytest

from spark_udfs import top_k as module
from spark_udfs.top_k import Floats, Ints, Lists, first_unseen, no_lists, top_k
from training.errors import DataError


def lists(*rows: list[int]) -> Lists:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Lists(np.array([value for row in rows for value in row], np.int64), offsets.astype(np.int64))


def brute_force(queries: Floats, items: Floats, k: int, seen: Lists, ids: Ints) -> Ints:
    scores = np.einsum("ncd,nd->nc", np.broadcast_to(items, (len(queries), *items.shape)), queries)
    found = np.full((len(queries), k), -1, np.int64)
    for row, row_scores in enumerate(scores):
        banned = set(seen.values[seen.offsets[row] : seen.offsets[row + 1]].tolist())
        best = [place for place in np.lexsort((ids, -row_scores)) if int(ids[place]) not in banned][:k]
        found[row, : len(best)] = ids[best]
    return found


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, items, width, k = (int(rng.integers(1, top)) for top in (40, 200, 20, 30))
    queries = rng.normal(size=(rows, width)).astype(np.float32)
    vectors = rng.normal(size=(items, width)).astype(np.float32)
    if seed % 3 == 0:  # many equal items: ties at every cut
        vectors = vectors[rng.integers(0, max(1, items // 4), items)]
    seen = lists(*(rng.integers(-2, 5 * items, rng.integers(0, items + 5)).tolist() for _ in range(rows)))
    ids = np.sort(rng.choice(5 * items, items, replace=False))
    found, scores = top_k(queries, vectors, k, seen=seen, ids=ids)
    np.testing.assert_array_equal(found, brute_force(queries, vectors, k, seen, ids))
    assert np.isneginf(scores[found < 0]).all()
    assert (np.diff(np.where(found < 0, np.float32(-1e9), scores), axis=1) <= 0).all()


def test_ties_go_to_the_smaller_id_even_past_the_searched_depth() -> None:
    items = np.zeros((500, 4), np.float32)
    items[7] = 1
    found, scores = top_k(np.ones((3, 4), np.float32), items, 5, seen=lists([], [7], [0, 2]))
    assert found.tolist() == [[7, 0, 1, 2, 3], [0, 1, 2, 3, 4], [7, 1, 3, 4, 5]]
    assert scores[0].tolist() == [4, 0, 0, 0, 0]


def test_a_users_answer_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(60, 33)).astype(np.float32), rng.normal(size=(700, 33)).astype(np.float32)
    seen = lists(*(rng.integers(0, 700, rng.integers(0, 60)).tolist() for _ in range(60)))
    found, scores = top_k(queries, items, 9, seen=seen)
    for row in range(0, 60, 7):
        alone = top_k(queries[row : row + 1], items, 9, seen=module.take(seen, np.array([row])))
        assert alone[0].tolist() == found[row : row + 1].tolist()
        assert alone[1].tobytes() == scores[row].tobytes()


def test_blocks_within_a_small_memory_bound_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(90, 8)).astype(np.float32)
    items[40:] = items[:50]
    seen = lists(*(rng.integers(0, 90, 3 * row % 80).tolist() for row in range(50)))
    whole = top_k(queries, items, 6, seen=seen)
    monkeypatch.setattr(module, "CELLS", 64)
    monkeypatch.setattr(module, "GATHERED", 80)
    blocks = top_k(queries, items, 6, seen=seen)
    assert blocks[0].tolist() == whole[0].tolist()
    assert blocks[1].tobytes() == whole[1].tobytes()


def test_fewer_items_than_k_are_padded() -> None:
    items = np.array([[1.0], [3.0], [2.0]], np.float32)
    found, scores = top_k(np.array([[1.0], [-1.0]], np.float32), items, 5, seen=lists([1], [0, 1, 2]))
    assert found.tolist() == [[2, 0, -1, -1, -1], [-1] * 5]
    assert scores[0, :2].tolist() == [2, 1]


def test_no_queries_and_no_items() -> None:
    assert top_k(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), 2)[0].shape == (0, 2)
    assert top_k(np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), 2)[0].tolist() == [[-1, -1], [-1, -1]]


def test_memory_mapped_items_are_read_in_place(tmp_path) -> None:
    np.save(tmp_path / "items.npy", np.eye(6, dtype=np.float32))
    items = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert top_k(np.eye(6, dtype=np.float32)[2:3], items, 1)[0].tolist() == [[2]]


@pytest.mark.parametrize(
    ("queries", "items", "k", "message"),
    [
        (np.ones((1, 2)), np.ones((3, 2)), 0, "k must be at least 1; got 0"),
        (np.ones((1, 2)), np.ones((3, 4)), 1, r"of one width; got \(1, 2\) and \(3, 4\)"),
        (np.array([[0, 1], [np.nan, 0]]), np.ones((3, 2)), 1, "query vectors must be finite; row 1"),
        (np.ones((1, 2)), np.array([[1, np.inf]]), 1, "item vectors must be finite; the largest norm is inf"),
    ],
)
def test_what_cannot_be_ranked_is_refused(queries: Floats, items: Floats, k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        top_k(queries.astype(np.float32), items.astype(np.float32), k)


def test_lists_and_ids_must_fit() -> None:
    one = np.ones((2, 1), np.float32)
    with pytest.raises(DataError, match="each of the 2 queries needs a list of seen items, not 3"):
        top_k(one, one, 1, seen=no_lists(3))
    with pytest.raises(DataError, match="each of the 2 item vectors needs an id; got 1"):
        top_k(one, one, 1, ids=np.array([4]))


def test_first_unseen_keeps_the_order() -> None:
    order = np.array([5, 3, 9, 1])
    found = first_unseen(order, 2, lists([], [5], [3, 9, 5, 77], [1, 3, 5, 9]))
    assert found.tolist() == [[5, 3], [3, 9], [1, -1], [-1, -1]]
    assert first_unseen(order[:0], 2, lists([], [5])).tolist() == [[-1, -1], [-1, -1]]
