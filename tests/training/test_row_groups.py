"""Counting rows: each footer read by one rank and parsed once, the same counts and the same errors on all."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import WriterProperties, write_deltalake

from tests.training.streams import in_order, ranks_epoch
from training.data.delta_log import DataFile
from training.data.parquet import Source
from training.data.recent import Recent
from training.data.snapshot import Snapshot, open_snapshot
from training.errors import SnapshotError
from training.schema import Column, Kind, Schema
from training.world import World

SCHEMA = Schema((Column("id", Kind.TIME),))
FILES = 7


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Seven files of 10 to 70 rows in row groups of 20."""
    for number in range(FILES):
        rows = pa.table({"id": range(10 * (number + 1))})
        properties = WriterProperties(max_row_group_size=20)
        write_deltalake(tmp_path / "t", rows, mode="append", writer_properties=properties)
    return tmp_path / "t"


class Together(World):
    """Ranks that are threads of this process and wait for each other's work at a barrier."""

    def __init__(self, rank: int, size: int, told: dict[int, str | SnapshotError], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._told, self._barrier = told, barrier

    def on_each(self, what: str, work: Callable[[], Any]) -> list[Any]:
        try:
            self._told[self.rank] = json.dumps(work())
        except SnapshotError as error:
            self._told[self.rank] = error
        self._barrier.wait(30)
        failed = [told for told in self._told.values() if isinstance(told, SnapshotError)]
        if failed:
            raise failed[0]
        return [json.loads(str(self._told[rank])) for rank in range(self.size)]


def on_ranks(size: int, act: Callable[[World], Any]) -> list[Any]:
    """What `act` returns, or raises, on each rank."""
    told, barrier = dict[int, str | SnapshotError](), threading.Barrier(size)

    def one(rank: int) -> Any:
        try:
            return act(Together(rank, size, told, barrier))
        except SnapshotError as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file's footer was parsed."""
    found, parse = Counter[str](), Source._parsed

    def counted(self: Source, file: DataFile) -> tuple[pq.FileMetaData, int]:
        found[file.path] += 1
        return parse(self, file)

    monkeypatch.setattr(Source, "_parsed", counted)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_each_footer_is_read_by_one_rank_and_all_count_the_same(table: Path, parsed: Counter[str], size: int) -> None:
    snapshots = on_ranks(size, lambda world: open_snapshot(str(table), world=world))
    assert len(parsed) == FILES
    assert set(parsed.values()) == {1}
    alone = open_snapshot(str(table)).groups
    for snapshot in snapshots:
        for name in ("file", "number", "first", "rows", "live"):
            assert getattr(snapshot.groups, name).tolist() == getattr(alone, name).tolist()


def test_a_file_that_is_gone_is_raised_on_every_rank(table: Path) -> None:
    gone = open_snapshot(str(table)).files[1].path
    (table / gone).unlink()
    found = on_ranks(3, lambda world: open_snapshot(str(table), world=world))
    named = f"file '{gone}' of version 6 of table '{table}' is gone; VACUUM"
    assert [type(error) for error in found] == [SnapshotError] * 3
    assert all(str(error).startswith(named) for error in found)


def test_ranks_that_see_other_files_are_refused(table: Path) -> None:
    other = table.with_name("other")
    shutil.copytree(table, other)
    write_deltalake(other, pa.table({"id": [1]}), mode="append")
    found = on_ranks(2, lambda world: open_snapshot(str(other if world.rank else table), world=world))
    for error in found:
        assert isinstance(error, SnapshotError)
        assert "all ranks must read the same files of version" in str(error)


def test_a_footer_is_parsed_once_for_all_its_row_groups(table: Path, parsed: Counter[str]) -> None:
    snapshot = open_snapshot(str(table))
    rows = in_order(ranks_epoch(snapshot, SCHEMA, world_size=1)[0])
    assert len(rows) == snapshot.rows == 280
    assert set(parsed.values()) == {1}


def test_footers_are_let_go_within_their_limit(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = in_order(ranks_epoch(open_snapshot(str(table)), SCHEMA, world_size=1)[0])
    monkeypatch.setattr("training.data.parquet._FOOTER_BYTES", 1)
    snapshot: Snapshot = open_snapshot(str(table))
    assert in_order(ranks_epoch(snapshot, SCHEMA, world_size=1)[0]) == wanted
    assert not snapshot.source._footers._held


def test_what_was_used_last_is_kept() -> None:
    made, recent = list[str](), Recent[str](20)

    def value(key: str) -> str:
        return recent.get(key, lambda: (made.append(key) or key.upper(), 10))  # type: ignore[func-returns-value]

    assert [value(key) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]
