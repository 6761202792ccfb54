"""Petastorm's workers -> batches: what `plan` says, in the order that it says, whatever order the workers finish in.

    a ventilator --row groups, numbered, a few ahead of their turn--> Petastorm's worker threads
      worker: one row group -> live rows, shuffled, checked, as numpy columns
    one thread a rank puts results back in order, cuts and joins them to batches, a few ahead of the trainer

Petastorm (Apache-2.0, https://github.com/uber/petastorm) streams, bounds the queues and owns the threads. Its readers,
their sharding and their shuffling are not used: see docs/loader.md.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from training.batch import Batch
from training.data.assembly import Assembly, Decoded, Epoch
from training.data.plan import IntArray
from training.data.pool import ThreadPool, Ventilator, WorkerBase

_BATCHES_AHEAD = 4
_GROUPS_AHEAD = 2  # for each worker
_STOP_CHECK_S = 0.1


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


class _Ventilator(Ventilator):  # type: ignore[misc]
    """Hands out an item when the turn of an earlier one has come, not when a worker has finished it.

    So no more row groups wait than may be ahead, even if the first of them is slow and the others are not. Petastorm's
    own ventilator looks for room every millisecond, in a thread; this one is told.
    """

    def __init__(self, ventilate: Callable[..., None], groups: Sequence[int], ahead: int) -> None:
        super().__init__(ventilate)
        self._left, self._ahead = deque(enumerate(groups)), ahead

    def start(self) -> None:
        for _ in range(self._ahead):
            self.taken()

    def taken(self) -> None:
        if self._left:
            number, group = self._left.popleft()
            self._ventilate_fn(number=number, group=group)

    def processed_item(self) -> None:
        return

    def completed(self) -> bool:
        return not self._left

    def stop(self) -> None:
        self._left.clear()


Change = Callable[[Iterator[tuple[Batch, IntArray]]], Generator[Batch]]


def _unchanged(batches: Iterator[tuple[Batch, IntArray]]) -> Generator[Batch]:
    yield from (batch for batch, _ in batches)


class Stream:
    """One epoch from a position: Petastorm's pool, and the thread that turns its results into batches."""

    def __init__(
        self,
        epoch: Epoch,
        rank: int,
        world_size: int,
        workers: int,
        *,
        position: int,
        batch_size: int,
        change: Change | None = None,
    ) -> None:
        shards = range(rank, epoch.plan.shards, world_size)
        work = _Work(epoch, threading.Event())
        self._assembly = Assembly(epoch, shards, position, batch_size * world_size)
        self._work, self._stopped = work, work.stopped
        self._change = change or _unchanged
        self._early: dict[int, _Result] = {}
        self._taken = 0
        self._batches: queue.Queue[Batch | BaseException] = queue.Queue(_BATCHES_AHEAD)
        self._pool = ThreadPool(workers)
        self._ventilator = _Ventilator(self._pool.ventilate, self._assembly.groups(), _GROUPS_AHEAD * workers)
        self._thread = threading.Thread(target=self._run, name=f"millrace-loader-{rank}", daemon=True)
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
            with closing(self._change(self._assembly.batches(self._next_group))) as batches:
                for batch in batches:
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
