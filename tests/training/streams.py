"""Reading whole epochs in tests: all ranks in turn, rows as Python values in the epoch's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from training.batch import Batch, Ragged, batch_size
from training.data.loader import Loader
from training.data.snapshot import Snapshot
from training.schema import Schema

WORLD_SIZES = (1, 2, 3, 4, 8)


def rows_of(batch: Batch) -> list[tuple[Any, ...]]:
    """A batch as one tuple a row."""
    columns = []
    for value in batch.values():
        if isinstance(value, Ragged):
            columns.append([part.tolist() for part in np.split(value.values.numpy(), value.offsets[1:-1].numpy())])
        else:
            columns.append(value if isinstance(value, list) else value.tolist())
    return list(zip(*columns, strict=True)) if batch_size(batch) else []


def ranks_epoch(
    snapshot: Snapshot,
    schema: Schema,
    *,
    world_size: int,
    global_batch: int = 24,
    epoch: int = 0,
    state: Mapping[str, int | str] | None = None,
    stop_after: int | None = None,
    **settings: Any,
) -> tuple[list[list[list[tuple[Any, ...]]]], dict[str, int | str]]:
    """Each rank's rows by step, and the position that the last rank ended at.

    Args:
        stop_after: leave the epoch after so many steps.
        state: where to go on from.
    """
    ranks, position = [], dict[str, int | str]()
    for rank in range(world_size):
        sizes = {"batch_size": global_batch // world_size, "rank": rank, "world_size": world_size}
        with Loader(snapshot, schema, **{"seed": 7, "shuffle_rows": 100, **sizes, **settings}) as loader:
            if state is not None:
                loader.load_state_dict(state)
            steps: list[list[tuple[Any, ...]]] = []
            expected = loader.steps_left
            for batch in loader.epoch(epoch):
                steps.append(rows_of(batch))
                position = loader.state_dict()
                if len(steps) == stop_after:
                    break
            assert len(steps) == (stop_after or expected)
            ranks.append(steps)
    return ranks, position


def in_order(
    ranks: list[list[list[tuple[Any, ...]]]], first: int = 0, shards: int | None = None
) -> list[tuple[Any, ...]]:
    """All ranks' rows in the epoch's order: row n is the next one of rank (n % shards) % world_size."""
    world, rows, n = len(ranks), [], first
    shards = shards or world
    for step in zip(*ranks, strict=True):
        queues = [iter(part) for part in step]
        for n_in_step in range(n, n + sum(len(part) for part in step)):
            rows.append(next(queues[n_in_step % shards % world]))
        n += sum(len(part) for part in step)
    return rows
