"""A model's whole state, also where its tables lie in shards: they are streamed to rank 0 in bounded pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.files import Streamed, layout
from training.sharded import sharded_tables


def whole_state(model: nn.Module) -> dict[str, Tensor | Streamed]:
    """The `state_dict()` that the model would have with whole tables; for `training.bundle.write_bundle` on rank 0.

    Reading a streamed table is a collective: while rank 0 writes, the other ranks must call `send_tables`.
    """
    tables = sharded_tables(model)
    state: dict[str, Tensor | Streamed] = dict(model.state_dict())
    for name, table in tables.items():
        shape = torch.Size([table.num_embeddings, table.embedding_dim])
        state[name] = Streamed(shape, table.weight.dtype, table.pieces)
    return state


def send_tables(model: nn.Module) -> None:
    """On the other ranks: send the rows of sharded tables, in the order in which rank 0 writes them."""
    state = whole_state(model)
    for name in layout(state):
        tensor = state[name]
        if isinstance(tensor, Streamed):
            for _ in tensor.pieces():
                pass
