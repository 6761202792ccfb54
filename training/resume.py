"""Bringing all ranks to one state: rank 0's fresh weights, its newest checkpoint, or the best one at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoints, unpack
from training.errors import CheckpointError
from training.optimizers import Optimizers
from training.progress import Progress
from training.world import World


def resume(model: nn.Module, optimizers: Optimizers, saver: Checkpoints | None, world: World) -> Progress:
    """Put rank 0's weights, or its newest checkpoint's, on every rank; returns where the training stands."""
    state = saver.load_latest() if saver else None
    weights, optimizer_state = unpack(state.tensors) if state else ({}, {})
    if state:
        _load_weights(model, weights)
    _share_weights(model, world)
    progress = world.broadcast_object(state.progress if state else None)
    if progress is None:
        return Progress()
    optimizers.load(_share_tensors(optimizer_state, world))
    return Progress(**progress)


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint's weights must fit the model: {error}; train the model that made it, or choose another "
            "checkpoint folder"
        ) from error


def _share_weights(model: nn.Module, world: World) -> None:
    """Give every rank rank 0's parameters and buffers."""
    for tensor in model.state_dict().values():
        world.broadcast(tensor)


def _share_tensors(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Rank 0's named tensors on every rank."""
    layout = world.broadcast_object([[name, list(t.shape), str(t.dtype)[6:]] for name, t in tensors.items()])
    shared = {}
    for name, shape, dtype in layout:
        tensor = tensors[name] if name in tensors else torch.empty(shape, dtype=getattr(torch, dtype))
        shared[name] = world.broadcast(tensor)
    return shared


def restore_best(model: nn.Module, weights: Mapping[str, Tensor], saver: Checkpoints | None, world: World) -> None:
    """Load the best epoch's weights: kept in memory without checkpoints, else from rank 0's folder."""
    state = saver.load_best() if saver else None
    found = unpack(state.tensors)[0] if state else weights
    if found:
        _load_weights(model, found)
    _share_weights(model, world)
