"""Item indices that travel in a plan: small there, and the same on arrival."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import cloudpickle

from spark_udfs import lists, scoring
from spark_udfs.baselines import classic, item_item
from spark_udfs.packed import pack
from spark_udfs.top_k import Ints

ITEMS = 100_000
SHUFFLED = np.random.default_rng(0).permutation(np.arange(1, ITEMS + 1))


@pytest.mark.parametrize("indices", [SHUFFLED, np.sort(SHUFFLED), [], [7], [0, -1, 2**62, 3]])
def test_indices_arrive_as_they_were(indices: list[int] | Ints) -> None:
    given = np.asarray(indices, np.int64)
    arrived = pack(given).unpack()
    assert (arrived.dtype, arrived.tolist()) == (np.int64, given.tolist())


class Queries:
    """Keeps the function that a ranking would send."""

    def select(self, *_: str) -> Queries:
        return self

    def mapInArrow(self, function: Callable[..., Any], _: str) -> bytes:  # noqa: N802
        return bytes(cloudpickle.dumps(function))


@pytest.mark.parametrize("name", ["ours", "popularity", "item_item", "als"])
def test_a_ranking_sends_few_bytes_an_item(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in (lists, item_item):
        monkeypatch.setattr(module, "require_columns", lambda *_: None)
    monkeypatch.setattr(scoring, "bundle_schema", lambda _: dict.fromkeys(("history", "history_age", "user")))
    monkeypatch.setattr(scoring, "check_queries", lambda *_: None)
    monkeypatch.setattr(classic, "popularity_order", lambda *_: SHUFFLED)
    queries: Any = Queries()
    file = lists.MatrixFile(str(Path("nowhere")), "")
    how: Any = {"k": 5, "exclude_seen": True}
    sent: Any = {
        "ours": lambda: scoring.recommend(queries, "bundle", allowed=SHUFFLED, fallback=SHUFFLED, **how),
        "popularity": lambda: classic.popularity(queries, catalogue=queries, by="customers", **how),
        "item_item": lambda: item_item.item_item(queries, item_item.NeighbourFiles(file, file), SHUFFLED, **how),
        "als": lambda: lists.by_inner_product(queries, file, allowed=SHUFFLED, **how),
    }[name]()
    assert len(sent) < 4 * ITEMS
