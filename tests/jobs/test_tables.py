"""Tables: pinned reads, writes that land once, errors that name table, path and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.errors import UnknownException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import commit_files, delta_sql
from jobs.commits import Commit, is_conflict
from jobs.sessions import SPARK_ERRORS, partitions_for, session_settings
from jobs.tables import Tables
from tests.jobs.pairs import together
from training.errors import NoTableError, SchemaError, TableError


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    return Tables(spark, str(tmp_path / "tables"))


def numbers(tables: Tables, *values: int) -> DataFrame:
    return tables.spark.createDataFrame([(value, str(value)) for value in values], "id bigint, name string")


def ids(df: DataFrame) -> list[int]:
    return sorted(row["id"] for row in df.select("id").collect())


def test_reads_are_pinned_and_versions_readable(tables: Tables) -> None:
    first = tables.write("events", numbers(tables, 1, 2), mode="overwrite", job="ingest", inputs={"file": "a"})
    before = tables.read("events")
    second = tables.write("events", numbers(tables, 3), mode="overwrite", job="ingest", inputs={"file": "b"})
    assert (first, second) == (0, 1)
    assert ids(before) == [1, 2]
    assert ids(tables.read("events")) == [3]
    assert ids(tables.read("events", version=0)) == [1, 2]


def test_up_to_date_means_same_job_and_inputs_since_the_last_change(tables: Tables) -> None:
    assert not tables.up_to_date("events", "ingest", {"file": "a"})
    tables.write("events", numbers(tables, 1), mode="overwrite", job="ingest", inputs={"file": "a"})
    assert tables.up_to_date("events", "ingest", {"file": "a"})
    assert not tables.up_to_date("events", "ingest", {"file": "b"})
    assert not tables.up_to_date("events", "other", {"file": "a"})
    tables.spark.sql(f"OPTIMIZE delta.`{tables.path('events')}`")
    assert tables.up_to_date("events", "ingest", {"file": "a"})
    tables.spark.sql(f"DELETE FROM delta.`{tables.path('events')}` WHERE id = 1")
    assert not tables.up_to_date("events", "ingest", {"file": "a"})


def test_inputs_may_return_after_others(tables: Tables) -> None:
    for value, file in ((1, "a"), (2, "b"), (1, "a")):
        tables.write("events", numbers(tables, value), mode="overwrite", job="ingest", inputs={"file": file})
    assert ids(tables.read("events")) == [1]


def test_merge_new_inserts_only_unknown_keys(tables: Tables) -> None:
    assert tables.merge_new("events", numbers(tables, 1, 2), ["id"], job="ingest", inputs={"file": "a"}) == 1
    assert tables.merge_new("events", numbers(tables, 2, 3), ["id"], job="ingest", inputs={"file": "b"}) == 2
    assert ids(tables.read("events")) == [1, 2, 3]
    assert tables.up_to_date("events", "ingest", {"file": "b"})
    assert tables.merge_new("events", numbers(tables, 1, 3), ["id"], job="ingest", inputs={"file": "c"}) == 2


def test_names_are_taken_as_they_stand(spark: SparkSession, tmp_path: Path) -> None:
    """SQL quotes with backticks, and a folder may have them; no view of a merge stays."""
    tables = Tables(spark, str(tmp_path / "a `shop`'s 100% [x]"))
    assert not tables.exists("events")
    tables.merge_new("events", numbers(tables, 1, 2), ["id"], job="ingest", inputs={"file": "a"})
    tables.note_nothing_new("events", "ingest", {"file": "b"})
    tables.clone("events", f"{tables.root} again")
    assert tables.remove("events", numbers(tables, 1).select("id"), job="ingest", inputs={}) == 1
    assert [tables.exists("events"), tables.folders("events"), tables.size("events") > 0] == [True, [], True]
    assert tables.made_from("events") == {}
    assert [row["name"] for row in tables.read("events").collect()] == ["2"]
    assert Tables(spark, f"{tables.root} again").read("events").count() == 2
    names = [row["tableName"] for row in spark.sql("SHOW TABLES").collect()]
    assert not [name for name in names if name.startswith("millrace_")]


def test_a_variable_in_the_root_is_refused(spark: SparkSession) -> None:
    """Spark's SQL would put something else there, and its writers would not: two tables instead of one."""
    with pytest.raises(TableError, match=r"tables.root 's3a://\$\{SHOP\}/tables' must .* write out what '\$\{...\}'"):
        Tables(spark, "s3a://${SHOP}/tables")


