"""A model's whole state, also where its tables lie in shards: they are streamed to rank 0 in bounded pieces."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from training.state.files import Streamed, layout
from training.tables.sharded import sharded_tables
from training.world import World

State = dict[str, Tensor | Streamed]
_LOOK_S = 0.2  # how often a piece that nobody has taken yet looks whether anybody still will


def export(model: nn.Module, world: World, write: Callable[[State], Any]) -> Any:
    """Call `write` on rank 0 with the `state_dict()` that the model would have with whole tables.

    Every rank must call. A disk may take what time it takes: `write` runs in a thread, and the ranks wait for it as in
    `World.on_each`. It reads streamed tables in the order of `training.state.files.layout`, once.

    Returns:
        what `write` returned, on every rank; whatever JSON can hold.

    Raises:
        MillraceError: `write` raised it; then all ranks raise it.
        PeerLostError: it raised something else, on rank 0.
    """
    tables = sharded_tables(model)
    state: State = dict(model.state_dict())
    writer = _Writer(write, state)
    for name, table in tables.items():
        shape = torch.Size([table.num_embeddings, table.embedding_dim])
        state[name] = Streamed(shape, table.weight.dtype, writer.pieces)
    if world.rank == 0:
        writer.start()
    for name in (name for name in layout(state) if name in tables):
        for piece in chain(tables[name].pieces(), [None]):
            world.on_first(f"writing '{name}'", partial(writer.give, piece))
    return world.on_first("writing the weights", writer.result)


class _Writer:
    """`write` in a thread of its own, which is given the pieces of streamed tables one by one; None ends a table."""

    def __init__(self, write: Callable[[State], Any], state: State) -> None:
        self._write, self._state = write, state
        self._given: queue.Queue[Tensor | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)
        self._result: Any = None
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._write(self._state)
        except BaseException as error:  # raised again by `give` or `result`
            self._error = error

    def pieces(self) -> Iterator[Tensor]:
        while (piece := self._given.get()) is not None:
            yield piece

    def give(self, piece: Tensor | None) -> None:
        """Return when there is room for the next piece, or raise what `write` raised."""
        while self._thread.is_alive():
            try:
                self._given.put(piece, timeout=_LOOK_S)
                return
            except queue.Full:
                continue
        self.result()

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
