"""Layers of a transformer over packed sequences: SASRec's as published, and gated ones with rotary places.

Shape suffixes: T tokens, D width, H heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.draws import dropped
from training.models.packed import Packed, attention

EPS = 1e-6
LONGEST_PLACES, LONGEST_DAYS = 1e4, 1e4  # the slowest turns: of places as in RoFormer, and of days


class Turns(NamedTuple):
    """Of the angles by which queries and keys are turned, each (T, H, width of a head / 2)."""

    cosine: Tensor
    sine: Tensor


class GatedBlock(nn.Module):
    """Pre-norm attention whose answer is gated by the token itself, then a gated network (SwiGLU, Shazeer 2020).

    The gate stands for the point-wise weighting of HSTU (Zhai et al. 2024) and LiGR (Borisyuk et al. 2025). Places turn
    queries and keys (RoFormer, Su et al. 2021), so that only differences count: of places for half of the heads, of
    time for the others.

    Args:
        dim: width of a token, a multiple of `heads`.
        heads: of the attention; the width of one is even.
        dropout: of what each half adds.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.second_norm = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)
        self.into = nn.Linear(dim, 4 * dim)
        self.out = nn.Linear(dim, dim, bias=False)
        self.widen = nn.Linear(dim, 4 * dim, bias=False)
        self.narrow = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x_TD: Tensor, layout: Packed, turns: Turns, generator: torch.Generator | None) -> Tensor:
        """(T, D)

        Args:
            x_TD: the tokens.
            layout: of the tokens.
            turns: from `turns_of`.
            generator: of what is dropped; None: nothing is.
        """
        query, key, value, gate = self.into(self.norm(x_TD)).chunk(4, dim=1)
        apart = (-1, self.heads, x_TD.shape[1] // self.heads)
        mixed = attention(turned(query.view(apart), turns), turned(key.view(apart), turns), value.view(apart), layout)
        x_TD = x_TD + dropped(self.out(mixed.flatten(1) * F.silu(gate)), self.dropout, generator)
        inner, gate = self.widen(self.second_norm(x_TD)).chunk(2, dim=1)
        return x_TD + dropped(self.narrow(inner * F.silu(gate)), self.dropout, generator)


class SasrecBlock(nn.Module):
    """A block of SASRec as published (Kang and McAuley 2018): only queries are normed before the attention.

    Args:
        dim: width of a token, a multiple of `heads`.
        heads: of the attention.
        dropout: of what the network adds.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.second_norm = nn.LayerNorm(dim, 1e-8), nn.LayerNorm(dim, 1e-8)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.widen, self.narrow = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x_TD: Tensor, layout: Packed, turns: Turns, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """(T, D); as `GatedBlock`, without turns."""
        normed = self.norm(x_TD)
        apart = (-1, self.heads, x_TD.shape[1] // self.heads)
        query, key, value = self.query(normed), self.key(x_TD), self.value(x_TD)
        mixed = attention(query.view(apart), key.view(apart), value.view(apart), layout)
        x_TD = self.second_norm(normed + self.out(mixed.flatten(1)))
        inner = dropped(torch.relu(self.widen(x_TD)), self.dropout, generator)
        return x_TD + dropped(self.narrow(inner), self.dropout, generator)


BLOCKS: dict[str, type[GatedBlock | SasrecBlock]] = {"gated": GatedBlock, "sasrec": SasrecBlock}


def turns_of(position: Tensor, days: Tensor, heads: int, width: int) -> Turns:
    """Turns of which the first half of the heads, rounded up, goes by the place, and the others by time.

    Args:
        position: (T,) places.
        days: (T,) times in days, from any moment on.
        heads: H.
        width: of a head.
    """
    share = torch.arange(width // 2, device=days.device) / max(1, width // 2)
    by_place = position[:, None].float() * torch.exp(-share * math.log(LONGEST_PLACES))
    by_time = days[:, None] * torch.exp(-share * math.log(LONGEST_DAYS))
    placed = heads - heads // 2
    angles = torch.cat(
        [by_place[:, None].expand(-1, placed, -1), by_time[:, None].expand(-1, heads - placed, -1)], dim=1
    )
    return Turns(angles.cos(), angles.sin())


def turned(vectors: Tensor, turns: Turns) -> Tensor:
    """Vectors (T, H, width) with their pairs of components turned."""
    first, second = vectors.float().chunk(2, dim=2)
    cosine, sine = turns
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=2).to(vectors.dtype)