def test_nothing_new_is_noted_until_rows_change(tables: Tables) -> None:
    tables.merge_new("events", numbers(tables, 1), ["id"], job="ingest", inputs={"file": "a"})
    content = tables.pin("events").content
    for file in "bc":
        tables.note_nothing_new("events", "ingest", {"file": file})
    assert [tables.up_to_date("events", "ingest", {"file": file}) for file in "abcd"] == [True, True, True, False]
    assert tables.pin("events").content == content
    assert tables.made_from("events") == {"file": "a"}
    tables.merge_new("events", numbers(tables, 2), ["id"], job="ingest", inputs={"file": "d"})
    assert [tables.up_to_date("events", "ingest", {"file": file}) for file in "abcd"] == [False, False, False, True]
    with pytest.raises(TableError, match="table 'items' does not exist"):
        tables.note_nothing_new("items", "ingest", {})


def test_parquet_settings_hold_for_one_write(tables: Tables) -> None:
    properties = {"parquet.block.size": "12345", "delta.appendOnly": "true", "compression": "zstd"}
    tables.write("events", numbers(tables, 1), mode="append", job="ingest", inputs={}, properties=properties)
    assert tables.spark.conf.get("parquet.block.size", None) is None
    assert list(Path(tables.path("events")).glob("*.zstd.parquet"))
    with pytest.raises(Exception, match="append"):
        tables.write("events", numbers(tables, 2), mode="overwrite", job="ingest", inputs={})


