"""Arithmetic of embedding rows: sums of rows from several ranks, initial values, and which rank has which row.

Row i of a sharded table lies on rank i % ranks, as its row i // ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.hashes import hashed

_PIECE = 2**16  # values drawn at a time: the whole numbers behind them stay in the cache
_MARKED = 16  # table rows for each row in use, up to which marking them is faster than sorting
_LOW_HALVES = np.uint64(0x0000FFFF0000FFFF)


def add_rows(contributions: Sequence[tuple[Tensor, Tensor]], table_rows: int) -> tuple[Tensor, Tensor]:
    """Union of sorted, duplicate-free rows and the sum of their values, added in the order given.

    Args:
        contributions: (rows,) int64 and (rows, dimension) each.
        table_rows: above every row. Where that is little, rows are marked instead of sorted, in a fourth of the time.
    """
    every = torch.cat([rows for rows, _ in contributions])
    if table_rows <= _MARKED * every.numel():
        marks = torch.zeros(table_rows, dtype=torch.bool, device=every.device)
        union = marks.index_fill_(0, every, True).nonzero().reshape(-1)
        place = torch.empty(table_rows, dtype=torch.int64, device=every.device)
        place[union] = torch.arange(union.numel(), device=every.device)
        places = [place[rows] for rows, _ in contributions]
    else:
        union = torch.unique(every)
        places = [torch.searchsorted(union, rows) for rows, _ in contributions]
    total = contributions[0][1].new_zeros(union.numel(), *contributions[0][1].shape[1:])
    for place, (_, values) in zip(places, contributions, strict=True):
        total.index_add_(0, place, values)
    return union, total


def sparse_gradient(rows: Tensor, values: Tensor, parameter: nn.Parameter) -> Tensor:
    """A coalesced gradient from rows that are sorted and unique, which torch need not check again."""
    values = values.to(parameter.dtype)
    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
        return torch.sparse_coo_tensor(rows.unsqueeze(0), values, parameter.shape, is_coalesced=True)


def coalesce(parameters: Sequence[nn.Parameter]) -> None:
    """Give sparse gradients sorted, unique rows, in memory of their own; not sorted anew where they come that way.

    Whether they do is asked of the device once for all of them, not once for each.
    """
    found = [p for p in parameters if p.grad is not None and p.grad.is_sparse and not p.grad.is_coalesced()]
    if not found:
        return
    rows = [cast(Tensor, parameter.grad)._indices()[0] for parameter in found]
    in_order = torch.stack([(own[1:] > own[:-1]).all() for own in rows]).tolist()
    for parameter, own, is_in_order in zip(found, rows, in_order, strict=True):
        gradient = cast(Tensor, parameter.grad)
        if is_in_order:
            parameter.grad = sparse_gradient(own, gradient._values().clone(), parameter)
        else:
            parameter.grad = gradient.coalesce()


def rows_held(rows: int, rank: int, ranks: int) -> int:
    """How many of a table's rows a rank holds."""
    return max(0, -(-(rows - rank) // ranks))


def overlaps(rank: int, ranks: int, old_ranks: int) -> Iterator[tuple[int, slice, slice]]:
    """Where a rank's rows lay when the table was dealt out over `old_ranks`.

    Yields:
        an old rank, and two slices of as many rows: of this rank's rows, and of that one's, where the same rows lay.
    """
    period = math.lcm(ranks, old_ranks)
    for first in range(period // ranks):
        row = rank + ranks * first
        mine = slice(first, None, period // ranks)
        yield row % old_ranks, mine, slice(row // old_ranks, None, period // old_ranks)


@torch.no_grad()
def fill_rows(weight: Tensor, *, std: float, seed: int, name: str, rank: int = 0, ranks: int = 1) -> None:
    """Give a rank's rows their initial values, each a function of (seed, name, row, column) alone.

    So a table starts alike whole or dealt out over any number of ranks, and no rank draws for another. A value is the
    sum of four 16-bit uniform numbers (Irwin-Hall; close to normal, at most 3.46 std) of a SplitMix64 hash (Steele et
    al. 2014): whole numbers up to the last step, so that no processor rounds them differently.

    Args:
        weight: (rows held, dimension) on any device; overwritten.
        std: standard deviation; 0 leaves zeros.
        seed: of the training.
        name: of the table.
        rank: whose rows these are.
        ranks: over how many the table is dealt out.
    """
    if std == 0.0 or weight.is_meta:
        weight.zero_()
        return
    count, dimension = weight.shape
    start = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big"))
    columns = np.arange(dimension, dtype=np.uint64)
    step = max(1, _PIECE // dimension)
    for first in range(0, count, step):
        rows = np.arange(first, min(first + step, count), dtype=np.uint64) * np.uint64(ranks) + np.uint64(rank)
        values = _near_normal(rows[:, None] * np.uint64(dimension) + columns, start)
        weight[first : first + step] = torch.from_numpy(values * np.float32(std))


def _near_normal(counters: npt.NDArray[np.uint64], start: np.uint64) -> npt.NDArray[np.float32]:
    """float32 of mean 0 and variance 1 from uint64 counters."""
    bits = hashed(counters, start)
    halves = (bits & _LOW_HALVES) + ((bits >> np.uint64(16)) & _LOW_HALVES)
    sums = (halves & np.uint64(0xFFFFFFFF)) + (halves >> np.uint64(32))  # four uniform numbers below 2**16
    spread = math.sqrt(4 * (2**32 - 1) / 12)
    return (sums.astype(np.float32) - np.float32(2 * (2**16 - 1))) * np.float32(1 / spread)
