"""The loader's contract: batches of one rank, a position to go on from, and figures of what was delivered.

What is read is `snapshot`'s, in which order is `plan`'s, and how it streams `reader`'s, all in this folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from torch import Tensor

from training.batch import Batch, Ragged, Value, batch_size
from training.data.assembly import Epoch, bytes_per_row
from training.data.cache import Cache
from training.data.columns import check_type
from training.data.memory import reuse_memory
from training.data.plan import Plan, canonical_shards, steps
from training.data.reader import Stream
from training.data.snapshot import Snapshot
from training.data.transform import Transform, transformed
from training.errors import CheckpointError, SchemaError, SettingsError, TableError
from training.schema import Schema
from training.settings import step_seed


@dataclass
class LoaderStats:
    """What a loader has delivered since it was made.

    Attributes:
        rows: rows delivered to the trainer.
        bytes: bytes of their columns.
        wait_s: seconds the trainer waited for batches.
        seconds: seconds from the first batch asked for to the last delivered, epochs only.
    """

    rows: int = 0
    bytes: int = 0
    wait_s: float = 0.0
    seconds: float = 0.0

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time that the trainer waited for the loader, 0 to 1."""
        return self.wait_s / self.seconds if self.seconds else 0.0


class Loader:
    """Batches of one rank from a pinned table version.

    Every live row once an epoch over all ranks; the same number of steps on every rank; step k of an epoch holds the
    same rows at every world size that divides `shards` (8 by default: 1, 2, 4, 8). Only the last step is smaller than
    the others, and a rank's part of it may be empty (batch size 0): a model must bear that.

    Not safe for use by two threads at once.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        schema: Schema,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        shuffle_rows: int = 262_144,
        shuffle_mb: float | None = None,
        shards: int = 8,
        cache: Cache | None = None,
        transform: Transform | None = None,
    ) -> None:
        """Check the schema against the table and plan the first epoch.

        Args:
            snapshot: from `open_snapshot`.
            schema: the columns to deliver.
            batch_size: rows a step on this rank.
            seed: with the epoch it decides the order.
            rank: this process, from 0.
            world_size: number of processes.
            workers: threads that read and decode.
            shuffle_rows: rows, over all ranks, that are mixed with each other at a time. Each shard mixes at least one
                row group, so the memory is at least that of `shards / world_size` row groups a rank.
            shuffle_mb: what these rows may take at most, MB (10**6 bytes) over all ranks, as three row groups of the
                table tell it; None: what they take.
            shards: canonical shards; rounded up to a multiple of the world size.
            cache: keeps decoded row groups for later epochs; loaders may share one.
            transform: changes each batch, in `workers` threads of its own (training/data/transform.py).

        Raises:
            SchemaError: a column is missing or of the wrong type.
            SettingsError: a number is out of range.
            TableError: the table has no rows.
        """
        _check_settings(batch_size=batch_size, workers=workers, shuffle_rows=shuffle_rows, world_size=world_size)
        if not 0 <= rank < world_size:
            raise SettingsError(f"rank must lie in [0, {world_size}), the world size; got {rank}")
        _check_schema(snapshot, schema)
        if snapshot.rows == 0:
            raise TableError(
                f"version {snapshot.version} of table '{snapshot.uri}' has no rows to train on. "
                "Build it first, or widen the partitions that are read"
            )
        if shuffle_mb is not None:
            if not shuffle_mb > 0:
                raise SettingsError(f"shuffle_mb must be above 0; got {shuffle_mb}; None leaves it to shuffle_rows")
            shuffle_rows = max(1, min(shuffle_rows, int(1e6 * shuffle_mb / bytes_per_row(snapshot, schema, cache))))
        reuse_memory()
        self.snapshot, self.schema = snapshot, schema
        self.rank, self.world_size, self.batch_size, self.workers = rank, world_size, batch_size, workers
        self.cache, self.transform = cache, transform
        self.stats = LoaderStats()
        self._plan = Plan(snapshot.groups.live, seed, canonical_shards(world_size, shards), shuffle_rows)
        self._own = self._plan
        self._epoch, self._position = 0, 0
        self._stream: Stream | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch; the same on every rank."""
        return steps(self.snapshot.rows, 0, self.batch_size * self.world_size)

    @property
    def steps_left(self) -> int:
        """Steps from the position to the end of its epoch; the same on every rank."""
        return steps(self.snapshot.rows, self._position, self.batch_size * self.world_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch; from the loaded position where that lies in this epoch.

        Raises:
            SnapshotError: a file is gone or cannot be read.
            SchemaError: a value that the schema forbids.
            DataError: the transform gave more rows than it got.
        """
        if epoch != self._epoch:
            self._epoch, self._position, self._plan = epoch, 0, self._own
        self.close()
        change = None
        if self.transform is not None:
            seed = step_seed(self._plan.seed, epoch)
            change = partial(transformed, transform=self.transform, seed=seed, threads=self.workers)
        rows = Epoch(self.snapshot, self.schema, self._plan, epoch, self.cache, numbered=change is not None)
        stream = self._stream = Stream(
            rows,
            self.rank,
            self.world_size,
            self.workers,
            position=self._position,
            batch_size=self.batch_size,
            change=change,
        )
        try:
            yield from self._batches(stream)
        finally:
            stream.close()

    def state_dict(self) -> dict[str, int | str]:
        """The position after the last batch that was delivered, and what decides the order; JSON-safe."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._plan.seed,
            "shards": self._plan.shards,
            "shuffle_rows": self._plan.shuffle_rows,
            "fingerprint": self.snapshot.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go on from a position, at any world size and batch size.

        The rest of that epoch keeps the shards it began with, so that no row is repeated or skipped. Where the world
        size does not divide them, ranks' batches differ in size until the epoch ends.

        Raises:
            CheckpointError: the state is of another snapshot, or of another seed.
        """
        mine = {"seed": self._own.seed, "fingerprint": self.snapshot.fingerprint}
        for name, value in mine.items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"the loader's position has {name} {state.get(name)!r}, this loader {value!r}; a position is of "
                    "one table version and one seed. Open that version with that seed, or start anew"
                )
        self.close()
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._plan = Plan(self._own.group_rows, self._own.seed, int(state["shards"]), int(state["shuffle_rows"]))

    def close(self) -> None:
        """Stop the threads of an epoch that was left before its end."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batches(self, stream: Stream) -> Iterator[Batch]:
        """Deliver, count, and keep the position of what was delivered."""
        epoch, rows = self._epoch, self.snapshot.rows
        asked = time.perf_counter()
        while self._position < rows:
            before = time.perf_counter()
            batch = stream.next()
            now = time.perf_counter()
            self.stats.wait_s += now - before
            self.stats.seconds += now - asked
            asked = now
            self.stats.rows += batch_size(batch)
            self.stats.bytes += sum(_nbytes(value) for value in batch.values())
            self._position = min(rows, self._position + self.batch_size * self.world_size)
            yield batch
        self._epoch, self._position, self._plan = epoch + 1, 0, self._own


def _check_schema(snapshot: Snapshot, schema: Schema) -> None:
    missing = [name for name in schema.names if name not in snapshot.schema.names]
    if missing:
        raise SchemaError(
            f"table '{snapshot.uri}' lacks the schema's columns {', '.join(missing)}; "
            f"version {snapshot.version} has: {', '.join(snapshot.schema.names)}. Build the table again"
        )
    for column in schema:
        check_type(column, snapshot.schema.field(column.name).type)


def _check_settings(**numbers: int) -> None:
    wrong = {name: value for name, value in numbers.items() if value < 1}
    if wrong:
        raise SettingsError("; ".join(f"{name} must be at least 1, got {value}" for name, value in wrong.items()))


def _nbytes(value: Value) -> int:
    if isinstance(value, Ragged):
        return int(value.values.nbytes + value.offsets.nbytes)
    return int(value.nbytes) if isinstance(value, Tensor) else sum(len(item) for item in value)
