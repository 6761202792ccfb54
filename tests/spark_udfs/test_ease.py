"""EASE against numpy's plain formula, through Spark and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pyspark.sql import SparkSession

from spark_udfs.baselines import ease as module
from spark_udfs.baselines.ease import add_pairs, by_ease, fit_ease, see_that_it_fits, sums_of_weights
from spark_udfs.item_files import ItemFile, save_items
from spark_udfs.top_k import Lists
from training.errors import SettingsError

Matrix = npt.NDArray[np.float64]


def bought(users: int = 60, items: int = 12) -> Matrix:
    """Of each user's row the items of 0 and 1; the last item is nobody's."""
    have = np.random.default_rng(0).random((users, items)) < np.linspace(0.6, 0.1, items)
    have[:, -1] = False
    return have.astype(np.float64)


def plain(have: Matrix, l2: float) -> Matrix:
    """The paper's formula."""
    inverted = np.linalg.inv(have.T @ have + l2 * np.eye(have.shape[1]))
    weights = inverted / -np.diag(inverted)
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("cells", [module.CELLS, 7])
def test_pairs_add_up_to_the_product(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", cells)
    have = bought()
    gram, (rows, items) = np.zeros((12, 12)), np.nonzero(have)
    add_pairs(gram, Lists(items, np.searchsorted(rows, np.arange(len(have) + 1))))
    assert gram.tolist() == (have.T @ have).tolist()


@pytest.mark.parametrize("cells", [module.CELLS, 30])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_largest_sums_come_first(cells: int, exclude_seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", cells)
    have = bought()
    weights, ids = plain(have, 5.0), np.arange(12) * 10 + 3
    rows, items = np.nonzero(have)
    seen = Lists(ids[items], np.searchsorted(rows, np.arange(len(have) + 1)))
    found, best = sums_of_weights(seen, ids, weights.astype(np.float32), 12, exclude_seen=exclude_seen)
    scores = have @ weights
    scores[(have > 0) & exclude_seen] = -np.inf
    for row, mine in enumerate(scores):
        order = np.lexsort((ids, -mine.astype(np.float32)))[: np.isfinite(mine).sum()]
        assert sorted(found[row][: len(order)]) == sorted(ids[order])
        np.testing.assert_allclose(best[row][: len(order)], mine[order], rtol=1e-4, atol=1e-5)
        assert (found[row][len(order) :] == -1).all()


def test_ties_go_to_the_smaller_item_and_who_has_nothing_gets_nothing() -> None:
    weights = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]], np.float32)
    seen = Lists(np.array([4, 99, 6, 5, 4]), np.array([0, 2, 2, 5]))
    found, best = sums_of_weights(seen, np.array([4, 5, 6]), weights, 1, exclude_seen=True)
    assert found.tolist() == [[5], [-1], [-1]]
    assert best[0, 0] == 1


@pytest.fixture(scope="module")
def allowed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> ItemFile:
    return save_items(spark.range(3, 15).selectExpr("id AS item"), tmp_path_factory.mktemp("items"), "allowed")


def test_executors_make_the_weights_and_rank_with_them(spark: SparkSession, allowed: ItemFile, tmp_path: Path) -> None:
    have, l2 = bought(), 5.0
    pairs = [(int(user) + 1, int(item) + 3, 1) for user, item in zip(*np.nonzero(have), strict=True)]
    counts = spark.createDataFrame([*pairs, (1, 99, 1)], "user bigint, item bigint, count bigint")
    fitted = fit_ease(counts, allowed, tmp_path, l2=l2)
    assert fitted.open("item").tolist() == list(range(3, 15))
    np.testing.assert_allclose(fitted.open("weights"), plain(have, l2), rtol=1e-5, atol=1e-6)
    asked = spark.createDataFrame([(1, [3, 4]), (2, [])], "user bigint, seen array<bigint>")
    answer = by_ease(asked, fitted, k=2, exclude_seen=True).orderBy("user", "rank").collect()
    scores = plain(have, l2)[[0, 1]].sum(0)
    scores[:2] = -np.inf
    assert [(row["user"], row["item"]) for row in answer] == [(1, int(item) + 3) for item in np.argsort(-scores)[:2]]


def test_a_catalogue_whose_square_does_not_fit_is_refused() -> None:
    see_that_it_fits(10_000, 10_000)
    message = r"ease_items = 10,000 \(3\.3 GB\) .* 20,000 items; .* 13\.2 GB .*leave ease out"
    with pytest.raises(SettingsError, match=message):
        see_that_it_fits(20_000, 10_000)
