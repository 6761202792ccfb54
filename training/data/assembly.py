"""Shuffled row groups -> batches: what a rank holds of an epoch, and how its rows come out in the plan's order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from training.batch import Batch
from training.data.cache import Cache
from training.data.columns import empty, held_together, hold
from training.data.held import Arrangement, Cut, Held, join
from training.data.plan import Block, IntArray, Mix, Plan, dealt
from training.data.snapshot import Snapshot
from training.schema import Column, Schema

_NO_ROWS = np.zeros(0, np.int64)


class Decoded:
    """A row group's live rows in the epoch's order, while some shard of this rank still reads them."""

    def __init__(self, held: list[Held], numbers: IntArray | None = None) -> None:
        self.held = held  # in the order of `Epoch.together`
        self.numbers = numbers  # of the rows, in the table version; None where nobody asks for them


@dataclass(frozen=True)
class Epoch:
    """Decodes the row groups of one epoch; used by several threads.

    A row group that two shards of this rank need at the same time is read once: it is kept, by weak reference, for as
    long as one of them holds it.
    """

    snapshot: Snapshot
    schema: Schema
    plan: Plan
    number: int
    cache: Cache | None = None
    numbered: bool = False
    together: list[tuple[Column, ...]] = field(init=False)
    _alive: WeakValueDictionary[int, Decoded] = field(default_factory=WeakValueDictionary)
    _locks: dict[int, threading.Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "together", held_together(self.schema))

    def decoded(self, group: int) -> Decoded:
        """A row group, read, shuffled and checked.

        Raises:
            SnapshotError: its file is gone or cannot be read.
            SchemaError: it holds a value that the schema forbids.
        """
        with self._locks.setdefault(group, threading.Lock()):
            found = self._alive.get(group)
            if found is None:
                found = self._alive[group] = self._decode(group)
            return found

    def _decode(self, group: int) -> Decoded:
        names = self.schema.names
        arrays = self.cache.read(self.snapshot, group, names) if self.cache else self.snapshot.read_group(group, names)
        groups = self.snapshot.groups
        whole = groups.live[group] == groups.rows[group]
        live = int(groups.rows[group]) if whole else self.snapshot.live_rows(group)
        order = self.plan.row_order(self.number, group, live)
        where = self.snapshot.describe(group)
        numbers = order + int(groups.rows[:group].sum()) if self.numbered else None
        return Decoded([hold(columns, arrays, order, where) for columns in self.together], numbers)


def bytes_per_row(snapshot: Snapshot, schema: Schema, cache: Cache | None = None) -> float:
    """Bytes that a row takes while it waits in a window: the mean over the first, the middle and the last row group.

    The same on every rank, which reads them all.

    Raises:
        SnapshotError: a file is gone or cannot be read.
        SchemaError: one of them holds a value that the schema forbids.
    """
    groups = np.flatnonzero(snapshot.groups.live)
    epoch = Epoch(snapshot, schema, Plan(snapshot.groups.live, 0, 1, 1), 0, cache)
    chosen = [int(groups[place]) for place in sorted({0, len(groups) // 2, len(groups) - 1})]
    held = sum(one.nbytes for group in chosen for one in epoch.decoded(group).held)
    return held / int(snapshot.groups.live[chosen].sum())


class Part(NamedTuple):
    """Consecutive rows of a piece that go to one batch.

    Attributes:
        of: the row group.
        start: first of the rows there.
        stop: one past the last.
        shard: the shard that they come from.
        first: row number, in the shard, of the first.
        rows: their row numbers in the shard, where rows of other pieces stand between them, else None.
    """

    of: Decoded
    start: int
    stop: int
    shard: int
    first: int
    rows: IntArray | None

    def numbers(self, shards: int) -> IntArray:
        """Row numbers in the epoch."""
        rows = np.arange(self.first, self.first + self.stop - self.start) if self.rows is None else self.rows
        return rows * shards + self.shard


class Cursor:
    """One shard: the blocks that were loaded for it, and how far they are read."""

    def __init__(self, shard: int, epoch: Epoch) -> None:
        self.shard, self._epoch = shard, epoch
        self._waiting: deque[tuple[Block, list[Decoded | None]]] = deque()
        self._mix: Mix | None = None
        self._used: IntArray | None = None

    def add(self, block: Block, decoded: list[Decoded | None]) -> None:
        """Append a block and the row group of each of its pieces."""
        self._waiting.append((block, decoded))

    def take(self, start: int, stop: int) -> Iterator[Part]:
        """Rows [start, stop) of the shard; each call goes on where the one before ended."""
        while start < stop:
            block, decoded = self._waiting[0]
            end = min(stop, block.start + block.rows)
            yield from self._from_block(block, decoded, start - block.start, end - block.start)
            if end == block.start + block.rows:
                self._waiting.popleft()
                self._mix = self._used = None
            start = end

    def _from_block(self, block: Block, decoded: list[Decoded | None], start: int, stop: int) -> Iterator[Part]:
        plan = self._epoch.plan
        if self._used is None:
            self._mix = plan.mix(self._epoch.number, block)
            self._used = _used(self._mix, block, start)
        for number, rows in self._dealt(start, stop):
            piece, held = block.pieces[number], decoded[number]
            assert held is not None
            count = stop - start if rows is None else len(rows)
            first = piece.start + int(self._used[number])
            self._used[number] += count
            row = block.start + (start if rows is None else int(rows[0]))
            yield Part(held, first, first + count, self.shard, row, None if rows is None else rows + block.start)
            if self._used[number] == piece.rows:
                decoded[number] = None  # read to its end: free it before the block ends

    def _dealt(self, start: int, stop: int) -> Iterator[tuple[int, IntArray | None]]:
        """Rows [start, stop) of the block by the piece that each comes from; None is all of them."""
        if self._mix is None:
            yield 0, None
            return
        pieces = self._mix[start:stop]
        for number in np.flatnonzero(np.bincount(pieces)):
            yield int(number), np.flatnonzero(pieces == number) + start


class Assembly:
    """A rank's batches of one epoch, from a position on."""

    def __init__(self, epoch: Epoch, shards: range, position: int, global_batch: int) -> None:
        self._epoch, self._position, self._global_batch = epoch, position, global_batch
        self._cursors = {shard: Cursor(shard, epoch) for shard in shards}
        self._blocks = deque(_by_need(epoch.plan, epoch.number, shards, position))

    def groups(self) -> list[int]:
        """The row groups to read, in the order in which `batches` asks for them."""
        return [piece.group for _, block in self._blocks for piece in block.pieces]

    def batches(self, next_group: Callable[[], Decoded]) -> Iterator[tuple[Batch, IntArray]]:
        """Every batch to the end of the epoch, and its rows' numbers in the table version, where the epoch is numbered.

        Args:
            next_group: gives the row groups that `groups` names, one after the other.
        """
        rows = self._epoch.plan.rows
        for start in range(self._position, rows, self._global_batch):
            stop = min(rows, start + self._global_batch)
            while self._blocks and self._blocks[0][0] < stop:
                _, block = self._blocks.popleft()
                self._cursors[block.shard].add(block, [next_group() for _ in block.pieces])
            yield self._batch(start, stop)

    def _batch(self, start: int, stop: int) -> tuple[Batch, IntArray]:
        shards, parts = self._epoch.plan.shards, list[Part]()
        for shard, cursor in self._cursors.items():
            parts.extend(cursor.take(dealt(start, shards, shard), dealt(stop, shards, shard)))
        if not parts:
            return {column.name: empty(column) for column in self._epoch.schema}, _NO_ROWS
        arrangement = _arranged(parts, len(self._cursors), shards)
        found: Batch = {}
        for number, columns in enumerate(self._epoch.together):
            values = join([Cut(part.of.held[number], part.start, part.stop) for part in parts], arrangement)
            found.update(zip([column.name for column in columns], values, strict=True))
        numbers = [part.of.numbers[part.start : part.stop] for part in parts if part.of.numbers is not None]
        rows = np.concatenate(numbers)[arrangement.order] if numbers else _NO_ROWS
        return {name: found[name] for name in self._epoch.schema.names}, rows


