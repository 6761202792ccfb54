"""Gradients across ranks: the same as one process with all the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training import collectives
from training.rows import add_rows
from training.sync import rows_are_cheaper
from training.world import World


def test_one_process_gives_the_mean() -> None:
    assert collectives.synchronised({}, World())["checked"] == 12
    collectives.poisoned({}, World())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_mean_of_all_rows(ranks: int, seen_by_ranks: dict[int, dict[str, Any]]) -> None:
    assert seen_by_ranks[ranks]["checked"] == 12


def test_rows_travel_where_they_are_fewer_bytes() -> None:
    assert rows_are_cheaper(total_rows=2 * 8192, table_rows=1_000_000, dimension=64)
    assert not rows_are_cheaper(total_rows=2 * 1000, table_rows=1000, dimension=64)
    turning_point = next(rows for rows in range(4000) if not rows_are_cheaper(rows, 1000, 64))
    assert turning_point * (4 * 64 + 8) >= 1000 * 4 * 65 > (turning_point - 1) * (4 * 64 + 8)
    assert rows_are_cheaper(980, 1000, 64, value_bytes=4)
    assert not rows_are_cheaper(980, 1000, 64, value_bytes=2)


def test_sums_are_in_rank_order() -> None:
    """1e8 + 1 - 1e8 is 0 in float32 in this order, and 1 in another."""
    parts = [(torch.tensor([0, 3]), torch.tensor([[1e8], [1.0]])), (torch.tensor([0]), torch.tensor([[1.0]]))]
    rows, values = add_rows([*parts, (torch.tensor([0, 9]), torch.tensor([[-1e8], [2.0]]))])
    assert rows.tolist() == [0, 3, 9]
    assert values.tolist() == [[0.0], [1.0], [2.0]]
