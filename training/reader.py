"""Petastorm's workers -> batches: what `plan` says, in the order that it says, whatever order the workers finish in.

    Petastorm's ventilator --row groups, numbered, as far ahead as `prefetch`--> its worker threads
      worker: one row group -> live rows, shuffled, checked, as numpy columns
    one thread a rank puts results back in order, cuts and joins them to batches, a few ahead of the trainer

Petastorm (Apache-2.0, https://github.com/uber/petastorm) streams, bounds the queues and owns the threads. Its readers,
their sharding and their shuffling are not used: see docs/loader.md.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.ventilator import ConcurrentVentilator
from petastorm.workers_pool.worker_base import WorkerBase
from torch import Tensor

from training.assembly import Assembly, Decoded, Epoch
from training.batch import Batch, Ragged, Value, batch_size
from training.cache import Cache
from training.columns import check_type
from training.errors import CheckpointError, SchemaError, SettingsError, TableError
from training.held import reuse_memory
from training.plan import Plan, canonical_shards, steps
from training.schema import Schema
from training.snapshot import Snapshot

_BATCHES_AHEAD = 4
_GROUPS_AHEAD = 2  # for each worker
_VENTILATION_INTERVAL_S = 0.001
_STOP_CHECK_S = 0.1


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
        shards: int = 8,
        cache: Cache | None = None,
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
            shards: canonical shards; rounded up to a multiple of the world size.
            cache: keeps decoded row groups for later epochs; loaders may share one.

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
        reuse_memory()
        self.snapshot, self.schema = snapshot, schema
        self.rank, self.world_size, self.batch_size, self.workers = rank, world_size, batch_size, workers
        self.cache = cache
        self.stats = LoaderStats()
        self._plan = Plan(snapshot.groups.live, seed, canonical_shards(world_size, shards), shuffle_rows)
        self._own = self._plan
        self._epoch, self._position = 0, 0
        self._stream: _Stream | None = None

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
        """
        if epoch != self._epoch:
            self._epoch, self._position, self._plan = epoch, 0, self._own
        self.close()
        stream = self._stream = _Stream(self, self._plan, epoch, self._position)
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

    def _batches(self, stream: _Stream) -> Iterator[Batch]:
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


class _Result(NamedTuple):
    number: int
    decoded: Decoded | None
    error: Exception | None


class _Work(NamedTuple):
    """What the workers of an epoch share."""

    epoch: Epoch
    stopped: threading.Event


class _Worker(WorkerBase):  # type: ignore[misc]
    """Reads the row group of one numbered item."""

    args: _Work

    def process(self, number: int, group: int) -> None:
        """Publish the row group, or what went wrong: Petastorm would print an error and give it out of order."""
        if self.args.stopped.is_set():
            self.publish_func(_Result(number, None, _ClosedError()))
            return
        try:
            result = _Result(number, self.args.epoch.decoded(group), None)
        except Exception as error:
            error.add_note(f"while reading {self.args.epoch.snapshot.describe(group)}")
            result = _Result(number, None, error)
        self.publish_func(result)


class _ClosedError(Exception):
    """The loader was closed while a worker was asked for a row group."""


class _Ventilator(ConcurrentVentilator):  # type: ignore[misc]
    """Counts an item as done when its turn came, not when a worker finished it.

    So no more row groups wait than the queue's size, even if the first of them is slow and the others are not.
    """

    def processed_item(self) -> None:
        return

    def taken(self) -> None:
        super().processed_item()


class _Stream:
    """One epoch from a position: Petastorm's pool, and the thread that turns its results into batches."""

    def __init__(self, loader: Loader, plan: Plan, epoch: int, position: int) -> None:
        shards = range(loader.rank, plan.shards, loader.world_size)
        work = _Work(Epoch(loader.snapshot, loader.schema, plan, epoch, loader.cache), threading.Event())
        self._assembly = Assembly(work.epoch, shards, position, loader.batch_size * loader.world_size)
        self._work, self._stopped = work, work.stopped
        self._early: dict[int, _Result] = {}
        self._taken = 0
        self._batches: queue.Queue[Batch | BaseException] = queue.Queue(_BATCHES_AHEAD)
        self._pool = ThreadPool(loader.workers)
        self._ventilator = _Ventilator(
            self._pool.ventilate,
            [{"number": number, "group": group} for number, group in enumerate(self._assembly.groups())],
            max_ventilation_queue_size=_GROUPS_AHEAD * loader.workers,
            ventilation_interval=_VENTILATION_INTERVAL_S,
        )
        self._thread = threading.Thread(target=self._run, name=f"millrace-loader-{loader.rank}", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch; raises what the reading thread or a worker raised."""
        found = self._batches.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Stop and join all threads; waits at most for the row groups that are being read."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._pool.start(_Worker, self._work, self._ventilator)
            for batch in self._assembly.batches(self._next_group):
                if not self._put(batch):
                    break
        except _ClosedError:
            return  # the trainer closed the loader, so nobody waits for a batch
        except BaseException as error:
            self._put(error)  # raised again in the trainer's thread
        finally:
            self._stopped.set()
            self._pool.stop()
            self._pool.join()

    def _put(self, item: Batch | BaseException) -> bool:
        """Wait for room; False when the loader was closed meanwhile."""
        while not self._stopped.is_set():
            try:
                self._batches.put(item, timeout=_STOP_CHECK_S)
            except queue.Full:
                continue
            return True
        return False

    def _next_group(self) -> Decoded:
        """The next row group in the plan's order, whatever order the workers finish in."""
        while self._taken not in self._early:
            result: _Result = self._pool.get_results()
            self._early[result.number] = result
        result = self._early.pop(self._taken)
        self._taken += 1
        self._ventilator.taken()
        if result.error is not None:
            raise result.error
        assert result.decoded is not None
        return result.decoded


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
