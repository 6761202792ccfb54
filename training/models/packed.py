"""Sequences of any length side by side, without padding: what is computed of a token alone needs no layout at all.

Attention does. Sequences of one length lie together, so that they are a block (sequences, length, ...) as they are:
nothing is filled up, and nothing is copied but the tokens' one reordering at the start.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Packed(NamedTuple):
    """Where the tokens of a batch's sequences lie, shorter sequences first.

    Attributes:
        order: (tokens,) int64, of each place the token that lies there, as numbered by the lists that were packed.
        place: (tokens,) int64, where each token lies: the inverse of `order`.
        position: (tokens,) int64, of each place how many tokens of its sequence come before.
        length: (tokens,) int64, of each place how many tokens its sequence has.
        blocks: (sequences, length) of the blocks, one after the other.
        causal: whether a token looks at itself and those before it alone, or at all of its sequence.
    """

    order: Tensor
    place: Tensor
    position: Tensor
    length: Tensor
    blocks: tuple[tuple[int, int], ...]
    causal: bool


def packed(offsets: Tensor, causal: bool) -> Packed:
    """Pack lists.

    Args:
        offsets: (sequences + 1,) int64; list i has the tokens offsets[i] to offsets[i + 1].
        causal: see `Packed`.
    """
    lengths = offsets.diff()
    by_length = torch.argsort(lengths, stable=True)
    of_sequence = lengths[by_length]
    ends = of_sequence.cumsum(0)
    length = torch.repeat_interleave(of_sequence, of_sequence)
    position = torch.arange(len(length), device=length.device) - torch.repeat_interleave(
        ends - of_sequence, of_sequence
    )
    order = torch.repeat_interleave(offsets[:-1][by_length], of_sequence) + position
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    found, counts = torch.unique_consecutive(of_sequence[of_sequence > 0], return_counts=True)
    blocks = tuple(zip(counts.tolist(), found.tolist(), strict=True))
    return Packed(order, place, position, length, blocks, causal)


def attention(query: Tensor, key: Tensor, value: Tensor, layout: Packed) -> Tensor:
    """Each token's mean of the values that it looks at, weighted by softmax(query . key / sqrt(width)).

    On a CPU in float32 even under autocast: for sequences of ten tokens torch's kernel takes eight times as long in
    bfloat16.

    Args:
        query: (tokens, heads, width), in the layout's order.
        key: the same.
        value: the same.
        layout: of the tokens.

    Returns:
        (tokens, heads, width)
    """
    if query.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return _of_blocks(query.float(), key.float(), value.float(), layout)
    return _of_blocks(query, key, value, layout)


def _of_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Packed) -> Tensor:
    sizes = [sequences * length for sequences, length in layout.blocks]
    parts = zip(*(torch.split(tensor, sizes) for tensor in (query, key, value)), layout.blocks, strict=True)
    found = [_of_block(q, k, v, block, layout.causal) for q, k, v, block in parts]
    return torch.cat(found) if found else value


def _of_block(query: Tensor, key: Tensor, value: Tensor, block: tuple[int, int], causal: bool) -> Tensor:
    sequences, length = block
    if length == 1:
        return value
    q, k, v = (t.reshape(sequences, length, *t.shape[1:]).transpose(1, 2) for t in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).reshape(value.shape)
