"""The plan is arithmetic: swept over tables, world sizes and positions without a file."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.plan import Block, Piece, Plan, canonical_shards, dealt, shard_rows, steps
from training.errors import SettingsError

TABLES = {
    "one row": [1],
    "one group": [1000],
    "equal groups": [100] * 24,
    "unequal groups": [3, 500, 1, 0, 77, 250, 250, 12],
    "fewer rows than shards": [2, 1, 2],
    "empty groups": [0, 40, 0, 0, 41],
}
WORLD_SIZES = (1, 2, 3, 4, 8)
tables = pytest.mark.parametrize("groups", TABLES.values(), ids=TABLES.keys())


def plan(groups: list[int], *, seed: int = 5, shards: int = 24, shuffle_rows: int = 240) -> Plan:
    return Plan(np.array(groups, np.int64), seed, shards, shuffle_rows)


def rows_of(piece: Piece) -> list[tuple[int, int]]:
    return [(piece.group, row) for row in range(piece.start, piece.stop)]


@tables
@pytest.mark.parametrize("shuffle_rows", [1, 240, 10**9])
def test_every_row_is_in_one_piece(groups: list[int], shuffle_rows: int) -> None:
    found = plan(groups, shuffle_rows=shuffle_rows)
    for epoch in range(3):
        rows = [row for block in found.blocks(epoch, range(24)) for piece in block.pieces for row in rows_of(piece)]
        assert sorted(rows) == [(group, row) for group, count in enumerate(groups) for row in range(count)]


@tables
def test_shards_are_equal_and_blocks_follow_each_other(groups: list[int]) -> None:
    found = plan(groups)
    for shard in range(24):
        blocks = list(found.blocks(0, [shard]))
        assert sum(block.rows for block in blocks) == shard_rows(sum(groups), 24, shard)
        assert [block.start for block in blocks] == [0, *np.cumsum([block.rows for block in blocks])][: len(blocks)]
    sizes = [shard_rows(sum(groups), 24, shard) for shard in range(24)]
    assert max(sizes) - min(sizes) <= 1


def test_shards_meet_at_the_groups_that_their_borders_cut() -> None:
    found = plan([90] * 50, shards=8, shuffle_rows=8)
    pieces = [[piece for block in found.blocks(0, [shard]) for piece in block.pieces] for shard in range(8)]
    for shard in range(7):
        end = 0 if shard % 2 else -1  # both begin there, or both end there
        assert pieces[shard][end].group == pieces[shard + 1][end].group


@tables
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_steps_deal_every_row_once_and_evenly(groups: list[int], world_size: int, batch: int) -> None:
    total, seen = sum(groups), list[int]()
    count = steps(total, 0, batch * world_size)
    for step in range(count):
        start, stop = step * batch * world_size, min(total, (step + 1) * batch * world_size)
        by_rank = []
        for rank in range(world_size):
            shards = range(rank, 24, world_size)
            rows = [i * 24 + s for s in shards for i in range(dealt(start, 24, s), dealt(stop, 24, s))]
            by_rank.append(len(rows))
            seen += rows
        assert sum(by_rank) == stop - start
        assert stop == total or set(by_rank) == {batch}
    assert sorted(seen) == list(range(total))


def test_steps_from_a_position_at_another_global_batch() -> None:
    assert [steps(100, 30, 8), steps(100, 92, 8), steps(100, 100, 8)] == [9, 1, 0]


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[Block]:
        return list(plan([50] * 20, seed=seed).blocks(epoch, range(24)))

    assert order(5, 1) == order(5, 1)
    assert order(5, 1) != order(5, 2)
    assert order(5, 1) != order(6, 1)
    assert order(0, 0) != order(1, 0)
    assert order(-1, 0) != order(1, 0)
    assert not np.array_equal(plan([9]).row_order(0, 0, 100), plan([9]).row_order(1, 0, 100))


def test_a_mix_takes_all_rows_of_each_piece_in_random_order() -> None:
    found = plan([100] * 50, shards=2, shuffle_rows=2000)
    block = max(found.blocks(0, [1]), key=lambda block: len(block.pieces))
    mix = found.mix(0, block)
    assert mix is not None
    assert np.bincount(mix).tolist() == [piece.rows for piece in block.pieces]
    runs = 1 + np.count_nonzero(np.diff(mix))
    expected = block.rows * (1 - 1 / len(block.pieces))
    assert abs(runs - expected) < 5 * np.sqrt(block.rows)
    assert found.mix(0, Block(0, 0, (Piece(0, 0, 10),))) is None


def test_window_holds_the_rows_asked_for() -> None:
    blocks = list(plan([100] * 960, shards=8, shuffle_rows=8000).blocks(0, [3]))
    assert blocks[0].rows < 700  # the first one is short, so that the shards do not all ask at once
    assert {1000 <= block.rows <= 1100 for block in blocks[1:-1]} == {True}


def test_shards_are_a_multiple_of_the_world_size() -> None:
    assert [canonical_shards(world, 8) for world in (1, 2, 3, 4, 8, 12)] == [8, 8, 9, 8, 8, 12]
    with pytest.raises(SettingsError, match="at least 1; got 0 and 8"):
        canonical_shards(0, 8)
