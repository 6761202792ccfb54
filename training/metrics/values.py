"""Ranking metrics in full ranking: per-query values first, then sums and counts, so that ranks reduce exactly.

    values = ranking_metrics(top, truth, ks=(10, 20))        # {"recall_at_20": (queries,), ...}
    sums = MetricSums.of(values)                             # sums + counts; add them, or all-reduce `to_tensor()`
    sums.means()["recall_at_20"]; bootstrap_interval(values["recall_at_20"].numpy())

Definitions, with T the distinct true items of a query and K the cut: recall@K = hits / |T|; hit_rate@K = any hit;
ndcg@K has binary gains and its ideal places min(K, |T|) hits first; mrr@K = 1 / rank of the first hit; map@K = the sum
of the precisions at the hits' ranks over min(K, |T|); precision@K = hits / K, of short lists too; capped_recall@K =
hits / min(K, |T|), the other convention of recall (Liang et al. 2018), by which a full list of hits is 1. Queries
without a true item are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batch import Ragged


def ranking_metrics(top: Tensor, truth: Ragged, ks: Sequence[int]) -> dict[str, Tensor]:
    """Each metric of each query that has at least one true item, in the queries' order.

    Args:
        top: (queries, width) int64 recommended items, best first; 0 and less fill up short lists and never hit.
        truth: (queries) lists of int64 true items; repeated ones count once.
        ks: cuts; a cut beyond `width` sees the items there are.

    Returns:
        "metric_at_K" -> (queries with truth,) float64.
    """
    hits, sizes = _hits(top, truth)
    hits, sizes = hits[sizes > 0], sizes[sizes > 0]
    values: dict[str, Tensor] = {}
    for k in ks:
        values |= _at(k, hits[:, :k], sizes)
    return values


def _hits(top: Tensor, truth: Ragged) -> tuple[Tensor, Tensor]:
    """(queries, width) float64 of 0 and 1, and (queries,) float64 numbers of distinct true items."""
    rows = top.shape[0]
    lengths = truth.offsets[1:] - truth.offsets[:-1]
    row = torch.repeat_interleave(torch.arange(rows, device=top.device), lengths)
    span = int(max(top.max() if top.numel() else 0, truth.values.max() if truth.values.numel() else 0)) + 1
    true_keys = torch.unique(row * span + truth.values)
    keys = torch.arange(rows, device=top.device)[:, None] * span + top
    hits = torch.isin(keys, true_keys) & (top > 0)
    sizes = torch.bincount(torch.div(true_keys, span, rounding_mode="floor"), minlength=rows)
    return hits.double(), sizes.double()


def _at(k: int, hits: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    discounts = 1 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=hits.device))
    reachable = sizes.clamp(max=k)
    found = hits.sum(1)
    precision = hits.cumsum(1) / ranks
    return {
        f"recall_at_{k}": found / sizes,
        f"ndcg_at_{k}": hits @ discounts[: hits.shape[1]] / discounts.cumsum(0)[reachable.long() - 1],
        f"mrr_at_{k}": (hits / ranks).amax(1) if hits.shape[1] else found,
        f"hit_rate_at_{k}": (found > 0).double(),
        f"map_at_{k}": (precision * hits).sum(1) / reachable,
        f"precision_at_{k}": found / k,
        f"capped_recall_at_{k}": found / reachable,
    }


@dataclass(frozen=True)
class MetricSums:
    """Sums over queries and their number: what ranks and partitions may add up.

    Attributes:
        queries: how many queries the sums are over.
        sums: "metric_at_K" -> sum.
    """

    queries: int
    sums: Mapping[str, float]

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> MetricSums:
        """From `ranking_metrics`' per-query values."""
        queries = max((len(v) for v in values.values()), default=0)
        return cls(queries, {name: float(v.sum()) for name, v in values.items()})

    def __add__(self, other: MetricSums) -> MetricSums:
        names = [*self.sums, *(name for name in other.sums if name not in self.sums)]
        sums = {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names}
        return MetricSums(self.queries + other.queries, sums)

    def to_tensor(self) -> Tensor:
        """(1 + metrics,) float64: the number of queries, then the sums; all-reduce it, then `with_tensor`."""
        return torch.tensor([self.queries, *self.sums.values()], dtype=torch.float64)

    def with_tensor(self, total: Tensor) -> MetricSums:
        """The same metrics with the numbers of a reduced `to_tensor()`."""
        queries, *sums = total.tolist()
        return MetricSums(round(queries), dict(zip(self.sums, sums, strict=True)))

    def means(self) -> dict[str, float]:
        """Mean of each metric; NaN where there was no query."""
        return {name: value / self.queries if self.queries else float("nan") for name, value in self.sums.items()}


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over queries, drawn with replacement.

    For the difference of two models pass the difference of their per-query values: paired, the interval is far tighter.
    """
    if len(values) == 0:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def recommended_counts(top: Tensor, items: int) -> Tensor:
    """(items,) int64: how often each item is recommended, fillers (0 and less) left out; parts add up."""
    return torch.bincount(top[top > 0], minlength=items)


def coverage(counts: Tensor) -> float:
    """Share of the catalogue (index 0 is no item) that is recommended at least once."""
    return float((counts[1:] > 0).double().mean())


def novelty(counts: Tensor, popularity: Tensor) -> float:
    """Mean self-information, in bits, of a recommended item: -log2 of its share of all purchases, add-one smoothed.

    Args:
        counts: (items,) from `recommended_counts`.
        popularity: (items,) purchases of each item in training.
    """
    share = (popularity[1:].double() + 1) / (popularity[1:].double() + 1).sum()
    shown = counts[1:].double()
    return float((shown * -torch.log2(share)).sum() / shown.sum())
