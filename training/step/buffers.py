"""What layers remember of the rows they saw, as BatchNorm does: one for all ranks, and sound at a tail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.errors import SettingsError
from training.world import World


class Buffers:
    """A model's buffers: each rank's own while steps are made, the same on all ranks whenever they are shared.

    A rank's buffers know its own rows alone. Shared, one of floating point is the mean over ranks, each weighted by its
    rows since they were last shared, and any other (a counter, a flag) is rank 0's. One that has the same bits on all
    ranks keeps them.

    Args:
        model: with the same buffers, in the same order, on all ranks.
        world: the ranks.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._model, self._world, self._rows = model, world, 0

    def count(self, rows: int) -> None:
        """Take in that this rank computed on so many rows more."""
        self._rows += rows

    @torch.no_grad()
    def share(self) -> None:
        """Make the buffers equal on all ranks; every rank must call. A checkpoint or a validation wants it before."""
        if self._world.size == 1:
            return
        buffers = list(self._model.buffers())
        ranks = self._world.all_gather_object([self._rows, *map(_fingerprint, buffers)])
        every = sum(rows for rows, *_ in ranks)
        share = self._rows / every if every else 1.0 / self._world.size
        for buffer, *found in zip(buffers, *(marks for _, *marks in ranks), strict=True):
            if len(set(found)) > 1:
                buffer.copy_(self._agreed(buffer, share))
        self._rows = 0

    def _agreed(self, buffer: Tensor, share: float) -> Tensor:
        if not buffer.is_floating_point():
            return self._world.broadcast(buffer.clone().contiguous(), name="buffer")
        mine = buffer.double() * share if share else torch.zeros_like(buffer, dtype=torch.float64)
        return self._world.all_reduce_sum(mine.contiguous(), "buffer")


def _fingerprint(buffer: Tensor) -> str:
    held = buffer.detach().cpu().contiguous().reshape(-1)
    return hashlib.blake2b(held.view(torch.uint8).numpy().data, digest_size=16).hexdigest()


@contextmanager
def few_rows(model: nn.Module, rows: int) -> Iterator[None]:
    """While a batch of less than two rows is computed: BatchNorm goes by its running statistics and leaves them alone.

    Such a batch has no variance, and comes at the end of an epoch. torch refuses it.
    """
    layers = [layer for layer in _batch_norms(model).values() if layer.training] if rows < 2 else []
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def check_running_statistics(model: nn.Module) -> None:
    """Before the training begins, not at its first tail.

    Raises:
        SettingsError: a BatchNorm layer keeps none.
    """
    without = [name for name, layer in _batch_norms(model).items() if layer.running_mean is None]
    if without:
        raise SettingsError(
            "a BatchNorm layer must keep running statistics, for an epoch may end with a batch of less than two rows; "
            f"'{without[0]}' has track_running_stats=False; set it to True, or take a LayerNorm"
        )


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
