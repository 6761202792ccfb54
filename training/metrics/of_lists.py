"""What lists are judged by, by name: known without torch, which computes the values (training/metrics/values.py)."""

from __future__ import annotations

from collections.abc import Sequence

LIST_METRICS = ("recall", "ndcg", "mrr", "hit_rate", "map", "precision", "capped_recall")


def names_at(ks: Sequence[int]) -> tuple[str, ...]:
    """ "metric_at_K" of each metric at each cut, in the order of the cuts."""
    return tuple(f"{metric}_at_{k}" for k in ks for metric in LIST_METRICS)
