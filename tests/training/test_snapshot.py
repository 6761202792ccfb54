"""Opening a version: what is read, what is refused, what is named when a file is not what the log says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake

from tests.training.streams import ranks_epoch
from training.data.delta_log import has_files
from training.data.parquet import _CHECKED
from training.data.snapshot import open_snapshot, read_table
from training.errors import SchemaError, SnapshotError, TableError
from training.schema import Column, Kind, Schema


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two versions: 3 rows in two partitions, then one more row."""
    path = tmp_path / "a table"
    rows = pa.table({"id": [1, 2, 3], "split": ["train", "train", "test"]})
    write_deltalake(path, rows, partition_by=["split"])
    write_deltalake(path, pa.table({"id": [4], "split": ["test"]}), mode="append")
    return path


def ids(path: Path | str, version: int | None = None, **settings: object) -> list[int]:
    found: list[int] = read_table(open_snapshot(str(path), version, **settings), ["id"])["id"].to_pylist()  # type: ignore[arg-type]
    return sorted(found)


def data_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.parquet"))


def test_versions_and_partitions(table: Path) -> None:
    assert ids(table) == [1, 2, 3, 4]
    assert ids(table, 0) == [1, 2, 3]
    assert ids(table, partitions={"split": ["test"]}) == [3, 4]
    assert ids(table, partitions={"split": ["none such"]}) == []


def test_a_partition_column_in_a_file_is_not_read(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta 4.4 writes it there as well; its values are the log's."""
    for file in data_files(table):
        rows = pq.read_table(file, partitioning=None)
        pq.write_table(rows.append_column("split", pa.array(["stale"] * len(rows))), file)
    asked, read = list[str](), pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, number, columns, **options: asked.extend(columns) or read(self, number, columns, **options),
    )
    found = read_table(open_snapshot(str(table))).to_pylist()
    assert {row["id"]: row["split"] for row in found} == {1: "train", 2: "train", 3: "test", 4: "test"}
    assert set(asked) == {"id"}


def test_fingerprint_is_of_the_files_not_of_the_path(table: Path) -> None:
    assert open_snapshot(str(table)).fingerprint == open_snapshot(str(table), 1).fingerprint
    assert open_snapshot(str(table)).fingerprint != open_snapshot(str(table), 0).fingerprint
    moved = table.rename(table.parent / "moved")
    assert open_snapshot(str(moved), 1).fingerprint == open_snapshot(moved.as_uri()).fingerprint


