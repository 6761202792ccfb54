"""Ranking metrics against answers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.batch import Batch, Ragged
from training.metrics.of_lists import LIST_METRICS
from training.metrics.ranking import _ranked
from training.metrics.values import (
    MetricSums,
    bootstrap_interval,
    coverage,
    novelty,
    ranking_metrics,
    recommended_counts,
)


def lists(*rows: list[int]) -> Ragged:
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    return Ragged(torch.tensor([v for row in rows for v in row], dtype=torch.int64), offsets)


TOP = torch.tensor([[5, 2, 9, 4], [1, 2, 3, 4], [7, 8, 6, 3], [1, 2, 3, 4]])
TRUTH = lists([2, 4, 11, 2], [9], [7], [])  # hits at ranks 2 and 4 of three; none; rank 1 of one; no truth


def test_by_hand_at_four() -> None:
    values = ranking_metrics(TOP, TRUTH, [4])
    ideal_of_three = 1 + 1 / math.log2(3) + 1 / 2
    assert values["recall_at_4"].tolist() == pytest.approx([2 / 3, 0, 1])
    assert values["ndcg_at_4"].tolist() == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal_of_three, 0, 1])
    assert values["mrr_at_4"].tolist() == pytest.approx([1 / 2, 0, 1])
    assert values["hit_rate_at_4"].tolist() == [1, 0, 1]
    assert values["map_at_4"].tolist() == pytest.approx([(1 / 2 + 2 / 4) / 3, 0, 1])
    assert values["precision_at_4"].tolist() == [2 / 4, 0, 1 / 4]


def test_a_small_cut_limits_the_ideal() -> None:
    values = ranking_metrics(TOP, TRUTH, [2])
    assert values["recall_at_2"].tolist() == pytest.approx([1 / 3, 0, 1])
    assert values["ndcg_at_2"].tolist() == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0, 1])
    assert values["map_at_2"].tolist() == pytest.approx([(1 / 2) / 2, 0, 1])
    assert values["capped_recall_at_2"].tolist() == [1 / 2, 0, 1]


def test_all_metrics_at_all_cuts_and_a_cut_beyond_the_list() -> None:
    values = ranking_metrics(TOP, TRUTH, [1, 10])
    assert set(values) == {f"{metric}_at_{k}" for metric in LIST_METRICS for k in (1, 10)}
    assert values["recall_at_10"].tolist() == pytest.approx([2 / 3, 0, 1])


def test_fillers_never_hit() -> None:
    values = ranking_metrics(torch.tensor([[0, -1]]), lists([0, 3]), [2])
    assert values["recall_at_2"].tolist() == [0]


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    top = torch.stack([torch.randperm(30, generator=generator)[:5] + 1 for _ in range(40)])
    rows = [torch.randint(1, 31, (n % 4,), generator=generator).tolist() for n in range(40)]
    whole = MetricSums.of(ranking_metrics(top, lists(*rows), [5]))
    parts = [
        MetricSums.of(ranking_metrics(top[a:b], lists(*rows[a:b]), [5])) for a, b in ((0, 7), (7, 7), (7, 31), (31, 40))
    ]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total.queries == whole.queries == 30
    assert total.means() == pytest.approx(whole.means())
    reduced = parts[0].with_tensor(
        sum((part.to_tensor() for part in parts), torch.zeros(1 + len(parts[0].sums), dtype=torch.float64))
    )
    assert reduced == total


def test_no_query_has_no_mean() -> None:
    sums = MetricSums.of(ranking_metrics(torch.zeros(0, 5, dtype=torch.int64), lists(), [5]))
    assert sums.queries == 0
    assert all(math.isnan(mean) for mean in sums.means().values())
    assert all(math.isnan(end) for end in bootstrap_interval(np.zeros(0)))


def test_bootstrap_interval_is_seeded_and_close_to_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.2, 2000)
    low, high = bootstrap_interval(values, seed=3)
    assert (low, high) == bootstrap_interval(values, seed=3)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)


def test_coverage_and_novelty() -> None:
    counts = recommended_counts(torch.tensor([[1, 2], [1, 0]]), items=5)
    assert counts.tolist() == [0, 2, 1, 0, 0]
    assert coverage(counts) == 0.5
    popularity = torch.tensor([0, 7, 3, 3, 0])  # shares 8, 4, 4 and 1 of 17
    assert novelty(counts, popularity) == pytest.approx((2 * math.log2(17 / 8) + math.log2(17 / 4)) / 3)


@pytest.mark.parametrize(("any_item", "top", "to_find"), [(False, [3, 1], [3]), (True, [2, 3], [2, 3])])
def test_what_a_customer_has_is_left_out_unless_any_item_is_asked_for(
    any_item: bool, top: list[int], to_find: list[int]
) -> None:
    """Scores are the items' own numbers, but for item 2, the best, which the customer has."""

    class Model:
        def queries(self, _: Batch) -> torch.Tensor:
            return torch.ones(1, 1)

    lists = {name: Ragged(torch.tensor(items), torch.tensor([0, len(items)])) for name, items in
             (("seen", [2]), ("truth", [2, 3]))}  # fmt: skip
    items = torch.tensor([[0.0], [1.0], [9.0], [3.0]])
    found, truth = _ranked(Model(), dict(lists), items, 2, any_item)  # type: ignore[arg-type]
    assert (found.tolist(), truth.values.tolist()) == ([top], to_find)
