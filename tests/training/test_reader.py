"""The loader's contract on small tables: each row once, equal steps, one order, resume anywhere, named errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties, write_deltalake

from tests.training.streams import WORLD_SIZES, in_order, ranks_epoch, rows_of
from training.batch import Ragged, batch_size, to_device
from training.data.loader import Loader
from training.data.snapshot import Snapshot, open_snapshot, read_table
from training.errors import CheckpointError, SchemaError, SettingsError, SnapshotError, TableError
from training.schema import Column, Kind, Schema

BIG = 2**53 + 1
ROWS = 1003
SCHEMA = Schema(
    (
        Column("id", Kind.ID, "ids", 2**62),
        Column("history", Kind.IDS, "ids", 2**62),
        Column("ages", Kind.DENSE, ragged=True),
        Column("pair", Kind.DENSE, length=2),
        Column("label", Kind.LABEL),
        Column("name", Kind.TEXT),
        Column("picture", Kind.IMAGE),
    )
)
ID = Schema((SCHEMA["id"],))


def rows(start: int, stop: int) -> pa.Table:
    ids = range(start, stop)
    return pa.table(
        {
            "id": pa.array([BIG + i for i in ids]),
            "history": pa.array([[BIG + i + k for k in range(i % 4)] for i in ids], pa.list_(pa.int64())),
            "ages": pa.array([[i + k / 2 for k in range(i % 3)] for i in ids], pa.list_(pa.float32())),
            "pair": pa.array([[i, -i] for i in ids], pa.list_(pa.float64())),
            "label": pa.array([i % 2 == 0 for i in ids]),
            "name": pa.array([f"n{i}" for i in ids]),
            "picture": pa.array([bytes([i % 256]) for i in ids]),
        }
    )


def expected(i: int) -> tuple[Any, ...]:
    history, ages = [BIG + i + k for k in range(i % 4)], [i + k / 2 for k in range(i % 3)]
    return BIG + i, history, ages, [i, -i], float(i % 2 == 0), f"n{i}", bytes([i % 256])


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """1,003 rows in seven files of unequal size and thirteen row groups."""
    path, start = tmp_path_factory.mktemp("reader") / "t", 0
    for count in (100, 7, 250, 1, 333, 200, 112):
        properties = WriterProperties(max_row_group_size=90)
        write_deltalake(path, rows(start, start + count), mode="append", writer_properties=properties)
        start += count
    return open_snapshot(str(path))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("shuffle_rows", [1, 10_000])
def test_each_row_once_with_equal_steps_in_the_same_order(
    snapshot: Snapshot, world_size: int, shuffle_rows: int
) -> None:
    settings = {"shards": 24, "shuffle_rows": shuffle_rows, "epoch": 2}
    ranks, _ = ranks_epoch(snapshot, SCHEMA, world_size=world_size, **settings)
    assert {len(steps) for steps in ranks} == {-(-ROWS // 24)}
    assert {len(rows) for steps in ranks for rows in steps[:-1]} == {24 // world_size}
    found = in_order(ranks)
    assert sorted(found) == [expected(i) for i in range(ROWS)]
    alone, _ = ranks_epoch(snapshot, SCHEMA, world_size=1, **settings)
    assert found == in_order(alone)


def test_a_window_is_bounded_by_bytes_alike_on_all_ranks(snapshot: Snapshot) -> None:
    def window(schema: Schema = SCHEMA, **settings: Any) -> int:
        with Loader(snapshot, schema, batch_size=8, seed=7, **settings) as loader:
            return int(loader.state_dict()["shuffle_rows"])

    assert window(ID, shuffle_rows=500, shuffle_mb=0.0008) == 100  # 8 bytes an id
    assert window(ID, shuffle_rows=50, shuffle_mb=0.0008) == 50
    assert window(ID, shuffle_mb=1e-9) == 1
    pair = Schema((SCHEMA["id"], SCHEMA["pair"]))
    assert window(pair, shuffle_mb=0.0016) == 100
    a_list = Schema((SCHEMA["history"],))
    assert window(a_list, shuffle_mb=0.002) == pytest.approx(2000 / (8 + 8 * 1.5), rel=0.05)
    assert {window(rank=rank, world_size=3, shuffle_mb=0.01) for rank in range(3)} == {window(shuffle_mb=0.01)}
    ranks, _ = ranks_epoch(snapshot, SCHEMA, world_size=2, shuffle_mb=0.01)
    assert sorted(in_order(ranks)) == [expected(i) for i in range(ROWS)]
    with pytest.raises(SettingsError, match=r"shuffle_mb must be above 0; got 0; None leaves it to shuffle_rows"):
        window(shuffle_mb=0)


def test_ranks_without_rows_get_empty_batches(snapshot: Snapshot) -> None:
    ranks, _ = ranks_epoch(snapshot, SCHEMA, world_size=8, global_batch=1000, shards=8)
    assert [len(steps[1]) for steps in ranks] == [1, 1, 1, 0, 0, 0, 0, 0]
    with Loader(snapshot, SCHEMA, batch_size=125, seed=7, rank=7, world_size=8) as loader:
        *_, last = loader.epoch(0)
    assert batch_size(last) == 0
    assert last["history"].values.dtype == torch.int64  # type: ignore[union-attr]
    assert last["pair"].shape == (0, 2)  # type: ignore[union-attr]


def test_epochs_differ_and_repeat(snapshot: Snapshot) -> None:
    def order(epoch: int, **settings: Any) -> list[tuple[Any, ...]]:
        return in_order(ranks_epoch(snapshot, ID, world_size=1, epoch=epoch, **settings)[0])

    assert order(3) == order(3, workers=1) == order(3, workers=4)
    assert order(3) != order(4)
    assert order(3) != order(3, seed=8)


@pytest.mark.parametrize("first", WORLD_SIZES)
@pytest.mark.parametrize("second", [1, 3, 8])
@pytest.mark.parametrize("step", [1, 13, 41])
def test_resume_at_any_step_and_world_size(snapshot: Snapshot, first: int, second: int, step: int) -> None:
    whole, _ = ranks_epoch(snapshot, ID, world_size=first, epoch=1)
    begun, state = ranks_epoch(snapshot, ID, world_size=first, epoch=1, stop_after=step)
    rest, _ = ranks_epoch(snapshot, ID, world_size=second, epoch=1, state=state, global_batch=48)
    assert len({len(steps) for steps in rest}) == 1
    shards = int(state["shards"])
    assert in_order(begun, shards=shards) + in_order(rest, step * 24, shards) == in_order(whole, shards=shards)


def test_position_counts_batches_delivered_not_read_ahead(snapshot: Snapshot) -> None:
    with Loader(snapshot, ID, batch_size=10, seed=1) as loader:
        assert (loader.steps_per_epoch, loader.steps_left) == (101, 101)
        batches = loader.epoch(0)
        for _ in range(3):
            next(batches)
        time.sleep(0.1)
        assert (loader.state_dict()["position"], loader.steps_left) == (30, 98)
        for _ in batches:
            pass
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


def test_a_position_of_another_seed_or_table_is_refused(snapshot: Snapshot) -> None:
    loader = Loader(snapshot, ID, batch_size=10, seed=1)
    with pytest.raises(CheckpointError, match="has seed 2, this loader 1"):
        loader.load_state_dict({**loader.state_dict(), "seed": 2})
    with pytest.raises(CheckpointError, match="has fingerprint 'other', this loader"):
        loader.load_state_dict({**loader.state_dict(), "fingerprint": "other"})


def test_types_are_exact(snapshot: Snapshot) -> None:
    with Loader(snapshot, SCHEMA, batch_size=64, seed=1) as loader:
        batch = next(loader.epoch(0))
    types = {
        name: tuple(t.dtype for t in value) if isinstance(value, Ragged) else getattr(value, "dtype", None)
        for name, value in batch.items()
    }
    ragged_ids, ragged_numbers = (torch.int64, torch.int64), (torch.float32, torch.int64)
    assert types == {
        "id": torch.int64,
        "history": ragged_ids,
        "ages": ragged_numbers,
        "pair": torch.float32,
        "label": torch.float32,
        "name": None,
        "picture": None,
    }
    assert batch["pair"].shape == (64, 2)  # type: ignore[union-attr]
    assert rows_of(to_device(batch, "cpu")) == rows_of(batch)


def test_shuffle_mixes_files(snapshot: Snapshot) -> None:
    """Neighbours come from one file no more often than in a shuffle of the whole table.

    The files' names, and so their order, are random: one epoch is off by .05, eight are by .015 (standard deviations).
    """
    bounds = np.cumsum([100, 7, 250, 1, 333, 200, 112])
    shares = []
    for epoch in range(8):
        found = in_order(ranks_epoch(snapshot, ID, world_size=1, shuffle_rows=10_000, epoch=epoch)[0])
        files = np.searchsorted(bounds, np.array([row[0] for row in found]) - BIG, side="right")
        shares.append(np.mean(files[1:] == files[:-1]))
    perfect = float(np.square(np.diff(bounds, prepend=0) / ROWS).sum())
    assert np.mean(shares) < perfect + 0.04


def test_stats(snapshot: Snapshot) -> None:
    with Loader(snapshot, ID, batch_size=100, seed=1) as loader:
        for _ in loader.epoch(0):
            time.sleep(0.005)
    stats = loader.stats
    assert (stats.rows, stats.bytes) == (ROWS, ROWS * 8)
    assert 0 < stats.wait_share < 1
    assert stats.rows_per_s == pytest.approx(ROWS / stats.seconds)
    assert stats.bytes_per_s == pytest.approx(ROWS * 8 / stats.seconds)


def test_leaving_an_epoch_stops_its_threads(snapshot: Snapshot) -> None:
    loader = Loader(snapshot, ID, batch_size=1, seed=1)
    for _ in loader.epoch(0):
        break
    next(loader.epoch(0))
    loader.close()


def test_an_error_in_the_training_loop_stops_the_threads(snapshot: Snapshot) -> None:
    def train() -> None:
        with Loader(snapshot, ID, batch_size=1, seed=1) as loader:
            for _ in loader.epoch(0):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()


def one_column(path: Path, values: pa.Array, column: Column) -> Loader:
    write_deltalake(path, pa.table({column.name: values}))
    return Loader(open_snapshot(str(path)), Schema((column,)), batch_size=10, seed=1)


def read(loader: Loader) -> list[Any]:
    with loader:
        return sorted(row[0] for batch in loader.epoch(0) for row in rows_of(batch))


FLOATS, LISTS = pa.float64(), pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            Column("u", Kind.ID, "users", 5),
            pa.array([1, 5]),
            r"'u' must lie in \[0, 5\), .* 'users'; found 5 in row group 0",
        ),
        (
            Column("u", Kind.ID, "users", 5),
            pa.array([1, -1]),
            r"found -1 in row group 0 of file 'part-.*' of version 0",
        ),
        (Column("h", Kind.IDS, "items", 5), pa.array([[1], [2, 7]]), r"'h' must lie in \[0, 5\).* found 7"),
        (Column("u", Kind.ID, "users", 5), pa.array([1, None]), "'u' must not be null; 1 values are, in row group 0"),
        (Column("h", Kind.IDS, "items", 5), pa.array([[1], None]), "'h' must not be null; 1 values are"),
        (Column("h", Kind.IDS, "items", 5), pa.array([[1, None]]), "'h' must not be null; 1 values are"),
        (
            Column("y", Kind.LABEL),
            pa.array([0.0, float("nan")]),
            "'y' must be finite; found nan in row group 0 of file",
        ),
        (Column("y", Kind.LABEL), pa.array([0.0, None]), "'y' must not be null"),
        (Column("x", Kind.DENSE), pa.array([1e300]), "'x' must be finite; found inf"),
        (Column("w", Kind.WEIGHT), pa.array([1.0, -2.0]), "'w' is a weight and must not be negative; found -2.0"),
        (
            Column("f", Kind.DENSE, length=2),
            pa.array([[1.0, 2.0], [3.0]]),
            "'f' must hold lists of 2; one has 1 elements",
        ),
        (Column("s", Kind.TEXT), pa.array(["a", None]), "'s' must not be null; 1 values are"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, column: Column, values: pa.Array, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read(one_column(tmp_path / "t", values, column))


@pytest.mark.parametrize(
    ("column", "values", "filled"),
    [
        (Column("u", Kind.ID, "users", 2**62, fill=0), pa.array([BIG, None]), [0, BIG]),
        (Column("h", Kind.IDS, "items", 2**62, fill=0), pa.array([[BIG, None], None]), [[], [BIG, 0]]),
        (Column("x", Kind.DENSE, fill=-1), pa.array([0.5, None]), [-1.0, 0.5]),
        (Column("x", Kind.DENSE, fill=0.5), pa.array([3, None], pa.int8()), [0.5, 3.0]),
        (Column("x", Kind.DENSE, fill=2), pa.array([True, None]), [1.0, 2.0]),
        (Column("f", Kind.DENSE, length=1, fill=9), pa.array([[1.0], [None]]), [[1.0], [9.0]]),
        (Column("t", Kind.TIME, fill=5), pa.array([1, None], pa.timestamp("us")), [1, 5]),
        (Column("t", Kind.TIME), pa.array([1, -1], pa.date32()), [-86_400_000_000, 86_400_000_000]),
    ],
)
def test_null_becomes_the_stated_fill(tmp_path: Path, column: Column, values: pa.Array, filled: list[Any]) -> None:
    assert read(one_column(tmp_path / "t", values, column)) == filled


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            Column("u", Kind.ID, "users", 5),
            pa.array([1.0]),
            "'u' of kind id must be an integer in the table; it is double",
        ),
        (Column("u", Kind.ID, "users", 5), pa.array([[1]]), "must be an integer in the table; it is list"),
        (Column("h", Kind.IDS, "items", 5), pa.array([1]), "must be a list of integers in the table; it is int64"),
        (Column("x", Kind.DENSE), pa.array(["1"]), "must be a number in the table; it is string"),
        (Column("s", Kind.TEXT), pa.array([b"1"]), "must be a string in the table; it is binary"),
        (Column("t", Kind.TIME), pa.array([1.5]), "must be a timestamp, a date or whole microseconds in the table"),
        (Column("i", Kind.IMAGE), pa.array(["x"]), "must be binary in the table; it is string"),
    ],
)
def test_wrong_types_are_refused_before_reading(tmp_path: Path, column: Column, values: pa.Array, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        one_column(tmp_path / "t", values, column)


def test_missing_columns_are_refused_before_reading(snapshot: Snapshot) -> None:
    with pytest.raises(SchemaError, match=r"lacks the schema's columns u, v; version 6 has: id, history"):
        Loader(snapshot, Schema((Column("u", Kind.DENSE), Column("v", Kind.DENSE))), batch_size=1, seed=1)


def test_settings_are_checked(snapshot: Snapshot) -> None:
    with pytest.raises(SettingsError, match="batch_size must be at least 1, got 0; workers must be at least 1, got -1"):
        Loader(snapshot, ID, batch_size=0, workers=-1, seed=1)
    with pytest.raises(SettingsError, match=r"rank must lie in \[0, 2\), the world size; got 2"):
        Loader(snapshot, ID, batch_size=1, seed=1, rank=2, world_size=2)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"version 0 of table '.*' has no rows to train on"):
        one_column(tmp_path / "t", pa.array([], pa.int64()), Column("u", Kind.ID, "users", 5))


def test_a_file_that_vanishes_in_mid_epoch_is_named(tmp_path: Path) -> None:
    loader = one_column(tmp_path / "t", pa.array([1, 2]), Column("u", Kind.ID, "users", 5))
    for file in (tmp_path / "t").glob("*.parquet"):
        file.unlink()
    with pytest.raises(SnapshotError, match=r"file 'part-.*\.parquet' of version 0 of table '.*' is gone; VACUUM"):
        read(loader)


def test_a_null_list_of_a_fixed_size_is_named(tmp_path: Path) -> None:
    pairs = pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))
    write_deltalake(tmp_path / "t", pa.table({"id": [1, 2], "pair": pairs}))
    snapshot = open_snapshot(str(tmp_path / "t"))
    older_arrow = "'pair' is written as a list of a fixed size, and such lists may hold no nulls: .* row group 0 of"
    with (
        pytest.raises(SchemaError, match=rf"column ('pair' must not be null; 1 values are|{older_arrow})"),
        Loader(snapshot, Schema((SCHEMA["id"], SCHEMA["pair"])), batch_size=2, seed=0) as loader,
    ):
        next(loader.epoch(0))
    with Loader(snapshot, ID, batch_size=2, seed=0) as loader:
        assert sorted(next(loader.epoch(0))["id"].tolist()) == [1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(("fill", "wanted"), [(None, None), (7, [[1.0, 7.0], [3.0, 4.0]])])
def test_a_null_element_of_a_list_of_a_fixed_size(tmp_path: Path, fill: float | None, wanted: Any) -> None:
    pairs = pa.array([[1.0, None], [3.0, 4.0]], pa.list_(pa.float64(), 2))
    write_deltalake(tmp_path / "t", pa.table({"pair": pairs}))
    schema = Schema((Column("pair", Kind.DENSE, length=2, fill=fill),))
    with Loader(open_snapshot(str(tmp_path / "t")), schema, batch_size=2, seed=0) as loader:
        if wanted is None:
            with pytest.raises(SchemaError, match="column 'pair' must not be null; 1 values are"):
                next(loader.epoch(0))
        else:
            assert sorted(next(loader.epoch(0))["pair"].tolist()) == wanted  # type: ignore[union-attr]


def test_strings_and_bytes_are_held_with_64_bit_offsets(snapshot: Snapshot) -> None:
    """A row group of more than two gigabytes of them comes from Arrow in pieces, which only wide offsets can join."""
    columns = snapshot.read_group(0, ["name", "picture"])
    assert {name: column.type for name, column in columns.items()} == {
        "name": pa.large_string(),
        "picture": pa.large_binary(),
    }
    pieces = pa.chunked_array([["a", "b"], ["c"]])
    file = snapshot.files[0]
    joined = snapshot.source._column("name", pieces, file, 3)
    assert (joined.type, joined.to_pylist()) == (pa.large_string(), ["a", "b", "c"])
    assert read_table(snapshot, ["name"]).schema == pa.schema({"name": pa.string()})


@pytest.mark.skipif(not hasattr(pa, "list_view"), reason="this pyarrow has no list views")
@pytest.mark.parametrize("layout", ["list_view", "large_list_view"])
def test_lists_of_every_layout_are_the_tables(snapshot: Snapshot, layout: str) -> None:
    """Arrow's cast of a view to a list has an offset too few: the last list would end at whatever lies behind it."""
    view = getattr(pa, layout)(pa.int64())
    values = pa.array([[1, 2], None, [], [3, None]], view)
    pieces = pa.chunked_array([values, values.slice(1, 3)])
    column = snapshot.source._column("history", pieces, snapshot.files[0], 7)
    column.validate(full=True)
    assert column.type == pa.list_(pa.int64())
    assert column.to_pylist() == [[1, 2], None, [], [3, None], None, [], [3, None]]
