"""Losses of pairs, the target beside each other item: pieces for `training.models.losses.sampled_loss`.

Each is a mean over the items that are not the row's target. Of candidates that were drawn it is an estimate without
bias (a candidate's part over its chance of being drawn), and with all items as candidates the mean itself.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.losses import Drawn, Piece, PieceSums, scores_of


def bpr(items: int) -> Piece:
    """Bayesian personalised ranking (Rendle et al. 2009): the mean of -log sigmoid(target's score - other's score).

    Args:
        items: of the catalogue.
    """
    return partial(bpr_piece, others=max(items - 1, 1))


def cosine_contrastive(items: int, margin: float, negative_weight: float) -> Piece:
    """SimpleX's loss (Mao et al. 2021): 1 - target's score + weight x mean of max(0, other's score - margin).

    Args:
        items: of the catalogue.
        margin: below which another item's score costs nothing; scores are cosines.
        negative_weight: of the other items.
    """
    return partial(contrastive_piece, others=max(items - 1, 1), margin=margin, negative_weight=negative_weight)


def bpr_piece(
    query: Tensor, target_logits: Tensor, weight: Tensor, own: Tensor, hit: Tensor, drawn: Drawn, *, others: int
) -> PieceSums:
    """Losses and gradients of some rows; arguments as `training.models.losses.softmax_piece` has them."""
    rounded = query.to(drawn.items.dtype)
    ahead = scores_of(query, rounded, own, hit, drawn).sub_(target_logits[:, None])
    chances = drawn.inverse_chance / others
    slopes = torch.sigmoid(ahead)
    return _sums(F.softplus(ahead) @ chances, slopes, -(slopes @ chances), rounded, weight, drawn, 1 / others)


def contrastive_piece(
    query: Tensor,
    target_logits: Tensor,
    weight: Tensor,
    own: Tensor,
    hit: Tensor,
    drawn: Drawn,
    *,
    others: int,
    margin: float,
    negative_weight: float,
) -> PieceSums:
    """Losses and gradients of some rows; arguments as `training.models.losses.softmax_piece` has them."""
    rounded, scale = query.to(drawn.items.dtype), negative_weight / others
    above = scores_of(query, rounded, own, hit, drawn).sub_(margin).clamp_(min=0)
    losses = 1 - target_logits + above @ drawn.inverse_chance * scale
    slopes = (above > 0).to(above.dtype)
    return _sums(losses, slopes, -torch.ones_like(target_logits), rounded, weight, drawn, scale)


def _sums(
    losses: Tensor,
    slopes: Tensor,
    target_slopes: Tensor,
    rounded: Tensor,
    weight: Tensor,
    drawn: Drawn,
    scale: float,
) -> PieceSums:
    """What a piece gives, of the slopes of its losses by the scores.

    Args:
        losses: (rows,)
        slopes: (rows, candidates), before `scale` and the division by the chances.
        target_slopes: (rows,) by the targets' scores.
        rounded: the rows' queries in the products' type.
        weight: (rows,)
        drawn: the candidates.
        scale: of the slopes.
    """
    slopes, share = slopes.to(rounded.dtype), weight * scale
    return PieceSums(
        losses=losses,
        query=(slopes @ drawn.over_chance) * share[:, None],
        items_share=slopes.T @ (rounded * share[:, None]).to(rounded.dtype),
        target_logits=target_slopes * weight,
    )
