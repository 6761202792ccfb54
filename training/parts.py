"""A loss of several parts (heads, say), each with a mean of its own: what is minimised is the sum of their means.

A part's rows are not the other parts': clicks are judged on all rows, what was paid only on those that bought. So each
part has its own sum and its own denominator, both added up over batches and ranks before one is divided by the other.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """One part of a batch's loss.

    Attributes:
        loss: scalar, weighted sum of the rows' losses, in float32; 0 where `weight` is.
        weight: scalar, sum of their weights.
        share: what the part's mean counts for in what is minimised; the same in every batch.
    """

    loss: Tensor
    weight: Tensor
    share: float = 1.0


Loss = tuple[Tensor, Tensor] | Mapping[str, Part]
"""What `loss` gives: (weighted sum, sum of weights), or the parts by name, the same names in each batch and rank."""

Sums = MutableMapping[str, list[float]]
"""Parts added up, JSON-safe: name -> [loss, weight, share]."""


def add_parts(sums: Sums, parts: Mapping[str, list[float]]) -> None:
    """Add `parts` to `sums`, in place."""
    for name, (loss, weight, share) in parts.items():
        before = sums.get(name, [0.0, 0.0, share])
        sums[name] = [before[0] + loss, before[1] + weight, share]


def part_means(sums: Mapping[str, list[float]]) -> dict[str, float]:
    """`loss_NAME` -> mean of each part; NaN where no row had a weight."""
    return {f"loss_{name}": loss / weight if weight else float("nan") for name, (loss, weight, _) in sums.items()}


def whole_mean(sums: Mapping[str, list[float]]) -> float:
    """The means' weighted sum, over the parts that had a weight: what is minimised."""
    return sum(share * loss / weight for loss, weight, share in sums.values() if weight)