def test_a_write_asks_for_the_history_as_often_as_it_must(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what lies there, where that counts, and for the version that the write made."""
    tables.write("events", numbers(tables, 1), mode="overwrite", job="ingest", inputs={"file": "a"})
    asked, looked = list[str](), list[str]()
    newest_first, is_table = commit_files.newest_first, delta_sql.is_table
    monkeypatch.setattr(commit_files, "newest_first", lambda *args: asked.append("history") or newest_first(*args))
    monkeypatch.setattr(delta_sql, "is_table", lambda *args: looked.append("table") or is_table(*args))
    rows = {"job": "ingest", "df": numbers(tables, 2)}

    def counts(call: Callable[[], object]) -> tuple[int, int]:
        call()
        found = len(asked), len(looked)
        asked.clear(), looked.clear()
        return found

    assert counts(lambda: tables.write("events", **rows, mode="append", inputs={"n": 1})) == (1, 0)
    assert counts(lambda: tables.write("events", **rows, mode="overwrite", inputs={"n": 2})) == (2, 0)
    assert counts(lambda: tables.write("events", **rows, mode="overwrite", inputs={"n": 3}, since=2)) == (1, 0)
    assert counts(lambda: tables.merge_new("events", **rows, keys=["id"], inputs={"n": 4})) == (1, 1)
    assert counts(lambda: tables.up_to_date("events", "ingest", {"n": 3})) == (1, 0)


def test_commits_of_files_are_those_of_the_history(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a commit's first line is about something else, one says nothing, and more are there than are read."""
    for file in "abcdef":
        tables.write("a 'b", numbers(tables, 1), mode="append", job="ingest", inputs={"file": file})
    log = Path(tables.path("a 'b"), "_delta_log")

    def both() -> tuple[list[Commit], list[Commit], int]:
        asked, history = list[int](), delta_sql.history
        with monkeypatch.context() as patched:
            patched.setattr(delta_sql, "history", lambda *args: asked.append(args[-1]) or history(*args))
            newest = next(tables.history("a 'b"))
            first = len(asked)
            all_ = [*tables.history("a 'b")]
            patched.setattr(commit_files, "is_remote", lambda: True)
            assert next(tables.history("a 'b")) == newest
            return all_, [*tables.history("a 'b")], first

    ours, theirs, asked = both()
    assert ours == theirs
    assert ([commit.version for commit in ours], asked) == ([5, 4, 3, 2, 1, 0], 0)
    for version, change in ((3, lambda lines: lines[1:]), (5, lambda lines: lines[::-1])):
        file = log / f"{version:020d}.json"
        file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
        (log / f".{file.name}.crc").unlink()
        ours, theirs, asked = both()
        assert ours == theirs
        assert asked == (version == 5), "the newest commit's first line is not about it: the history tells"


def test_an_id_is_read_from_the_newest_commits_checksum(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """And asked of Delta where that is torn, or there is none."""
    for value in (1, 2):
        tables.write("events", numbers(tables, value), mode="append", job="ingest", inputs={"file": value})
    told = tables.detail("events")
    asked: list[str] = []
    detail = delta_sql.detail
    monkeypatch.setattr(delta_sql, "detail", lambda spark, path: asked.append(path) or detail(spark, path))
    assert (tables.id("events"), tables.folders("events"), asked) == (told["id"], [], [])
    checksum = Path(tables.path("events"), "_delta_log", f"{1:020d}.crc")
    torn = [lambda text=text: checksum.write_text(text) for text in ('{"metadata": ', '{"metadata": {}}')]
    for break_it in (*torn, checksum.unlink):
        checksum.with_name(f".{checksum.name}.crc").unlink(missing_ok=True)
        break_it()
        assert tables.id("events") == told["id"]
    assert len(asked) == 3


def test_partitions(tables: Tables) -> None:
    tables.write("examples", numbers(tables, 1, 2), mode="overwrite", job="j", inputs={}, partition_by=["name"])
    assert (Path(tables.path("examples")) / "name=2").is_dir()


def test_missing_table_names_table_path_and_job(tables: Tables) -> None:
    with pytest.raises(TableError, match=r"'examples' does not exist at .*tables/examples; run `millrace build-ex"):
        tables.read("examples")
    with pytest.raises(NoTableError, match="'examples' does not exist"):
        tables.read("examples", 0)
    with pytest.raises(TableError, match="run `millrace ingest` first"):
        tables.version("events")


def test_missing_version_names_it(tables: Tables) -> None:
    tables.write("events", numbers(tables, 1), mode="overwrite", job="ingest", inputs={})
    with pytest.raises(TableError, match=r"no version 7 any more \(newest: 0\)"):
        tables.read("events", version=7)


def test_require_lists_every_problem(tables: Tables) -> None:
    df = numbers(tables, 1)
    assert tables.require(df, "events", {"name": "string"}).columns == ["name"]
    problems = "'id' must be string, it is bigint; column 'time' must be timestamp, it is missing"
    with pytest.raises(SchemaError, match=problems):
        tables.require(df, "events", {"id": "string", "name": "string", "time": "timestamp"})


@pytest.mark.parametrize(
    "text",
    [
        "An error occurred while calling o89.save.\n: io.delta.exceptions.ProtocolChangedException: [DELTA_PROTOCOL]",
        "org.apache.spark.sql.delta.ConcurrentAppendException: Files were added to the root of the table",
        "[DELTA_CONCURRENT_DELETE_READ] This transaction attempted to read one or more files that were deleted",
        "Caused by: io.delta.exceptions.MetadataChangedException: The metadata of the Delta table has been changed",
    ],
)
def test_a_conflict_is_known_by_deltas_own_words(tables: Tables, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Whatever type it has in Python, the second of two writers is refused in one message."""
    tables.merge_new("events", numbers(tables, 1), ["id"], job="ingest", inputs={})

    def refuse(*_: object) -> None:
        raise UnknownException(text)

    monkeypatch.setattr(delta_sql, "merge", refuse)
    with pytest.raises(TableError, match=r"'events' .* changed by another writer while `ingest`"):
        tables.merge_new("events", numbers(tables, 2), ["id"], job="ingest", inputs={"file": "b"})
    assert not is_conflict(ValueError("a path 'ConcurrentAppend' does not exist"))


def test_what_is_no_conflict_stays_what_it_is(tables: Tables) -> None:
    tables.merge_new("events", numbers(tables, 1), ["id"], job="ingest", inputs={})
    other = tables.spark.createDataFrame([(2, 3.0)], "id bigint, price double")
    with pytest.raises(SPARK_ERRORS, match="DELTA_MERGE_UNRESOLVED_EXPRESSION"):
        tables.merge_new("events", other, ["id"], job="ingest", inputs={"file": "b"})


def test_an_append_lands_once(tables: Tables) -> None:
    for _ in range(2):
        assert tables.write("log", numbers(tables, 1), mode="append", job="ingest", inputs={"file": "a"}) == 0
    assert tables.write("log", numbers(tables, 2), mode="append", job="ingest", inputs={"file": "b"}) == 1
    assert tables.write("log", numbers(tables, 1), mode="append", job="ingest", inputs={"file": "a"}) == 0
    assert ids(tables.read("log")) == [1, 2]


def test_rows_are_replaced_where_they_belong_from_the_first_write_on(tables: Tables) -> None:
    def write(name: str, *values: int) -> int:
        return tables.write(
            "scores", numbers(tables, *values).withColumn("of", F.lit(name)), mode="overwrite", job="score",
            inputs={"of": name, "values": values}, where=f"of = '{name}'", partition_by=["of"],
        )  # fmt: skip

    assert [write("a", 1, 2), write("b", 3), write("a", 4)] == [1, 2, 3]
    assert ids(tables.read("scores")) == [3, 4]
    assert (Path(tables.path("scores")) / "of=b").is_dir()


def test_rows_of_a_version_are_put_back(tables: Tables) -> None:
    for size in (2, 3):
        tables.write("numbers", tables.spark.range(size), mode="overwrite", job="count", inputs={"size": size})
    assert tables.put_back("numbers", 1, job="count", inputs={"size": 3}) == 1
    delta_sql.set_properties(tables.spark, tables.path("numbers"), {"a": "b"})
    assert tables.put_back("numbers", 1, job="count", inputs={"size": 3}) == 2  # its rows are there
    assert tables.put_back("numbers", 0, job="count", inputs={"size": 2}) == 3
    assert tables.read("numbers").count() == 2
    assert tables.made_from("numbers") == {"size": 2}


def test_a_write_on_top_of_an_unseen_change_is_refused(tables: Tables) -> None:
    seen = tables.write("builds", numbers(tables, 1), mode="overwrite", job="build", inputs={"n": 1})
    assert tables.write("builds", numbers(tables, 2), mode="overwrite", job="build", inputs={"n": 2}, since=seen) == 1
    with pytest.raises(TableError, match=r"'builds' .* changed by another writer while `build`"):
        tables.write("builds", numbers(tables, 3), mode="overwrite", job="build", inputs={"n": 3}, since=seen)
    assert ids(tables.read("builds")) == [2]


def test_housekeeping_changes_no_content(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.commits.HISTORY", 2)
    place = f"delta.`{tables.path('events')}`"
    properties = {"delta.enableDeletionVectors": "true"}
    for value in (1, 2):
        tables.merge_new(
            "events",
            numbers(tables, value, value + 10),
            ["id"],
            job="ingest",
            inputs={"n": value},
            properties=properties,
        )
    tables.spark.sql(f"DELETE FROM {place} WHERE id = 1")
    assert tables.pin("events") == (3, 3)
    for order in (
        f"OPTIMIZE {place}",
        f"ALTER TABLE {place} SET TBLPROPERTIES ('note' = 'x')",
        f"ALTER TABLE {place} UNSET TBLPROPERTIES ('note')",
        f"ALTER TABLE {place} CLUSTER BY (id)",
    ):
        tables.spark.sql(order)
    newest, content = tables.pin("events")
    assert (newest == tables.version("events") >= 6, content) == (True, 3)
    assert not tables.up_to_date("events", "ingest", {"n": 2})
    tables.merge_new("events", numbers(tables, 3), ["id"], job="ingest", inputs={"n": 3})
    tables.spark.sql(f"OPTIMIZE {place}")
    assert tables.pin("events").content == newest + 1
    assert tables.up_to_date("events", "ingest", {"n": 3})


def first(kind: str, root: str, values: tuple[int, ...]) -> Callable[[SparkSession], int]:
    def write(session: SparkSession) -> int:
        tables, inputs = Tables(session, root), {"values": values}
        rows = numbers(tables, *values).withColumn("of", F.lit(min(values)))
        if kind == "merge":
            return tables.merge_new("t", rows, ["id"], job="j", inputs=inputs)
        if kind == "where":
            where = f"of = {min(values)}"
            return tables.write("t", rows, mode="overwrite", job="j", inputs=inputs, where=where, partition_by=["of"])
        return tables.write("t", rows, mode=kind, job="j", inputs=inputs)  # type: ignore[arg-type]

    return write


@pytest.mark.parametrize("kind", ["append", "overwrite", "merge", "where"])
def test_two_first_writers_lose_nothing_in_silence(tables: Tables, kind: str) -> None:
    sets = ((1, 2), (3, 4)) if kind == "where" else ((1, 2), (2, 3))
    for number in range(2):
        root = f"{tables.root}/{number}"
        results = together(tables.spark, *(first(kind, root, values) for values in sets))
        kept = [values for values, result in zip(sets, results, strict=True) if not isinstance(result, TableError)]
        assert kept, results
        held = ids(Tables(tables.spark, root).read("t"))
        assert held in ([*map(list, kept)] if kind == "overwrite" else [sorted({*sum(kept, ())})]), results
        if kind == "where":
            assert kept == list(sets)  # each has rows of its own


def test_of_two_first_writers_one_that_merges_first_leaves_the_other_out(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has made the table adds rows without a look at it."""
    write = Tables.write

    def late(self: Tables, *args: Any, **more: Any) -> int:
        monkeypatch.setattr(Tables, "write", write)
        tables.merge_new("t", numbers(tables, 2, 3), ["id"], job="ingest", inputs={"file": "b"})
        return write(self, *args, **more)

    monkeypatch.setattr(Tables, "write", late)
    with pytest.raises(TableError, match=r"'t' .* changed by another writer while `ingest`"):
        tables.merge_new("t", numbers(tables, 1, 2), ["id"], job="ingest", inputs={"file": "a"})
    assert ids(tables.read("t")) == [2, 3]


def test_small_data_takes_few_partitions_and_large_no_more_than_the_session_has(spark: SparkSession) -> None:
    shuffle, log = "spark.sql.shuffle.partitions", "spark.databricks.delta.snapshotPartitions"
    with session_settings(spark, {shuffle: "200", log: "50"}):
        assert partitions_for(spark, 1_000) == {shuffle: "2", log: "2"}
        assert partitions_for(spark, 40 << 20) == {shuffle: "10", log: "10"}
        assert partitions_for(spark, 1 << 40) == {shuffle: "200", log: "50"}
    databricks: Any = SimpleNamespace(
        conf=SimpleNamespace(get=lambda name, _: {shuffle: "auto"}.get(name)),
        sparkContext=SimpleNamespace(defaultParallelism=8),
    )
    assert partitions_for(databricks, 1_000) == {log: "8"}
