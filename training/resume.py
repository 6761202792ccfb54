"""All state of a training as named tensors, and a training put where it stood: its newest checkpoint, or its best."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoints, State
from training.errors import CheckpointError
from training.optimizers import Optimizers
from training.progress import Progress
from training.shard_files import ShardReader
from training.sharded import sharded_tables
from training.sync import Synchroniser
from training.world import World


def state_of(model: nn.Module, optimizers: Optimizers, synchroniser: Synchroniser, progress: Progress) -> State:
    """What a checkpoint of this moment holds; the tensors are those in use, not copies."""
    progress.exchange = synchroniser.state()
    tensors = pack(model, optimizers.state())
    rows: dict[str, dict[str, Tensor]] = {table: {} for table in sharded_tables(model)}
    for name in list(tensors):
        if tensors[name].dim() and _parameter(name) in rows:
            rows[_parameter(name)][name] = tensors.pop(name)
    return State(progress.step, progress.to_json(), tensors, rows)


def pack(model: nn.Module, optimizer_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name space for a model's and its optimizers' tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    return tensors | {f"optimizer/{name}": tensor for name, tensor in optimizer_state.items()}


def unpack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's and the optimizers' tensors of `pack`."""
    model = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model/")}
    optimizer = {name[10:]: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")}
    return model, optimizer


def _parameter(name: str) -> str:
    """The parameter of `model/PARAMETER` or `optimizer/KEY/PARAMETER/FIELD`."""
    parts = name.split("/")
    return parts[1] if parts[0] == "model" else parts[2]


def resume(model: nn.Module, optimizers: Optimizers, saver: Checkpoints | None, world: World) -> Progress:
    """Put rank 0's weights, or its newest checkpoint's, on every rank; returns where the training stands."""
    found = saver.load_latest() if saver else None
    weights, optimizer_state = unpack(found.tensors) if found else ({}, {})
    if weights:
        _load_weights(model, weights)
    if found:
        _load_rows(model, found.shards)
    _share_weights(model, world)
    if found is None:
        return Progress()
    state = _share_tensors(optimizer_state, world)
    if found.shards:
        held = [name for name in found.shards.names() if name.startswith("optimizer/")]
        state |= unpack({name: found.shards.read(name) for name in held})[1]
    optimizers.load(state)
    return Progress(**found.progress)


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a model's weights; rows of sharded tables that are not among them stay as they are."""
    in_place = {name: table.weight for name, table in sharded_tables(model).items()}
    try:
        model.load_state_dict({**in_place, **weights})
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint's weights must fit the model: {error}; train the model that made it, or choose another "
            "checkpoint folder"
        ) from error


def _load_rows(model: nn.Module, shards: ShardReader | None) -> None:
    """Read this rank's rows of the sharded tables.

    Raises:
        CheckpointError: the checkpoint lacks a table, or holds one of another size.
    """
    held = shards.names() if shards else []
    for name, table in sharded_tables(model).items():
        wanted = [table.num_embeddings, table.embedding_dim]
        found = shards.shape(f"model/{name}") if shards and f"model/{name}" in held else "no such shards"
        if shards is None or found != wanted:
            raise CheckpointError(
                f"the checkpoint's shards must fit the model: '{name}' is {wanted} here and {found} there; train the "
                "model that made it, or choose another checkpoint folder"
            )
        shards.copy_into(f"model/{name}", table.weight)


def _share_weights(model: nn.Module, world: World) -> None:
    """Give every rank rank 0's parameters and buffers, save the tables of which each holds its own rows."""
    tables = sharded_tables(model)
    for name, tensor in model.state_dict().items():
        if name not in tables:
            world.broadcast(tensor)


def _share_tensors(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Copies of rank 0's named tensors on every rank."""
    layout = world.broadcast_object([[name, list(t.shape), str(t.dtype)[6:]] for name, t in tensors.items()])
    shared = {}
    for name, shape, dtype in layout:
        tensor = tensors[name].clone() if name in tensors else torch.empty(shape, dtype=getattr(torch, dtype))
        shared[name] = world.broadcast(tensor)
    return shared


def restore_best(model: nn.Module, weights: Mapping[str, Tensor], saver: Checkpoints | None, world: World) -> None:
    """Load the best epoch's weights: kept in memory without checkpoints, else from the folder."""
    found = saver.load_best() if saver else None
    held = unpack(found.tensors)[0] if found else weights
    if held:
        _load_weights(model, held)
    if found:
        _load_rows(model, found.shards)
    _share_weights(model, world)
