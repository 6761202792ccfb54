"""Losses whose cost does not grow with the catalogue."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_PIECE_SCORES = {"cpu": 2**20, "cuda": 2**26}  # 4 MB stay in a core's caches; a GPU wants larger products
_LEAST_ROWS = 64  # or adding up the items' gradients would cost more than the products


class Candidates(NamedTuple):
    """The items that a batch is scored against: its own targets and a uniform draw, each item once.

    Attributes:
        items: (candidates,) int64, distinct, ascending, without the unknown index 0.
        log_inclusion: (candidates,) float32, log of the chance that the item would be among them; <= 0.
    """

    items: Tensor
    log_inclusion: Tensor

    def only(self, kept: Tensor) -> Candidates:
        """Those among them that may be there at all.

        Args:
            kept: (candidates,) bool.
        """
        return Candidates(self.items[kept], self.log_inclusion[kept])


def draw_candidates(
    targets: Tensor,
    frequencies: Tensor,
    negatives: int,
    generator: torch.Generator | None,
    most_targets: int | None = None,
) -> Candidates:
    """The batch's targets (drawn by frequency, in effect) mixed with uniform draws (Yang et al. 2020).

    An item is in with probability 1 - (1 - frequency)^rows * (1 - 1/items)^negatives. When `negatives` reaches the
    catalogue's size all items are taken, and the loss is the full softmax.

    Args:
        targets: (batch,) int64.
        frequencies: (items,) float32, each item's share of all targets; index 0 is the unknown item.
        negatives: uniform draws, with replacement.
        generator: source of the draws, on its own device.
        most_targets: of a batch with more targets so many are drawn, each once; None: all of them are in.
    """
    items = frequencies.numel() - 1
    if negatives >= items:
        everything = torch.arange(1, items + 1, device=targets.device)
        return Candidates(everything, torch.zeros(items, device=targets.device))
    device = targets.device if generator is None else generator.device
    uniform = torch.randint(1, items + 1, (negatives,), generator=generator, device=device).to(targets.device)
    if most_targets is not None and targets.numel() > most_targets:
        targets = targets[
            torch.randperm(targets.numel(), generator=generator, device=device)[:most_targets].to(targets.device)
        ]
    chosen = torch.unique(torch.cat([targets[targets > 0], uniform]))
    log_missed = targets.numel() * torch.log1p(-frequencies[chosen].clamp(max=1 - 1e-6))
    log_missed = log_missed + negatives * torch.log1p(torch.tensor(-1.0 / items, device=targets.device))
    return Candidates(chosen, torch.log(-torch.expm1(log_missed)))


def sampled_softmax(
    query: Tensor,
    items: Tensor,
    target_logits: Tensor,
    targets: Tensor,
    candidates: Candidates,
    weight: Tensor,
    piece: Piece | None = None,
    exact: int = 0,
) -> Tensor:
    """Weighted sum of each row's cross-entropy against the candidates, an estimate of the one against all items.

    The sum over all items is estimated without bias (Horvitz-Thompson): exp(target's logit), known exactly, plus every
    other candidate's exp(logit) over its chance of being drawn. A candidate that is the row's own target (an accidental
    hit) counts once only. The target itself takes no correction: it is always there.

    Computed as `sampled_loss` says, whose arguments these are.
    """
    return sampled_loss(query, items, target_logits, targets, candidates, weight, piece or softmax_piece, exact)


def sampled_loss(
    query: Tensor,
    items: Tensor,
    target_logits: Tensor,
    targets: Tensor,
    candidates: Candidates,
    weight: Tensor,
    piece: Piece,
    exact: int = 0,
) -> Tensor:
    """Weighted sum of each row's loss, of the score of its target and those of the candidates beside it.

    The (batch, candidates) scores never exist as a whole: a piece of the batch is scored, summed and turned into
    gradients while it lies in the processor's cache (as in "Cut Your Losses", Wijmans et al. 2025, for vocabularies).
    Memory grows with batch + candidates, not with their product, and the gradients come with the loss: it is for
    training. Differentiable once, by `query`, `items` and `target_logits`. Under autocast the products alone are in its
    type. Without candidates it is 0.

    Args:
        query: (batch, dimension).
        items: (candidates, dimension) vectors of the candidates; a score is the inner product, uncorrected.
        target_logits: (batch,) scores of the targets.
        targets: (batch,) int64.
        candidates: what was drawn.
        weight: (batch,) of each row's loss.
        piece: the loss of some rows, compiled or not: `softmax_piece`, or one of training/models/pairs.py.
        exact: how many of the last dimensions are multiplied in float32 even under autocast: biases, whose rounding
            would move an item's probability, the same way in every row.
    """
    given = _Given(targets, candidates, weight, piece, exact)
    total: Tensor = _SampledLoss.apply(query, items, target_logits, given)
    return total


class PieceSums(NamedTuple):
    """What a piece of the batch gives: (rows,) losses, unweighted, and the gradients of their weighted sum.

    `items_share` is that of the candidates' vectors, (candidates, dimension), before the division by their chances.
    """

    losses: Tensor
    query: Tensor
    items_share: Tensor
    target_logits: Tensor


class Piece(Protocol):
    """The loss of some rows, with its gradients: `softmax_piece`'s signature."""

    def __call__(
        self, query: Tensor, target_logits: Tensor, weight: Tensor, own: Tensor, hit: Tensor, drawn: Drawn
    ) -> PieceSums: ...


class Drawn(NamedTuple):
    """The candidates for all pieces, in the products' type but for what is exact.

    Attributes:
        items: (candidates, dimension); zero in the dimensions that are exact.
        exact: (candidates, those dimensions), float32; no columns where the products' type is float32 anyhow.
        over_chance: (candidates, dimension), the whole vectors over the chances.
        inverse_chance: (candidates,) one over the chances.
    """

    items: Tensor
    exact: Tensor
    over_chance: Tensor
    inverse_chance: Tensor


def softmax_piece(
    query: Tensor, target_logits: Tensor, weight: Tensor, own: Tensor, hit: Tensor, drawn: Drawn
) -> PieceSums:
    """Losses and gradients of some rows.

    Exponentials stay uncorrected; the chances go into what they are multiplied with. That saves two of the passes over
    the scores, which cost as much as the products.

    Args:
        query: (rows, dimension), float32.
        target_logits: (rows,)
        weight: (rows,)
        own: (rows,) int64, a candidate that may be the row's own target.
        hit: (rows,) bool, whether it is.
        drawn: the candidates.
    """
    rounded = query.to(drawn.items.dtype)
    scores = scores_of(query, rounded, own, hit, drawn)
    highest = torch.maximum(scores.amax(dim=1), target_logits)
    target = torch.exp(target_logits - highest)
    found, share = _less_targets(rounded, scores, highest, target, target_logits, weight, drawn)
    return found._replace(target_logits=target * share - weight)


def log_sum_piece(
    query: Tensor, target_logits: Tensor, weight: Tensor, own: Tensor, hit: Tensor, drawn: Drawn
) -> PieceSums:
    """`softmax_piece` of rows whose targets are among the candidates like all items, by chance: of several targets.

    The log of the sum over the candidates, less `target_logits`; these are the mean of the row's targets' scores, so
    that with their weights' sum as its weight the loss is the sum of theirs.
    """
    rounded = query.to(drawn.items.dtype)
    scores = scores_of(query, rounded, own, hit, drawn)
    nothing = torch.zeros_like(target_logits)
    return _less_targets(rounded, scores, scores.amax(dim=1), nothing, target_logits, weight, drawn)[0]


def _less_targets(
    rounded: Tensor,
    scores: Tensor,
    highest: Tensor,
    beside: Tensor,
    target_logits: Tensor,
    weight: Tensor,
    drawn: Drawn,
) -> tuple[PieceSums, Tensor]:
    """Logs of sums of exponentials less the targets' scores, and (rows,) weights over the sums.

    Args:
        rounded: (rows, dimension) queries in the products' type.
        scores: (rows, candidates), overwritten.
        highest: (rows,) what is taken off before a score is exponentiated.
        beside: (rows,) what is added to the sums, with `highest` taken off.
        target_logits: (rows,)
        weight: (rows,)
        drawn: the candidates.
    """
    scores.sub_(highest[:, None]).exp_()
    partition = scores @ drawn.inverse_chance + beside
    share = weight / partition
    exponentials = scores.to(rounded.dtype)
    found = PieceSums(
        losses=partition.log() + highest - target_logits,
        query=(exponentials @ drawn.over_chance) * share[:, None],
        items_share=exponentials.T @ (rounded * share[:, None]).to(rounded.dtype),
        target_logits=-weight,
    )
    return found, share


def scores_of(query: Tensor, rounded: Tensor, own: Tensor, hit: Tensor, drawn: Drawn) -> Tensor:
    """(rows, candidates) of `softmax_piece`'s arguments, float32 at least; -inf where a candidate is the row's target.

    Args:
        rounded: `query` in the products' type.
    """
    scores = (rounded @ drawn.items.T).to(query.dtype)
    if columns := drawn.exact.shape[1]:
        scores.addmm_(query[:, -columns:], drawn.exact.T)
    others = torch.where(hit, -torch.inf, scores.gather(1, own[:, None])[:, 0])
    return scores.scatter_(1, own[:, None], others[:, None])


class _Given(NamedTuple):
    """What `sampled_loss` gets that has no gradient."""

    targets: Tensor
    candidates: Candidates
    weight: Tensor
    piece: Piece
    exact: int


class _SampledLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, items: Tensor, target_logits: Tensor, given: _Given) -> Tensor:
        targets, candidates, weight, piece, exact = given
        kind, wide = query.device.type, torch.promote_types(target_logits.dtype, torch.float32)
        product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else wide
        sums = torch.zeros(len(query), dtype=wide, device=query.device)
        gradients = query.new_zeros(query.shape, dtype=wide), items.new_zeros(items.shape, dtype=wide), sums.clone()
        if len(candidates.items):
            with torch.autocast(kind, enabled=False):
                inverse = torch.exp(-candidates.log_inclusion.to(wide))
                exact = exact if product != wide else 0
                apart = items[:, items.shape[1] - exact :].to(wide)
                together = F.pad(items[:, : items.shape[1] - exact], (0, exact)).to(product)
                drawn = Drawn(together, apart, (items * inverse[:, None]).to(product), inverse)
                own = torch.searchsorted(candidates.items, targets).clamp_(max=len(items) - 1)
                hit = candidates.items[own] == targets
                rows = max(_LEAST_ROWS, _PIECE_SCORES.get(kind, _PIECE_SCORES["cpu"]) // len(items))
                query, target_logits, weight = query.to(wide), target_logits.to(wide), weight.to(wide)
                for first in range(0, len(query), rows):
                    here = slice(first, first + rows)
                    found = piece(query[here], target_logits[here], weight[here], own[here], hit[here], drawn)
                    sums[here], gradients[0][here], gradients[2][here] = found.losses, found.query, found.target_logits
                    gradients[1].add_(found.items_share)
                gradients[1].mul_(inverse[:, None])
        ctx.save_for_backward(*gradients)
        return (sums * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, items, target_logits = ctx.saved_tensors
        return query * upstream, items * upstream, target_logits * upstream, None
