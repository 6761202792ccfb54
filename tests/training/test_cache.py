"""The loader's cache: the same rows as from the table, whatever happens to it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake

from tests.training.streams import rows_of
from training.data.cache import Cache, DiskCache, MemoryCache, _key, cache_of
from training.data.loader import Loader
from training.data.snapshot import Snapshot, open_snapshot
from training.errors import SettingsError, SnapshotError
from training.schema import Column, Kind, Schema

SCHEMA = Schema((Column("id", Kind.ID, "ids", 10_000), Column("history", Kind.IDS, "ids", 10_000)))
GROUPS = 6

Make = Callable[[int], Cache]


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    """600 rows in two files of three row groups."""
    for start in (0, 300):
        ids = range(start, start + 300)
        rows = pa.table({"id": pa.array(ids), "history": pa.array([[i, i + 1][: i % 3] for i in ids])})
        properties = WriterProperties(max_row_group_size=100)
        write_deltalake(tmp_path / "t", rows, mode="append", writer_properties=properties)
    return open_snapshot(str(tmp_path / "t"))


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return MemoryCache if request.param == "memory" else lambda size: DiskCache(tmp_path / "cache", size)


def epoch(snapshot: Snapshot, number: int, cache: Cache | None) -> list[tuple[Any, ...]]:
    with Loader(snapshot, SCHEMA, batch_size=64, seed=3, shuffle_rows=200, cache=cache) as loader:
        return [row for batch in loader.epoch(number) for row in rows_of(batch)]


def test_later_epochs_come_from_the_cache_and_are_the_same(snapshot: Snapshot, make: Make) -> None:
    cache = make(10**6)
    wanted = [epoch(snapshot, number, None) for number in range(3)]
    assert epoch(snapshot, 0, cache) == wanted[0]
    assert (cache.hits, cache.misses) == (0, GROUPS)
    for file in snapshot.files:
        (Path(snapshot.uri) / file.path).unlink()
    assert [epoch(snapshot, number, cache) for number in (1, 2)] == wanted[1:]
    assert (cache.hits, cache.misses) == (2 * GROUPS, GROUPS)
    with pytest.raises(SnapshotError, match="is gone; VACUUM"):
        epoch(snapshot, 1, None)


def test_the_limit_holds(snapshot: Snapshot, make: Make) -> None:
    whole = make(10**6)
    epoch(snapshot, 0, whole)
    if isinstance(whole, DiskCache):
        half: Cache = DiskCache(whole.folder.with_name("half"), whole.held_bytes // 2)
    else:
        half = MemoryCache(whole.held_bytes // 2)
    wanted = [epoch(snapshot, number, None) for number in range(2)]
    assert [epoch(snapshot, number, half) for number in range(2)] == wanted
    assert 0 < half.held_bytes <= whole.held_bytes // 2
    assert 0 < half.hits < GROUPS


def test_processes_share_a_folder_and_its_files_are_arrow_streams(snapshot: Snapshot, tmp_path: Path) -> None:
    first, second = DiskCache(tmp_path / "cache", 10**6), DiskCache(tmp_path / "cache", 10**6)
    epoch(snapshot, 0, first)
    assert epoch(snapshot, 0, second) == epoch(snapshot, 0, None)
    assert (second.hits, second.misses, second.held_bytes) == (GROUPS, 0, 0)
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == GROUPS
    assert sum(pa.ipc.open_stream(str(path)).read_next_batch().num_rows for path in files) == 600


def test_a_damaged_file_is_read_from_the_table_and_written_again(snapshot: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10**6)
    wanted = epoch(snapshot, 0, cache)
    torn = min((tmp_path / "cache").iterdir())
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=f"'{torn}' of the loader's cache is damaged .*: written again"):
        assert epoch(snapshot, 0, cache) == wanted
    assert torn.read_bytes() == whole


def test_an_entry_that_will_not_go_is_read_from_the_table(snapshot: Snapshot, tmp_path: Path) -> None:
    """As in a folder that may not be written; it ended the training."""
    wanted = epoch(snapshot, 0, DiskCache(tmp_path / "cache", 10**6))
    entry = min((tmp_path / "cache").iterdir())
    entry.unlink()
    (entry / "in the way").mkdir(parents=True)
    with pytest.warns(UserWarning, match="loader's cache"):
        assert epoch(snapshot, 0, DiskCache(tmp_path / "cache", 10**6)) == wanted


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cache_dir must be a folder.*file' is none: File exists"):
        DiskCache(tmp_path / "file", 1)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit_is_noticed_wherever_it_is(snapshot: Snapshot, tmp_path: Path, place: float) -> None:
    cache = DiskCache(tmp_path / "cache", 10**6)
    wanted = epoch(snapshot, 0, cache)
    file = min((tmp_path / "cache").iterdir())
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * (len(whole) - 1))] ^= 1
    file.write_bytes(flipped)
    with pytest.warns(UserWarning, match=f"'{file}' .* is damaged .*its checksum is not that of its bytes"):
        assert epoch(snapshot, 0, cache) == wanted
    assert file.read_bytes() == whole


def test_an_entry_of_another_length_is_read_from_the_table(tmp_path: Path, make: Make) -> None:
    """Row groups of 2 and 1 rows: the second's entry under the first's name, and no row of either is lost."""
    write_deltalake(
        tmp_path / "t", pa.table({"id": [1, 2, 3]}), writer_properties=WriterProperties(max_row_group_size=2)
    )
    snapshot, cache = open_snapshot(str(tmp_path / "t")), make(10**6)
    cache._put(_key(snapshot, 0, ["id"]), pa.RecordBatch.from_pydict({"id": [3]}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            assert cache.read(snapshot, 0, ["id"])["id"].to_pylist() == [1, 2]
    assert (cache.hits, cache.misses) == (1, 1)
    assert ["is damaged (it holds 1 rows, the row group 2)" in str(one.message) for one in said] == (
        [True] if isinstance(cache, DiskCache) else []
    )


def test_many_damaged_files_are_said_once(snapshot: Snapshot, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 10**6)
    wanted = epoch(snapshot, 0, cache)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert epoch(snapshot, 0, cache) == wanted
    assert len(said) == 1
    assert min(file.stat().st_size for file in (tmp_path / "cache").iterdir()) > 0


def rename(path: Path, names: dict[str, str]) -> None:
    """Commit a schema in which each of the table's columns, by its name in the files, has another name."""
    log = sorted((path / "_delta_log").glob("*.json"))
    first = [json.loads(line) for line in log[0].read_text().splitlines()]
    metadata = next(action["metaData"] for action in first if "metaData" in action)
    schema = json.loads(metadata["schemaString"])
    for number, field in enumerate(schema["fields"]):
        physical = {"delta.columnMapping.id": number + 1, "delta.columnMapping.physicalName": field["name"]}
        field |= {"name": names[field["name"]], "metadata": physical}
    mapped = {**metadata, "schemaString": json.dumps(schema), "configuration": {"delta.columnMapping.mode": "name"}}
    actions = [{"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}, {"metaData": mapped}]
    (path / "_delta_log" / f"{len(log):020d}.json").write_text("\n".join(json.dumps(action) for action in actions))


def test_a_name_that_comes_to_mean_another_column_brings_that_columns_values(tmp_path: Path, make: Make) -> None:
    write_deltalake(tmp_path / "t", pa.table({"a": [1, 2, 3], "b": [10, 20, 30]}))
    cache = make(10**6)
    for names in ({"a": "a", "b": "b"}, {"a": "b", "b": "a"}):
        rename(tmp_path / "t", names)
        snapshot = open_snapshot(str(tmp_path / "t"))
        for _ in range(2):
            assert (
                cache.read(snapshot, 0, ["a", "b"])["a"].to_pylist() == snapshot.read_group(0, ["a"])["a"].to_pylist()
            )
    assert snapshot.read_group(0, ["a"])["a"].to_pylist() == [10, 20, 30]
    rename(tmp_path / "t", {"a": "x", "b": "y"})
    assert (cache.hits, cache.misses) == (2, 2)
    assert cache.read(open_snapshot(str(tmp_path / "t")), 0, ["x", "y"])["x"].to_pylist() == [1, 2, 3]
    assert cache.hits == 3  # only the names are new: what was kept under the old ones holds


def test_a_folder_that_cannot_be_written_is_said_once(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path / "cache", 10**6)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.cache._parts", full)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert epoch(snapshot, 0, cache) == epoch(snapshot, 0, None)
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 1
    assert "cannot be written: [Errno 28] No space left on device" in texts[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_columns_and_types_are_other_entries(snapshot: Snapshot) -> None:
    cache = MemoryCache(10**6)
    epoch(snapshot, 0, cache)
    ids = Schema((Column("id", Kind.ID, "ids", 10_000),))
    with Loader(snapshot, ids, batch_size=600, seed=3, cache=cache) as loader:
        (batch,) = loader.epoch(0)
    assert sorted(batch["id"].tolist()) == list(range(600))  # type: ignore[union-attr]
    assert cache.misses == 2 * GROUPS


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_bytes, a cache's limit, must be at least 1; got 0"):
        MemoryCache(0)


def test_the_settings_cache(tmp_path: Path) -> None:
    assert cache_of(0, None) is None
    assert isinstance(cache_of(0.5, None), MemoryCache)
    on_disk = cache_of(0.5, str(tmp_path / "kept"))
    assert isinstance(on_disk, DiskCache)
    assert on_disk.folder.is_dir()
