"""All state of a training as named tensors, and a training put where it stood: its newest checkpoint, or its best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from training.errors import CheckpointError
from training.state.bundle import Bundle
from training.state.checkpoint import Checkpoints, State
from training.state.progress import Progress
from training.state.search import Found
from training.state.shards import ShardReader
from training.state.warm_start import warm_start
from training.step.optimizers import Optimizers
from training.step.sync import Synchroniser
from training.tables.sharded import sharded_tables
from training.world import World


def state_of(model: nn.Module, optimizers: Optimizers, synchroniser: Synchroniser, progress: Progress) -> State:
    """What a checkpoint of this moment holds; the tensors are those in use, not copies."""
    progress.exchange = synchroniser.state()
    tensors = pack(model, optimizers.state())
    rows: dict[str, dict[str, Tensor]] = {table: {} for table in sharded_tables(model)}
    for name in list(tensors):
        if tensors[name].dim() and _parameter(name) in rows:
            rows[_parameter(name)][name] = tensors.pop(name)
    return State(progress, tensors, rows)


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


def resume(
    model: nn.Module, optimizers: Optimizers, saver: Checkpoints | None, world: World, start_from: Bundle | None = None
) -> Progress:
    """Put rank 0's weights, or its newest checkpoint's, on every rank; returns where the training stands.

    Without a checkpoint the bundle's weights come first, if there is one.
    """
    found = saver.load_latest() if saver else None
    if found is None:
        if start_from is not None:
            world.on_each("reading the bundle to start from", partial(warm_start, model, start_from))
        _share_weights(model, world)
        return Progress()
    shared: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}

    def read() -> None:
        _load(model, found)
        shared.update({name: tensor.clone() for name, tensor in unpack(found.tensors)[1].items()})
        if found.shards:
            held = [name for name in found.shards.names() if name.startswith("optimizer/")]
            rows.update(unpack({name: found.shards.read(name) for name in held})[1])

    world.on_each("reading a checkpoint", read)
    _share_weights(model, world)
    optimizers.load({**_share_tensors(shared, world), **rows})
    return found.progress


def _load(model: nn.Module, found: Found) -> None:
    """Load the weights that this rank holds of a checkpoint."""
    weights = unpack(found.tensors)[0]
    if weights:
        _load_weights(model, weights)
    _load_rows(model, found.shards)


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
    """Rank 0's named tensors on every rank."""
    layout = world.broadcast_object([[name, list(t.shape), str(t.dtype)[6:]] for name, t in tensors.items()])
    shared = {}
    for name, shape, dtype in layout:
        tensor = tensors[name] if name in tensors else torch.empty(shape, dtype=getattr(torch, dtype))
        shared[name] = world.broadcast(tensor)
    return shared


def restore_best(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    progress: Progress,
    saver: Checkpoints | None,
    world: World,
    say: Callable[[str], None],
) -> None:
    """Load the best epoch's weights: kept in memory without checkpoints, else from the folder.

    Where its checkpoint is damaged the last epoch's weights stay, and `progress.best` becomes the last epoch: metrics
    are never those of other weights.
    """
    found = saver.load_step(progress.best_step) if saver and progress.best_step is not None else None
    if found:
        world.on_each("reading the best checkpoint", partial(_load, model, found))
    elif saver:
        say(
            f"the best epoch was {progress.best['epoch'] + 1}, but its checkpoint is damaged or gone: the model has "
            f"the weights and metrics of the last, epoch {progress.epoch}"
        )
        progress.best = progress.history[-1]
    elif weights:
        _load_weights(model, weights)
    _share_weights(model, world)
