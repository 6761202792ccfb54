"""Rows as they were at a moment, read while the training changes them: a checkpoint of a shard without a copy of it.

Only rows that are about to change and are not yet written are put aside. A step changes a few thousand rows of a table
that has millions, so this takes little memory, where a copy would double the shard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from training.state.files import Streamed

PIECE_BYTES = 16 * 2**20  # read at a time; an update waits no longer than this takes to copy


@dataclass
class _Frozen:
    """A tensor on its way to a file.

    Attributes:
        tensor: in use, changed in place.
        done: rows that were read.
        is_kept: whether a row was put aside.
        kept: what was put aside: rows and their values at the moment.
    """

    tensor: Tensor
    done: int
    is_kept: Tensor
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class FrozenRows:
    """Tensors with a row for each row of a table, as they are now.

    `streams` may be read by another thread; `before_update` is called by the one that changes rows, before it does.

    Args:
        tensors: by table, then by name.
    """

    def __init__(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._lock = threading.Lock()
        self._tables = {
            table: {
                name: _Frozen(tensor.detach(), 0, torch.zeros(len(tensor), dtype=torch.bool, device=tensor.device))
                for name, tensor in group.items()
            }
            for table, group in tensors.items()
        }

    def before_update(self, rows: Mapping[str, Tensor]) -> None:
        """Put the rows aside that are about to change, by table; the rows of a table are distinct."""
        with self._lock:
            for table, changing in rows.items():
                for frozen in self._tables.get(table, {}).values():
                    if frozen.done == len(frozen.tensor):
                        continue
                    wanted = changing[(changing >= frozen.done) & ~frozen.is_kept[changing]]
                    frozen.is_kept[wanted] = True
                    frozen.kept.append((wanted, frozen.tensor[wanted]))

    def streams(self) -> dict[str, Streamed]:
        """Each tensor as it was, in pieces; each to be read once."""
        return {
            name: Streamed(frozen.tensor.shape, frozen.tensor.dtype, partial(self._pieces, frozen))
            for group in self._tables.values()
            for name, frozen in group.items()
        }

    def _pieces(self, frozen: _Frozen) -> Iterator[Tensor]:
        width = frozen.tensor[:1].numel() * frozen.tensor.element_size()
        step = max(1, PIECE_BYTES // max(1, width))
        while frozen.done < len(frozen.tensor):
            with self._lock:
                start, frozen.done = frozen.done, min(frozen.done + step, len(frozen.tensor))
                piece = frozen.tensor[start : frozen.done].clone()
                kept = list(frozen.kept)  # what is put aside from now on lies beyond this piece
            for rows, values in kept:
                here = (rows >= start) & (rows < start + len(piece))
                piece[rows[here] - start] = values[here]
            yield piece
        frozen.kept.clear()
