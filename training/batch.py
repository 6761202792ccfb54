"""A batch: what the loader yields and a model takes.

Fixed-width columns are tensors of shape (batch,) or (batch, length). A ragged column is flat values with offsets, ready
for an EmbeddingBag or for padding; no list needs a fixed length. Strings and bytes stay Python lists.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """Lists of any length, row after row.

    Attributes:
        values: (total,) the elements of all rows, int64 for ids and float32 otherwise.
        offsets: (batch + 1,) int64; row i is values[offsets[i]:offsets[i + 1]].
    """

    values: Tensor
    offsets: Tensor


class Padded(NamedTuple):
    """Lists cut or filled up to one length.

    Attributes:
        values: (batch, length); `fill` where there is nothing.
        there: (batch, length) bool, whether there is something.
    """

    values: Tensor
    there: Tensor


def padded(lists: Ragged, length: int, fill: float = 0) -> Padded:
    """Each row's last `length` elements in their order, from the left: of a history that ends with the newest those."""
    starts = torch.maximum(lists.offsets[:-1], lists.offsets[1:] - length)
    places = starts[:, None] + torch.arange(length, device=starts.device)
    there = places < lists.offsets[1:, None]
    filled = torch.cat([lists.values, lists.values.new_full((1,), fill)])
    return Padded(filled[torch.where(there, places, len(lists.values))], there)


Value = Tensor | Ragged | list[str] | list[bytes]
Batch = dict[str, Value]


def batch_size(batch: Batch) -> int:
    """Number of rows; 0 for the empty batches with which a rank keeps step at the end of an epoch."""
    for value in batch.values():
        return int(value.offsets.numel()) - 1 if isinstance(value, Ragged) else len(value)
    return 0


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """A batch with each tensor changed; strings and bytes stay as they are."""

    def one(value: Value) -> Value:
        if isinstance(value, Ragged):
            return Ragged(change(value.values), change(value.offsets))
        return change(value) if isinstance(value, Tensor) else value

    return {name: one(value) for name, value in batch.items()}


def chosen(batch: Batch, keep: Tensor) -> Batch:
    """The rows where `keep`, (batch,) bool, is true, in their order."""

    def one(value: Value) -> Value:
        if isinstance(value, Ragged):
            lengths = value.offsets.diff()
            offsets = torch.cat([value.offsets[:1], lengths[keep].cumsum(0)])
            return Ragged(value.values[torch.repeat_interleave(keep, lengths)], offsets)
        return value[keep] if isinstance(value, Tensor) else list(compress(value, keep.tolist()))  # type: ignore[return-value]

    return {name: one(value) for name, value in batch.items()}


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Copy the tensors to a device, without waiting where the memory is pinned; strings and bytes stay as they are."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
