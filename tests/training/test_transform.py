"""A loader's transform gives each row the same in any batch, order is kept, and what it does wrong is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties, write_deltalake
from torch import Tensor

from tests.training.streams import in_order, ranks_epoch
from training.batch import Batch, Padded, Ragged, batch_size, padded
from training.data.loader import Loader
from training.data.plan import IntArray
from training.data.snapshot import Snapshot, open_snapshot
from training.errors import DataError
from training.hashes import uniform
from training.schema import Column, Kind, Schema

ROWS = 403
SCHEMA = Schema(
    (
        Column("id", Kind.ID, "ids", ROWS),
        Column("history", Kind.IDS, "ids", ROWS),
        Column("target", Kind.LABEL, length=2),
        Column("known", Kind.WEIGHT, length=2),
    )
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = tmp_path_factory.mktemp("transform") / "t"
    for start, stop in ((0, 100), (100, 107), (107, ROWS)):
        ids = range(start, stop)
        table = pa.table(
            {
                "id": pa.array(ids, pa.int64()),
                "history": pa.array([list(range(i % 5)) for i in ids], pa.list_(pa.int64())),
                "target": pa.array([[i, i / 2] for i in ids], pa.list_(pa.float64())),
                "known": pa.array([[1, i % 2] for i in ids], pa.list_(pa.float32())),
            }
        )
        write_deltalake(path, table, mode="append", writer_properties=WriterProperties(max_row_group_size=64))
    return open_snapshot(str(path))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def masking(batch: Batch, rows: IntArray, seed: int) -> Batch:
    """Half of the targets masked, by draws of the row; and the draws and row numbers themselves; slow now and then."""
    draws = torch.from_numpy(uniform(rows, seed, 2))
    time.sleep(0.002 * (len(rows) and int(rows[0]) % 3))
    target = batch["target"]
    assert isinstance(target, Tensor)
    masked = torch.where(draws < 0.5, -1.0, target)
    return {"id": batch["id"], "row": torch.from_numpy(rows), "target": masked, "draws": draws}


def epoch(snapshot: Snapshot, world_size: int = 1, **settings: Any) -> list[tuple[Any, ...]]:
    return in_order(ranks_epoch(snapshot, SCHEMA, world_size=world_size, transform=masking, shards=24, **settings)[0])


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_a_row_is_changed_alike_at_any_world_size_in_the_same_order(snapshot: Snapshot, world_size: int) -> None:
    alone = epoch(snapshot)
    assert sorted(id for id, *_ in alone) == list(range(ROWS))
    assert epoch(snapshot, world_size, workers=4) == alone
    plain = in_order(ranks_epoch(snapshot, SCHEMA, world_size=1, shards=24)[0])
    assert [id for id, *_ in alone] == [id for id, *_ in plain]


def test_row_numbers_are_the_tables_whatever_the_order(snapshot: Snapshot) -> None:
    numbers = {id: row for id, row, *_ in epoch(snapshot)}
    assert sorted(numbers.values()) == list(range(ROWS))
    for other in (epoch(snapshot, epoch=1), epoch(snapshot, seed=9), epoch(snapshot, shuffle_rows=1)):
        assert {id: row for id, row, *_ in other} == numbers
    for start, stop in ((0, 100), (100, 107), (107, ROWS)):  # in a file they follow each other
        assert [numbers[id] - numbers[start] for id in range(start, stop)] == list(range(stop - start))


def test_draws_are_of_seed_epoch_and_row(snapshot: Snapshot) -> None:
    first = {row[0]: row[2:] for row in epoch(snapshot)}
    assert {row[0]: row[2:] for row in epoch(snapshot, shuffle_rows=1, batch_size=5)} == first
    for other in (epoch(snapshot, epoch=1), epoch(snapshot, seed=9)):
        found = {row[0]: row[2:] for row in other}
        assert sum(found[id] == first[id] for id in found) < 0.4 * ROWS


def test_a_resume_changes_nothing(snapshot: Snapshot) -> None:
    with Loader(snapshot, SCHEMA, batch_size=16, seed=7, transform=masking) as loader:
        whole = [batch["draws"] for batch in loader.epoch(0)]
        for taken, _ in enumerate(loader.epoch(1)):
            state = loader.state_dict()
            if taken == 4:
                break
    with Loader(snapshot, SCHEMA, batch_size=16, seed=7, transform=masking) as loader:
        again = [batch["draws"] for batch in loader.epoch(1)][5:]
        loader.load_state_dict(state)
        rest = [batch["draws"] for batch in loader.epoch(1)]
    assert len(whole) == 26
    assert all(torch.equal(one, other) for one, other in zip(rest, again, strict=True))  # type: ignore[arg-type]


def test_lists_of_steps_reach_the_batch(snapshot: Snapshot) -> None:
    with Loader(snapshot, SCHEMA, batch_size=ROWS, seed=7) as loader:
        [batch] = loader.epoch(0)
    ids, target, known = (batch[name] for name in ("id", "target", "known"))
    assert isinstance(ids, Tensor)
    assert torch.equal(target, torch.stack([ids, ids / 2], 1))  # type: ignore[arg-type]
    assert torch.equal(known, torch.stack([torch.ones(ROWS), (ids % 2).float()], 1))  # type: ignore[arg-type]


def test_ranks_without_rows_have_the_transforms_columns(snapshot: Snapshot) -> None:
    with Loader(snapshot, SCHEMA, batch_size=50, seed=7, rank=7, world_size=8, transform=masking) as loader:
        *_, last = loader.epoch(0)
    assert list(last) == ["id", "row", "target", "draws"]
    assert (batch_size(last), last["draws"].shape) == (0, (0, 2))  # type: ignore[union-attr]


def test_what_a_transform_does_wrong_is_named(snapshot: Snapshot) -> None:
    def doubling(batch: Batch, rows: IntArray, seed: int) -> Batch:
        return {"id": torch.cat([batch["id"]] * 2)}  # type: ignore[list-item]

    def failing(batch: Batch, rows: IntArray, seed: int) -> Batch:
        raise ValueError("planted")

    with (
        Loader(snapshot, SCHEMA, batch_size=16, seed=7, transform=doubling) as loader,
        pytest.raises(DataError, match=r"as many rows as it gets, 16, or fewer; .*doubling gave 32; add"),
    ):
        next(loader.epoch(0))
    with (
        Loader(snapshot, SCHEMA, batch_size=16, seed=7, transform=failing) as loader,
        pytest.raises(ValueError, match="planted") as caught,
    ):
        next(loader.epoch(0))
    assert (
        "in the loader's transform test_what_a_transform_does_wrong_is_named.<locals>.failing" in caught.value.__notes__
    )


def test_an_epoch_that_is_left_stops_its_threads(snapshot: Snapshot) -> None:
    loader = Loader(snapshot, SCHEMA, batch_size=4, seed=7, transform=masking, workers=3)
    next(loader.epoch(0))
    loader.close()


def test_uniform_numbers_are_uniform_and_of_their_row() -> None:
    rows = np.arange(20_000)
    draws = uniform(rows, 3, 4)
    assert abs(draws.mean() - 0.5) < 0.01
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
    assert np.array_equal(uniform(rows[::-3], 3, 2), draws[::-3, :2])
    assert not np.isin(uniform(rows, 4), draws).any()
    assert 0 <= draws.min() < draws.max() < 1


def test_padded_keeps_the_last_elements() -> None:
    lists = Ragged(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([0, 4, 4, 6]))
    found = padded(lists, 3, fill=-1)
    assert found.values.tolist() == [[2, 3, 4], [-1, -1, -1], [5, 6, -1]]
    assert found.there.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    none: Padded = padded(Ragged(torch.zeros(0), torch.zeros(3, dtype=torch.int64)), 2, fill=0.5)
    assert none.values.tolist() == [[0.5, 0.5]] * 2
    assert padded(Ragged(torch.zeros(0), torch.zeros(1, dtype=torch.int64)), 2).values.shape == (0, 2)