def _arranged(parts: list[Part], own: int, shards: int) -> Arrangement:
    """The batch in the order of the epoch's row numbers; `own` of the shards are this rank's."""
    if any(part.rows is not None for part in parts) or not len({part.shard for part in parts}) == len(parts) == own:
        return Arrangement.by_order(np.argsort(np.concatenate([part.numbers(shards) for part in parts])))
    # One part a shard, and shards take turns: each part fills every `own`-th row of the batch.
    turns = sorted(range(own), key=lambda number: parts[number].first * shards + parts[number].shard)
    places = [slice(turns.index(number), None, own) for number in range(own)]
    return Arrangement.by_places(places, [part.stop - part.start for part in parts])


def _used(mix: Mix | None, block: Block, start: int) -> IntArray:
    """Rows of each piece among the first `start` rows of a block."""
    if mix is None:
        return np.array([start])
    return np.bincount(mix[:start], minlength=len(block.pieces)).astype(np.int64)


def _by_need(plan: Plan, epoch: int, shards: range, position: int) -> list[tuple[int, Block]]:
    """Blocks that the position has not passed and the epoch's row number that first needs each, in that order."""
    needed = []
    for block in plan.blocks(epoch, shards):
        if block.start + block.rows > dealt(position, plan.shards, block.shard):
            needed.append((max(position, block.start * plan.shards + block.shard), block))
    return sorted(needed, key=lambda found: found[0])
