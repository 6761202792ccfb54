"""How rows of many tables travel between ranks together: two collectives, however many tables there are.

What a rank sends to another lies table after table. In front of the row numbers stands how many there are of each
table, so that the receiver can tell the tables apart; values, whose number follows from these, are one flat list
whatever the tables' widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from training.world import World

Parts = list[list[Tensor]]
"""By table, and by the rank that they come from."""


def send_rows(rows: Sequence[Tensor], counts: Tensor, world: World, name: str) -> Callable[[], tuple[Parts, Tensor]]:
    """Start sending row numbers to the ranks that hold the rows.

    Args:
        rows: (rows,) int64 of each table, by the rank that they go to.
        counts: (tables, ranks) on the CPU, how many go to each rank.
        world: the ranks.
        name: of the collective.

    Returns:
        what waits for the row numbers that come, and for their (tables, ranks) counts.
    """
    tables = len(rows)
    heads = counts.T.contiguous().to(rows[0].device).unbind()
    wait = world.all_to_all_start(_by_rank([heads, *_split(rows, counts)]), counts.sum(0) + tables, name)

    def finish() -> tuple[Parts, Tensor]:
        got, lengths = wait()
        pieces = torch.split(got, lengths.tolist())
        received = torch.stack([piece[:tables] for piece in pieces], dim=1).cpu()
        sizes = received.T.tolist()
        return _by_table([torch.split(piece[tables:], own) for piece, own in zip(pieces, sizes, strict=True)]), received

    return finish


def send_values(
    values: Sequence[Tensor], counts: Tensor, world: World, name: str, wire: torch.dtype | None = None
) -> Callable[[Tensor], Parts]:
    """Start sending rows' values.

    Args:
        values: (rows, dimension) float32 of each table, by the rank that they go to.
        counts: (tables, ranks) on the CPU, how many rows go to each rank.
        world: the ranks.
        name: of the collective.
        wire: type in which they travel; None leaves them as they are.

    Returns:
        what waits for the values that come, (rows, dimension) each; it takes their (tables, ranks) counts.
    """
    widths = torch.tensor([own.shape[1] for own in values])[:, None]
    sent = _by_rank([[part.reshape(-1) for part in own] for own in _split(values, counts)])
    sent = sent.to(wire).view(torch.uint8) if wire else sent
    wait = world.all_to_all_start(sent, (widths * counts).sum(0) * (wire.itemsize if wire else 1), name)

    def finish(expected: Tensor) -> Parts:
        got = wait()[0]
        flat = iter(torch.split(got.view(wire).float() if wire else got, (widths * expected).T.flatten().tolist()))
        return _by_table([[next(flat).view(-1, own.shape[1]) for own in values] for _ in range(world.size)])

    return finish


def _split(parts: Sequence[Tensor], counts: Tensor) -> list[tuple[Tensor, ...]]:
    return [torch.split(own, sizes) for own, sizes in zip(parts, counts.tolist(), strict=True)]


def _by_rank(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """One tensor of parts by table and rank: rank after rank, and table after table within each."""
    return torch.cat(list(chain.from_iterable(zip(*parts, strict=True))))


def _by_table(parts: Sequence[Sequence[Tensor]]) -> Parts:
    return [list(own) for own in zip(*parts, strict=True)]
