"""Deletion vectors, wherever the log keeps them and however it names them; a damaged one is never taken."""

from __future__ import annotations

import base64
import io
import json
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake
from pyroaring import BitMap64

from training.data.delta_log import has_files
from training.data.log_vectors import _B85, _Z85, _lines
from training.data.snapshot import Snapshot, open_snapshot, read_table
from training.errors import SnapshotError

MAGIC = (1681511377).to_bytes(4, "little")
FEATURES = ["deletionVectors", "v2Checkpoint"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two files of 100 rows in row groups of 30: ids 0 to 99 in partition `a b`, 100 to 199 in `c%c`."""
    path = tmp_path / "t"
    rows = pa.table({"id": range(200), "split": ["a b"] * 100 + ["c%c"] * 100})
    write_deltalake(path, rows, partition_by=["split"], writer_properties=WriterProperties(max_row_group_size=30))
    return path


def actions(path: Path) -> list[dict[str, Any]]:
    log = sorted((path / "_delta_log").glob("*.json"))
    return [json.loads(line) for file in log for line in file.read_text().splitlines()]


def commit(path: Path, *found: dict[str, Any]) -> None:
    number = len(list((path / "_delta_log").glob("0*.json")))
    versions = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": FEATURES, "writerFeatures": FEATURES}
    text = "\n".join(json.dumps(action) for action in ({"protocol": versions}, *found))
    (path / "_delta_log" / f"{number:020d}.json").write_text(text)


def z85(data: bytes) -> str:
    padded = data + bytes(-len(data) % 4)
    return base64.b85encode(padded).translate(bytes.maketrans(_B85, _Z85)).decode()


def described(path: Path, rows: Sequence[int], storage: str) -> dict[str, Any]:
    """A deletion vector written the way that `storage` names, as the log describes it."""
    data = MAGIC + BitMap64(rows).serialize()
    found: dict[str, Any] = {"storageType": storage, "sizeInBytes": len(data), "cardinality": len(rows)}
    if storage == "i":
        return {**found, "pathOrInlineDv": z85(data)}
    name = uuid.uuid4()
    folder = "" if storage == "p" else "a1"
    place = path / folder / f"deletion_vector_{name}.bin"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"\x01" + len(data).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big"))
    return {**found, "pathOrInlineDv": place.as_uri() if storage == "p" else folder + z85(name.bytes), "offset": 1}


def delete(path: Path, split: str, rows: Sequence[int], storage: str = "u") -> None:
    """Mark rows of a partition's file as deleted, in a commit."""
    before = newest(path, split)
    commit(path, {"remove": before}, {"add": {**before, "deletionVector": described(path, rows, storage)}})


def newest(path: Path, split: str) -> dict[str, Any]:
    """The `add` of a partition's file."""
    adds = [action["add"] for action in actions(path) if "add" in action]
    return {add["partitionValues"]["split"]: add for add in adds}[split]


def ids(snapshot: Snapshot) -> list[int]:
    return sorted(read_table(snapshot, ["id"])["id"].to_pylist())


def without(*gone: int) -> list[int]:
    return [i for i in range(200) if i not in gone]


@pytest.mark.parametrize("storage", ["i", "u", "p"])
def test_rows_are_left_out_wherever_the_vector_lies(table: Path, storage: str) -> None:
    delete(table, "a b", [0, 29, 30, 99], storage)
    snapshot = open_snapshot(str(table))
    assert ids(snapshot) == without(0, 29, 30, 99)
    assert sorted(zip(snapshot.groups.rows.tolist(), snapshot.groups.live.tolist(), strict=True)) == sorted(
        [(30, 28), (30, 29), (30, 30), (10, 9), (30, 30), (30, 30), (30, 30), (10, 10)]
    )


def test_the_newest_commit_of_a_file_decides(table: Path) -> None:
    delete(table, "a b", [1])
    delete(table, "a b", [1, 2])
    delete(table, "c%c", [0])
    assert ids(open_snapshot(str(table))) == without(1, 2, 100)
    assert ids(open_snapshot(str(table), 1)) == without(1)
    restored = [{"add": action["add"]} for action in actions(table)[:10] if "add" in action][:2]
    commit(table, *({"remove": newest(table, split)} for split in ("a b", "c%c")), *restored)
    assert ids(open_snapshot(str(table))) == without()
    assert open_snapshot(str(table)).fingerprint == open_snapshot(str(table), 0).fingerprint
    assert len({open_snapshot(str(table), version).fingerprint for version in range(4)}) == 4


def checkpoint(path: Path, kind: str) -> None:
    """Move what the log says up to its newest version into a checkpoint, and take the commits away."""
    log = path / "_delta_log"
    newest = len(list(log.glob("0*.json"))) - 1
    said = actions(path)
    protocol = [action for action in said if "protocol" in action][-1]
    adds = {action["add"]["path"]: action["add"] for action in said if "add" in action}
    for add in adds.values():
        add["partitionValues"] = list(add["partitionValues"].items())
    rows = [protocol, *(action for action in said if "metaData" in action)]
    for row in rows[1:]:
        row["metaData"].pop("createdTime", None)
        row["metaData"]["configuration"] = []
        row["metaData"]["format"]["options"] = []
    name = f"{newest:020d}.checkpoint"
    strings = pa.map_(pa.string(), pa.string())
    vector = {"storageType": pa.string(), "pathOrInlineDv": pa.string(), "offset": pa.int32()}
    vector |= {"sizeInBytes": pa.int32(), "cardinality": pa.int64()}
    add_type = {"path": pa.string(), "partitionValues": strings, "size": pa.int64(), "modificationTime": pa.int64()}
    add_type |= {"dataChange": pa.bool_(), "stats": pa.string(), "deletionVector": pa.struct(list(vector.items()))}
    versions = {"minReaderVersion": pa.int32(), "minWriterVersion": pa.int32()}
    versions |= {"readerFeatures": pa.list_(pa.string()), "writerFeatures": pa.list_(pa.string())}
    style = pa.struct([("provider", pa.string()), ("options", strings)])
    meta = {"id": pa.string(), "format": style, "schemaString": pa.string()}
    meta |= {"partitionColumns": pa.list_(pa.string()), "configuration": strings}
    types = {"protocol": versions, "metaData": meta, "add": add_type}
    schema = pa.schema([(key, pa.struct(list(fields.items()))) for key, fields in types.items()])

    def written(found: list[dict[str, Any]], file: str) -> None:
        pq.write_table(pa.Table.from_pylist(found, schema), log / file)

    actions_of_files = [{"add": add} for add in adds.values()]
    if kind == "parts":
        written(rows, f"{name}.{1:010d}.{2:010d}.parquet")
        written(actions_of_files, f"{name}.{2:010d}.{2:010d}.parquet")
    else:
        written(rows + actions_of_files, f"{name}.parquet")
    for number in range(newest):
        (log / f"{number:020d}.json").unlink()


def test_a_version_whose_vector_is_gone_is_not_there(table: Path) -> None:
    delete(table, "a b", [1])
    [first] = (table / "a1").iterdir()
    delete(table, "a b", [1, 2])
    assert [has_files(str(table), version) for version in range(3)] == [True] * 3
    first.unlink()
    assert [has_files(str(table), version) for version in range(3)] == [True, False, True]


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_vectors_of_a_checkpoint(table: Path, kind: str) -> None:
    delete(table, "a b", [5, 6])
    delete(table, "c%c", [7], "i")
    checkpoint(table, kind)
    assert ids(open_snapshot(str(table))) == without(5, 6, 107)


def test_vectors_of_partitions_that_are_not_wanted_are_not_read(table: Path) -> None:
    delete(table, "a b", [5])
    delete(table, "c%c", [0])
    for file in (table / "a1").iterdir():
        file.write_bytes(b"")
    assert open_snapshot(str(table), 0).rows == 200
    with pytest.raises(SnapshotError, match="the deletion vector of file 'split="):
        open_snapshot(str(table), 1, partitions={"split": ["a b"]})
    assert open_snapshot(str(table), 1, partitions={"split": ["c%c"]}).rows == 100


def test_a_vector_that_is_gone_is_named(table: Path) -> None:
    delete(table, "a b", [5])
    [file] = (table / "a1").iterdir()
    file.unlink()
    with pytest.raises(
        SnapshotError, match=r"the deletion vector of file 'split=a.*', 'a1/deletion_.*bin', is gone; VAC"
    ):
        open_snapshot(str(table))


@pytest.mark.parametrize(
    ("place", "said"),
    [(3, "has [0-9]+ bytes, the log says"), (30, "does not have the checksum"), (-1, "does not have the checksum")],
)
def test_a_damaged_vector_is_named(table: Path, place: int, said: str) -> None:
    delete(table, "a b", [5])
    [file] = (table / "a1").iterdir()
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        SnapshotError, match=f"the deletion vector of file 'split=a.* at byte 1 of 'a1/.*', {said}.*Restore"
    ):
        open_snapshot(str(table))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0" * 12, "begins with 00000000, not with d1d33964"),
        (MAGIC + b"\1" * 8, "is no roaring bitmap"),
        (MAGIC + BitMap64([1, 2]).serialize(), "deletes 2 rows, the log says 1"),
    ],
)
def test_a_damaged_vector_in_the_log_is_named(table: Path, data: bytes, said: str) -> None:
    [first, *_] = [action["add"] for action in actions(table) if "add" in action]
    vector = {"storageType": "i", "pathOrInlineDv": z85(data), "sizeInBytes": len(data), "cardinality": 1}
    commit(table, {"add": {**first, "deletionVector": vector}})
    with pytest.raises(SnapshotError, match=rf"the deletion vector of file .*, in the log, {said}: it is damaged"):
        open_snapshot(str(table))


