"""The loader on an S3 bucket: every row as it was written, and refusals that are short, soon and without secrets."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake

from cluster.launch import launch
from tests.training.s3 import KEY_ID, SECRET, Store, serve
from tests.training.streams import in_order, ranks_epoch
from tests.training.test_deletion_vectors import delete
from training.data.snapshot import Snapshot, open_snapshot, read_table
from training.data.storage import reason
from training.errors import SnapshotError, TableError
from training.schema import Column, Kind, Schema
from training.world import World

ODD = [
    None,
    "plain",
    "a b",
    " ",
    "a/b",
    "50%",
    "50%25",
    "a+b",
    "x=y&z?#",
    "über",
    "日本",
    'it\'s "q"',
    "new\nline",
    "a:b",
]
ROWS, TOKEN = 20 * len(ODD), "planted-session-token"
SCHEMA = Schema((Column("id", Kind.TIME), Column("text", Kind.TEXT)))
TABLE = "s3://shop/tables/an example"


def rows() -> pa.Table:
    ids = range(ROWS)
    odd = [ODD[i % len(ODD)] for i in ids]
    return pa.table({"id": [2**53 + i for i in ids], "text": [f"{i} {odd[i]}" for i in ids], "odd": pa.array(odd)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A bucket with one table, written through it: two commits, a partition for each odd value."""
    with serve(tmp_path_factory.mktemp("bucket")) as store:
        for half in (rows().slice(0, ROWS // 2), rows().slice(ROWS // 2)):
            write_deltalake(
                TABLE,
                half,
                mode="append",
                partition_by=["odd"],
                storage_options=store.options,
                writer_properties=WriterProperties(max_row_group_size=4),
            )
        yield store


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Store, Snapshot, list[Path]]]:
    """A bucket of the test's own, a table in it that is open, and the table's files."""
    write_deltalake(tmp_path / "t", pa.table({"id": [1, 2, 3], "split": ["a", "b b", "c%c"]}), partition_by=["split"])
    with serve(tmp_path) as store:
        yield store, open_snapshot("s3://shop/t", storage_options=store.options), sorted(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_rows_and_partition_values_are_those_written(store: Store, scheme: str) -> None:
    snapshot = open_snapshot(TABLE.replace("s3", scheme, 1), storage_options=store.options)
    assert read_table(snapshot).sort_by("id") == rows()
    assert snapshot.fingerprint == open_snapshot(str(store.folder / "tables/an example")).fingerprint


@pytest.mark.parametrize("value", ODD)
def test_a_partition_is_found_by_its_value(store: Store, value: str | None) -> None:
    found = read_table(open_snapshot(TABLE, partitions={"odd": [value]}, storage_options=store.options), ["id", "odd"])
    assert set(found["odd"].to_pylist()) == {value}
    assert sorted(found["id"].to_pylist()) == [2**53 + i for i in range(ROWS) if ODD[i % len(ODD)] == value]


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_is_that_of_the_same_table_on_a_disk(store: Store, world_size: int) -> None:
    near = open_snapshot(str(store.folder / "tables/an example"), columns=SCHEMA.names)
    far = open_snapshot(TABLE, columns=SCHEMA.names, storage_options=store.options)
    streamed = in_order(ranks_epoch(far, SCHEMA, world_size=world_size)[0])
    assert streamed == in_order(ranks_epoch(near, SCHEMA, world_size=1)[0])
    assert sorted(streamed) == sorted(zip(rows()["id"].to_pylist(), rows()["text"].to_pylist(), strict=True))


def stream(spec: dict[str, Any], world: World) -> list[list[tuple[Any, ...]]]:
    """A launch target: each rank's rows of an epoch."""
    from training.data.loader import Loader

    snapshot = open_snapshot(spec["uri"], columns=SCHEMA.names)
    with Loader(snapshot, SCHEMA, batch_size=16, seed=0, rank=world.rank, world_size=world.size) as loader:
        mine = [list(row) for batch in loader.epoch(0) for row in zip(batch["id"].tolist(), batch["text"], strict=True)]  # type: ignore[arg-type, union-attr]
    return world.all_gather_object(mine)


def test_ranks_take_the_options_from_their_environment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.options.items():
        monkeypatch.setenv(name, value)
    shares = launch("tests.training.test_object_store:stream", {"uri": TABLE}, ranks=2, timeout_s=120)
    assert min(len(share) for share in shares) > 0
    assert Counter(row[0] for row in chain(*shares)) == Counter(rows()["id"].to_pylist())


def test_a_clone_reads_its_sources_files_with_the_same_options(own: tuple[Store, Snapshot, list[Path]]) -> None:
    store, _, _ = own
    log = (store.folder / "t/_delta_log/00000000000000000000.json").read_text().splitlines()
    actions = [json.loads(line) for line in log]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = f"s3a://shop/t/{action['add']['path']}"
    clone = store.folder / "clone/_delta_log"
    clone.mkdir(parents=True)
    (clone / "00000000000000000000.json").write_text("\n".join(json.dumps(action) for action in actions))
    found = read_table(open_snapshot("s3a://shop/clone", storage_options=store.options)).sort_by("id")
    assert found.to_pydict() == {"id": [1, 2, 3], "split": ["a", "b b", "c%c"]}


def test_deletion_vectors_lie_in_the_bucket(own: tuple[Store, Snapshot, list[Path]]) -> None:
    store, _, _ = own
    delete(store.folder / "t", "b b", [0])
    assert read_table(open_snapshot("s3://shop/t", storage_options=store.options))["id"].to_pylist() == [1, 3]


@pytest.mark.alone
def test_python_goes_on_while_a_slow_store_answers(tmp_path: Path) -> None:
    """Twelve footers, 0.1 s an answer: at once, not one after the other, and nobody else is stopped meanwhile."""
    write_deltalake(tmp_path / "t", pa.table({"id": range(12), "p": range(12)}), partition_by=["p"])
    with serve(tmp_path, delay_s=0.1) as store:
        beats, ended = [time.perf_counter()], threading.Event()

        def beat() -> None:
            while not ended.wait(0.005):
                beats.append(time.perf_counter())

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            snapshot = open_snapshot("s3://shop/t", storage_options=store.options)
        finally:
            ended.set()
            thread.join()
    assert snapshot.rows == 12
    pauses = [later - sooner for sooner, later in pairwise(beats)]
    assert sum(pause > 0.09 for pause in pauses) < 6, f"{sorted(pauses)[-12:]}"  # twelve, if each file stopped it


@pytest.mark.alone
def test_a_row_groups_columns_are_asked_for_at_once(tmp_path: Path) -> None:
    """Forty columns at 0.1 s an answer are four seconds where each is asked for by itself."""
    names = [f"c{k}" for k in range(40)]
    write_deltalake(tmp_path / "t", pa.table({name: range(10) for name in names}))
    with serve(tmp_path, delay_s=0.1) as store:
        snapshot = open_snapshot("s3://shop/t", storage_options=store.options)
        started = time.perf_counter()
        found = snapshot.read_group(0, names)
        assert time.perf_counter() - started < 3
    assert all(column.to_pylist() == list(range(10)) for column in found.values())


def test_a_missing_object_is_named(own: tuple[Store, Snapshot, list[Path]]) -> None:
    store, snapshot, (first, *_) = own
    first.unlink()
    named = r"file 'split=a/.*\.parquet' of version 0 of table 's3://shop/t' is gone; VACUUM .* Pin a later version"
    with pytest.raises(SnapshotError, match=named):
        read_table(snapshot)
    with pytest.raises(SnapshotError, match=named):
        open_snapshot("s3://shop/t", storage_options=store.options)


@pytest.mark.parametrize("kept", [0, 4, -20])
def test_an_object_cut_short_is_named(own: tuple[Store, Snapshot, list[Path]], kept: int) -> None:
    store, snapshot, (_, second, _) = own
    second.write_bytes(second.read_bytes()[:kept])
    named = r"file 'split=b%20b/.*\.parquet' of version 0 of table 's3://shop/t' .*Restore the file, or pin another"
    if kept < 0:  # only the footer is cut, which an open snapshot has read
        assert sorted(read_table(snapshot)["id"].to_pylist()) == [1, 2, 3]
    else:
        with pytest.raises(SnapshotError, match=f"row group 0 of {named}"):
            read_table(snapshot)
    with pytest.raises(SnapshotError, match=named):
        open_snapshot("s3://shop/t", storage_options=store.options)


def test_a_corrupt_object_is_named(own: tuple[Store, Snapshot, list[Path]]) -> None:
    _, snapshot, (*_, last) = own
    data = bytearray(last.read_bytes())
    data[4:60] = bytes(56)  # the first column's pages
    last.write_bytes(data)
    with pytest.raises(SnapshotError, match=r"row group 0 of file 'split=c%25c/.*' of version 0 .* Restore the file"):
        read_table(snapshot)


def quiet(error: BaseException, *more: str) -> str:
    """The whole traceback as text, after a look that nothing secret is in it."""
    text = "".join(traceback.format_exception(error))
    for secret in (SECRET, KEY_ID, TOKEN, "Signature=", *more):
        assert secret not in text
    return text


@pytest.mark.parametrize(
    ("bucket", "changed", "said"),
    [
        ("none", {}, "404 Not Found: NoSuchBucket"),
        ("denied", {}, "403 Forbidden: AccessDenied"),
        ("shop", {"AWS_SECRET_ACCESS_KEY": "another-secret"}, "403 Forbidden: SignatureDoesNotMatch"),
        ("shop", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Connection refused"),
        ("shop", {"AWS_ALLOW_HTTP": "false"}, "URL scheme is not allowed"),
        ("busy", {}, "503 Service Unavailable: SlowDown"),
        ("silent", {"timeout": "1s"}, "operation timed out"),
    ],
)
def test_a_store_that_refuses_is_named_soon_and_without_secrets(
    store: Store, bucket: str, changed: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.delta_log._OPENING", {"retry_timeout": "1s"})
    options = {**store.options, "AWS_SESSION_TOKEN": TOKEN, **changed}
    started = time.perf_counter()
    with pytest.raises(
        TableError, match=rf"table 's3://{bucket}/t' cannot be reached: .*{said}.*\. See that .* AWS_"
    ) as caught:
        open_snapshot(f"s3://{bucket}/t", storage_options=options)
    assert time.perf_counter() - started < 10
    assert "\x1b" not in quiet(caught.value, "another-secret")


def test_a_store_that_stops_answering_while_training_is_named_without_secrets(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"id": [1]}))
    with serve(tmp_path) as store:
        options = {**store.options, "AWS_SESSION_TOKEN": TOKEN, "max_retries": "1"}
        snapshot = open_snapshot("s3://shop/t", storage_options=options)
    with pytest.raises(
        SnapshotError, match=r"row group 0 of file .* cannot be read: .*refused.* See that the store"
    ) as e:
        read_table(snapshot)
    quiet(e.value)
    for shown in (snapshot, snapshot.source, snapshot.source.filesystems):
        assert not any(secret in repr(shown) for secret in (SECRET, KEY_ID, TOKEN))


def test_credentials_that_end_while_footers_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = DeltaTable(TABLE, storage_options=store.options)
    monkeypatch.setattr("training.data.delta_log._open_table", lambda *_: plain)
    with pytest.raises(SnapshotError, match=r"file 'odd=.*' of version 1 .* cannot be read: .*403 Forbidden") as caught:
        open_snapshot(TABLE, storage_options={**store.options, "AWS_SECRET_ACCESS_KEY": "another-secret"})
    quiet(caught.value)


def test_a_local_table_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("planted")

    monkeypatch.setattr("training.data.delta_log.DeltaTable", refuse)
    with pytest.raises(TableError, match=r"table '.*/t' cannot be reached: planted. See that this process may read it"):
        open_snapshot(str(tmp_path / "t"))


def test_a_url_loses_what_signs_it() -> None:
    error = OSError(
        "Generic MicrosoftAzure error\n \x1b[31m↳\x1b[0m Error performing GET https://a.b/c?sig=planted in 1s"
    )
    assert reason(error) == "Generic MicrosoftAzure error: Error performing GET https://a.b/c in 1s"
    assert reason(OSError("403 Forbidden: <Error>planted</Error>")) == "403 Forbidden: (its answer is left out)"
