"""Losses whose cost does not grow with the catalogue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """The items that a batch is scored against: its own targets and a uniform draw, each item once.

    Attributes:
        items: (candidates,) int64, distinct, ascending, without the unknown index 0.
        log_inclusion: (candidates,) float32, log of the chance that the item would be among them; <= 0.
    """

    items: Tensor
    log_inclusion: Tensor


def draw_candidates(
    targets: Tensor, frequencies: Tensor, negatives: int, generator: torch.Generator | None
) -> Candidates:
    """The batch's targets (drawn by frequency, in effect) mixed with uniform draws (Yang et al. 2020).

    An item is in with probability 1 - (1 - frequency)^rows * (1 - 1/items)^negatives. When `negatives` reaches the
    catalogue's size all items are taken, and the loss is the full softmax.

    Args:
        targets: (batch,) int64.
        frequencies: (items,) float32, each item's share of all targets; index 0 is the unknown item.
        negatives: uniform draws, with replacement.
        generator: source of the draws, on its own device.
    """
    items = frequencies.numel() - 1
    if negatives >= items:
        everything = torch.arange(1, items + 1, device=targets.device)
        return Candidates(everything, torch.zeros(items, device=targets.device))
    device = targets.device if generator is None else generator.device
    uniform = torch.randint(1, items + 1, (negatives,), generator=generator, device=device).to(targets.device)
    chosen = torch.unique(torch.cat([targets[targets > 0], uniform]))
    log_missed = targets.numel() * torch.log1p(-frequencies[chosen].clamp(max=1 - 1e-6))
    log_missed = log_missed + negatives * torch.log1p(torch.tensor(-1.0 / items, device=targets.device))
    return Candidates(chosen, torch.log(-torch.expm1(log_missed)))


def sampled_softmax(logits: Tensor, target_logits: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
    """Cross-entropy of each row's target against the candidates, an estimate of the one against all items.

    The sum over all items is estimated without bias (Horvitz-Thompson): exp(target's logit), known exactly, plus every
    other candidate's exp(logit) over its chance of being drawn. A candidate that is the row's own target (an accidental
    hit) counts once only. The target itself takes no correction: it is always there.

    Args:
        logits: (batch, candidates) scores of the candidates, uncorrected.
        target_logits: (batch,) scores of the targets.
        targets: (batch,) int64.
        candidates: what was drawn.

    Returns:
        (batch,) losses, not reduced.
    """
    others = logits - candidates.log_inclusion
    others = others.masked_fill_(targets[:, None] == candidates.items, -torch.inf)
    partition = torch.logsumexp(torch.cat([target_logits[:, None], others], dim=1), dim=1)
    return partition - target_logits