@pytest.mark.parametrize("row", [100, 2**33])
def test_a_vector_of_another_file_is_named(table: Path, row: int) -> None:
    delete(table, "a b", [1, row])
    said = rf"the deletion vector of file 'split=a.* must delete rows below 100, the file's rows; it deletes row {row}:"
    with pytest.raises(SnapshotError, match=said):
        open_snapshot(str(table))


def test_a_vector_that_is_stored_in_an_unknown_way_is_refused(table: Path) -> None:
    [first, *_] = [action["add"] for action in actions(table) if "add" in action]
    commit(table, {"add": {**first, "deletionVector": {**described(table, [1], "i"), "storageType": "x"}}})
    with pytest.raises(SnapshotError, match=r"log of table .* cannot be read .* stored in way 'x', which is none of i"):
        open_snapshot(str(table))


def test_a_log_with_a_gap_or_without_a_live_file_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delete(table, "a b", [5])
    delete(table, "c%c", [5])
    whole = DeltaTable(table)
    monkeypatch.setattr("training.data.delta_log._open_table", lambda *_: whole)
    first, second, _ = sorted((table / "_delta_log").glob("*.json"))
    second.unlink()
    with pytest.raises(SnapshotError, match=r"commit 1 of table '.*/t' is gone, and no checkpoint .* to version 2"):
        open_snapshot(str(table))
    second.write_text("{")
    with pytest.raises(SnapshotError, match=r"the log of table '.*/t' cannot be read for its deletion vectors"):
        open_snapshot(str(table))
    second.write_text("")
    first.write_text("")
    with pytest.raises(SnapshotError, match=r"log of table '.*/t' up to version 2 has no `add` of live file 'split=a"):
        open_snapshot(str(table))


def test_a_store_is_asked_for_a_commit_in_few_pieces() -> None:
    """A store answers in 10 to 100 ms however little it is asked for."""
    asked = list[int]()

    class Far(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    class Table:
        def open_input_file(self, path: str) -> pa.NativeFile:
            return pa.PythonFile(Far(text.encode()), "r")

    text = "\n".join(json.dumps({"add": {"path": f"é{n}"}}) for n in range(9_000))
    found = [action["add"]["path"] for action in _lines(Table(), "0.json")]  # type: ignore[arg-type]
    assert found == [f"é{n}" for n in range(9_000)]
    assert len(asked) <= 3  # one piece, and two that say that there is no more
