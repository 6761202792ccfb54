"""Ranking held-out queries over the whole catalogue between epochs; the queries are shared out over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from training.batch import Batch, Ragged, to_device
from training.data.loader import Loader
from training.metrics.values import MetricSums, ranking_metrics
from training.models.base import RetrievalModel
from training.world import World

# A block of queries is scored against the whole catalogue at once; its scores stay below this.
BLOCK_BYTES = 128 * 2**20


@torch.no_grad()
def rank_queries(
    model: RetrievalModel, loader: Loader, world: World, ks: Sequence[int], *, any_item: bool = False
) -> dict[str, float]:
    """Metrics of full ranking, over all ranks' queries, of items that are new to the user or of any.

    Args:
        model: in eval mode; the same weights on every rank.
        loader: this rank's queries: what the model's `queries` needs, `seen` (left out of the ranking) and `truth`
            (what was bought then; without `seen` it is what is to be found).
        world: the ranks.
        ks: cuts.
        any_item: whether nothing is left out, and all of `truth` is to be found.

    Returns:
        "recall_at_20" and the like -> mean over the queries that have something to be found; "queries" -> their number.
    """
    items = model.item_matrix()
    sums = MetricSums.of(ranking_metrics(torch.zeros(0, max(ks), dtype=torch.int64), _no_lists(), ks))
    for batch in loader.epoch(0):
        # an empty batch too: the lookups of its query are a collective where tables are sharded
        top, truth = _ranked(model, to_device(batch, items.device), items, max(ks), any_item)
        sums = sums + MetricSums.of(ranking_metrics(top, truth, ks))
    total = sums.with_tensor(world.all_reduce_sum(sums.to_tensor(), "ranking metrics"))
    return {**total.means(), "queries": float(total.queries)}


def block_rows(items: int) -> int:
    """Queries to score at once against a catalogue of so many items."""
    return max(1, min(1024, BLOCK_BYTES // (4 * max(1, items))))


def _ranked(model: RetrievalModel, batch: Batch, items: Tensor, k: int, any_item: bool) -> tuple[Tensor, Ragged]:
    """Item ids (batch, k) best first and `truth`, both without each row's `seen` unless it is any item."""
    seen, truth = cast(Ragged, batch["seen"]), cast(Ragged, batch["truth"])
    if any_item:
        seen = Ragged(seen.values[:0], torch.zeros_like(seen.offsets))
    scores = model.queries(batch) @ items.T
    seen_rows = _rows(seen)
    scores[seen_rows, seen.values] = float("-inf")
    scores[:, 0] = float("-inf")
    found = torch.topk(scores, min(k, scores.shape[1]), dim=1)
    top = torch.where(found.values > float("-inf"), found.indices, 0)
    span = items.shape[0]
    truth_rows = _rows(truth)
    wanted = ~torch.isin(truth_rows * span + truth.values, seen_rows * span + seen.values) & (truth.values > 0)
    counts = torch.bincount(truth_rows[wanted], minlength=len(top))
    return top, Ragged(truth.values[wanted], torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def _rows(lists: Ragged) -> Tensor:
    """The row of each value."""
    lengths = lists.offsets[1:] - lists.offsets[:-1]
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def _no_lists() -> Ragged:
    return Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
