"""Who reads what, when: pure arithmetic over row counts. No files, no threads, no torch.

The rows of a table version are dealt to a fixed number of *canonical shards*, whatever the number of ranks:

    row groups, permuted by (seed, epoch)   | g7 | g2 | g9 | g0 | g4 | ...
    cut into equal shards of rows           |  shard 0->|<-shard 1  |  shard 2->...
    a shard is cut into blocks of pieces    a piece is a range of one row group's shuffled rows
    a block's pieces are mixed row by row   each row of the block is equally likely at each place

Row n of the epoch is row n // shards of shard n % shards. A step takes the next `batch_size * world_size` rows, and
rank r serves the shards s with s % world_size == r. So step k holds the same rows in the same order at every world
size, each row occurs once, all ranks take the same number of steps, and a position is one integer: the rows dealt.

Only the last step of an epoch is smaller than the others; a rank's part of it may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.errors import SettingsError

IntArray = NDArray[np.int64]
Mix = NDArray[np.uint16]

# Separate random streams for each use of one (seed, epoch).
_GROUPS, _ROWS, _MIX = 0, 1, 2


class Piece(NamedTuple):
    """Rows [start, stop) of a row group's live rows, in the epoch's shuffled order."""

    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Consecutive pieces of a shard whose rows are mixed with each other.

    Attributes:
        shard: the canonical shard.
        start: rows of the shard before this block.
        pieces: what it is made of.
    """

    shard: int
    start: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


@dataclass(frozen=True)
class Plan:
    """The order of every epoch of one snapshot.

    Attributes:
        group_rows: (groups,) live rows of each row group.
        seed: any integer; with the epoch it decides every permutation.
        shards: canonical shards; the same number gives the same order at any world size.
        shuffle_rows: rows, over all shards, that are mixed with each other. A shard mixes at least one row group.
    """

    group_rows: IntArray
    seed: int
    shards: int
    shuffle_rows: int

    @property
    def rows(self) -> int:
        return int(self.group_rows.sum())

    def group_order(self, epoch: int) -> IntArray:
        """Row groups that hold live rows, in the order of an epoch."""
        order: IntArray = self._random(_GROUPS, epoch, 0).permutation(len(self.group_rows))
        return order[np.take(self.group_rows, order) > 0]

    def row_order(self, epoch: int, group: int, rows: int | IntArray) -> IntArray:
        """Permutation of a row group's live rows: their numbers, or how many they are where none is deleted."""
        return self._random(_ROWS, epoch, group).permutation(rows)

    def blocks(self, epoch: int, shards: Sequence[int]) -> Iterator[Block]:
        """The blocks of some shards, each shard's in its order."""
        order = self.group_order(epoch)
        ends = np.cumsum(self.group_rows[order])
        bounds = np.concatenate([[0], np.cumsum([shard_rows(self.rows, self.shards, s) for s in range(self.shards)])])
        for shard in shards:
            pieces = _pieces(order, ends, int(bounds[shard]), int(bounds[shard + 1]))
            # Every second shard goes backwards: neighbours then meet at the row group that their border cuts, in time
            # too, and a rank that serves both reads it once.
            yield from self._shard_blocks(shard, pieces[::-1] if shard % 2 else pieces)

    def mix(self, epoch: int, block: Block) -> Mix | None:
        """For each row of a block the piece that it comes from; None where the block has one piece.

        Each piece's rows are shuffled already, so a random interleaving of them is a uniform shuffle of the block.
        """
        if len(block.pieces) == 1:
            return None
        numbers = np.repeat(np.arange(len(block.pieces), dtype=np.uint16), [piece.rows for piece in block.pieces])
        return self._random(_MIX, epoch, block.shard, block.start).permutation(numbers)

    def _shard_blocks(self, shard: int, pieces: list[Piece]) -> Iterator[Block]:
        size = max(1, -(-self.shuffle_rows // self.shards))
        # The first block is shorter in the earlier shards, so that the shards do not all ask for new rows at once.
        target = max(1, size * (shard + 1) // self.shards)
        start, rows, chosen = 0, 0, list[Piece]()
        for piece in pieces:
            chosen.append(piece)
            rows += piece.rows
            if rows >= target or len(chosen) == np.iinfo(np.uint16).max:
                yield Block(shard, start, tuple(chosen))
                start, rows, chosen, target = start + rows, 0, [], size
        if chosen:
            yield Block(shard, start, tuple(chosen))

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**64, *stream])


def _pieces(order: IntArray, ends: IntArray, start: int, stop: int) -> list[Piece]:
    """The pieces that make rows [start, stop) of the permuted row groups; `ends` are their cumulative row counts."""
    pieces, position = [], start
    index = int(np.searchsorted(ends, start, side="right"))
    while position < stop:
        end = int(ends[index])
        begin = int(ends[index - 1]) if index else 0
        pieces.append(Piece(int(order[index]), position - begin, min(end, stop) - begin))
        position, index = min(end, stop), index + 1
    return pieces


def canonical_shards(world_size: int, wanted: int) -> int:
    """Smallest multiple of the world size that is at least `wanted`.

    Every rank then serves as many shards as any other, and each batch has its full size.

    Raises:
        SettingsError: a number is not positive.
    """
    if world_size < 1 or wanted < 1:
        raise SettingsError(f"world_size and shards must be at least 1; got {world_size} and {wanted}")
    return -(-wanted // world_size) * world_size


def shard_rows(rows: int, shards: int, shard: int) -> int:
    """Rows of a shard: those n in [0, rows) with n % shards == shard."""
    return dealt(rows, shards, shard)


def dealt(position: int, shards: int, shard: int) -> int:
    """How many of the first `position` rows of an epoch came from a shard."""
    return (position + shards - 1 - shard) // shards


def steps(rows: int, position: int, global_batch: int) -> int:
    """Steps from a position to the end of the epoch; the same on every rank."""
    return -(-(rows - position) // global_batch)