def test_a_url_reads_through_the_object_store(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.delta_log._plain", lambda uri: uri)  # else a file URL becomes a path
    assert ids(table.as_uri()) == [1, 2, 3, 4]


def test_columns_keep_their_order_and_types(table: Path) -> None:
    snapshot = open_snapshot(str(table), columns=["split", "id"])
    assert snapshot.schema.names == ["split", "id"]
    assert read_table(snapshot).schema == pa.schema({"split": pa.string(), "id": pa.int64()})


def test_an_empty_table_reads_as_no_rows(table: Path) -> None:
    DeltaTable(table).delete()
    snapshot = open_snapshot(str(table))
    assert snapshot.rows == 0
    assert read_table(snapshot).num_rows == 0


@pytest.mark.parametrize("path", ["none", "."])
def test_no_table(tmp_path: Path, path: str) -> None:
    with pytest.raises(TableError, match=r"there is no Delta table at .*; write it first, or correct the path$"):
        open_snapshot(str(tmp_path / path))


def test_no_such_version(table: Path) -> None:
    with pytest.raises(SnapshotError, match=r"version 9 of table '.*a table' cannot be opened"):
        open_snapshot(str(table), 9)


def test_no_such_column(table: Path) -> None:
    with pytest.raises(SchemaError, match="no column 'price'; it has: id, split"):
        open_snapshot(str(table), columns=["id", "price"])


def test_no_such_partition_column(table: Path) -> None:
    with pytest.raises(SchemaError, match=r"'id' is not a partition column of table '.*'; those are: split"):
        open_snapshot(str(table), partitions={"id": ["1"]})


def require(path: Path, features: Sequence[str]) -> None:
    """Write a protocol with further reader features into the newest version."""
    log = max((path / "_delta_log").glob("*.json"))
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    log.write_text(json.dumps({"protocol": protocol}) + "\n" + log.read_text())


@pytest.mark.parametrize("feature", ["variantType", "someNewFeature"])
def test_unknown_reader_features_are_named(table: Path, feature: str) -> None:
    require(table, [feature])
    with pytest.raises(SnapshotError, match=feature):
        open_snapshot(str(table))


def test_whether_the_files_of_a_version_are_there(table: Path) -> None:
    assert [has_files(str(table), version) for version in (0, 1)] == [True, True]
    DeltaTable(table).optimize.compact()  # of the two files of `test` one
    assert [has_files(str(table), version) for version in (0, 1, 2)] == [True, True, True]
    first = min(table.glob("split=test/*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    first.unlink()
    assert [has_files(str(table), version) for version in (0, 1, 2)] == [False, False, True]
    with pytest.raises(SnapshotError, match="version 7 of table"):
        has_files(str(table), 7)


def test_a_store_that_does_not_say_whether_files_are_there(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: str) -> None:
        raise OSError("access denied")

    DeltaTable(table).optimize.compact()
    monkeypatch.setattr("training.data.delta_log.filesystem", lambda *_: SimpleNamespace(get_file_info=refuses))
    with pytest.raises(TableError, match=r"of version 1 of table '.*a table' cannot be looked for: access denied"):
        has_files(str(table), 1)


def test_vacuumed_version(table: Path) -> None:
    DeltaTable(table).optimize.compact()
    DeltaTable(table).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert ids(table) == [1, 2, 3, 4]
    with pytest.raises(
        SnapshotError, match=r"file 'split=test/.*\.parquet' of version 1 of table '.*' is gone; VACUUM"
    ):
        open_snapshot(str(table), 1)


def test_torn_file(table: Path) -> None:
    file = data_files(table)[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SnapshotError, match=rf"{file.name}' of version 1 .* is not a whole Parquet file: .*Restore"):
        open_snapshot(str(table))


def test_file_changed_behind_deltas_back(table: Path) -> None:
    first, *_, last = data_files(table)
    first.write_bytes(last.read_bytes())
    with pytest.raises(SnapshotError, match=r"holds 2 rows, the log says 1: it was changed behind Delta's back"):
        open_snapshot(str(table))


def test_corrupt_page_names_the_row_group(table: Path) -> None:
    snapshot = open_snapshot(str(table))
    for file in data_files(table):
        data = bytearray(file.read_bytes())
        data[4:60] = bytes(56)  # the first column's pages; the footer stays whole
        file.write_bytes(data)
    with pytest.raises(SnapshotError, match=r"row group 0 of file 'split=.*' of version 1 .* cannot be read"):
        read_table(snapshot)


@pytest.mark.skipif(not _CHECKED, reason="this pyarrow does not look at the pages' checksums")
def test_a_bit_that_a_disk_flipped_is_noticed(tmp_path: Path) -> None:
    """Pages as Spark writes them, with checksums; without them 7 would come back as 6."""
    write_deltalake(tmp_path / "t", pa.table({"id": [7] * 9}))
    [file] = data_files(tmp_path)
    rows = pq.read_table(file)
    pq.write_table(rows, file, use_dictionary=False, compression="none", write_page_checksum=True)
    snapshot = open_snapshot(str(tmp_path / "t"))
    assert read_table(snapshot) == rows
    whole = file.read_bytes()
    place = whole.index((7).to_bytes(8, "little") * 9)
    file.write_bytes(whole[:place] + b"\x06" + whole[place + 1 :])
    with pytest.raises(
        SnapshotError, match=rf"row group 0 of file '{file.name}' of version 0 .* cannot be read: .*CRC"
    ):
        read_table(open_snapshot(str(tmp_path / "t")))


def test_a_file_whose_row_groups_changed_since_they_were_counted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows, in other row groups: rows would be left out, or come twice."""
    monkeypatch.setattr(
        "training.data.parquet._FOOTER_BYTES", 1
    )  # its footer is read anew, as by a rank that counted others
    write_deltalake(
        tmp_path / "t", pa.table({"id": range(30)}), writer_properties=WriterProperties(max_row_group_size=20)
    )
    snapshot = open_snapshot(str(tmp_path / "t"))
    [file] = data_files(tmp_path)
    pq.write_table(pq.read_table(file), file, row_group_size=10)
    named = rf"row group 0 of file '{file.name}' of version 0 .* must hold the 20 rows .*; column 'id' holds 10"
    with pytest.raises(SnapshotError, match=named):
        read_table(snapshot)
    schema = Schema((Column("id", Kind.TIME),))
    with pytest.raises(SnapshotError, match="holds 10"):
        ranks_epoch(snapshot, schema, world_size=1)


def test_a_file_that_lost_row_groups_since_they_were_counted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.parquet._FOOTER_BYTES", 1)  # its footer is read anew
    size = WriterProperties(max_row_group_size=10)
    write_deltalake(tmp_path / "t", pa.table({"id": range(30)}), writer_properties=size)
    snapshot = open_snapshot(str(tmp_path / "t"))
    [file] = data_files(tmp_path)
    pq.write_table(pq.read_table(file), file, row_group_size=30)
    named = rf"row group 2 of file '{file.name}' of version 0 .* must be there as .* has 1 row groups: .* Restore the"
    with pytest.raises(SnapshotError, match=named):
        snapshot.read_group(2, ["id"])


@pytest.mark.parametrize("name", ["50%25", "a b%20", "50%", "é+&#"])
def test_a_folders_name_is_taken_as_it_is(table: Path, tmp_path: Path, name: str) -> None:
    """With a checkpoint and without; delta-rs itself cannot open names like the first two."""
    before = tmp_path / name / "before"
    shutil.copytree(table, before)
    DeltaTable(table).create_checkpoint()
    write_deltalake(table, pa.table({"id": [5], "split": ["test"]}), mode="append")
    shutil.copytree(table, before.with_name("after"))
    assert ids(before) == [1, 2, 3, 4]
    assert ids(before.with_name("after")) == [1, 2, 3, 4, 5]
    assert ids(before.with_name("after"), 0) == [1, 2, 3]
    with pytest.raises(TableError, match=re.escape(f"there is no Delta table at '{tmp_path / name}'")):
        open_snapshot(str(tmp_path / name))
