"""Tables: pinned reads, writes that land once, errors that name table, path and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.tables import Tables
from training.errors import SchemaError, TableError


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
    assert tables.merge_new("events", numbers(tables, 1, 2), ["id"], job="ingest", inputs={"file": "a"}) == 0
    assert tables.merge_new("events", numbers(tables, 2, 3), ["id"], job="ingest", inputs={"file": "b"}) == 1
    assert ids(tables.read("events")) == [1, 2, 3]
    assert tables.up_to_date("events", "ingest", {"file": "b"})
    assert tables.merge_new("events", numbers(tables, 1, 3), ["id"], job="ingest", inputs={"file": "c"}) == 1


def test_parquet_settings_hold_for_one_write(tables: Tables) -> None:
    properties = {"parquet.block.size": "12345", "delta.appendOnly": "true", "compression": "zstd"}
    tables.write("events", numbers(tables, 1), mode="append", job="ingest", inputs={}, properties=properties)
    assert tables.spark.conf.get("parquet.block.size", None) is None
    assert list(Path(tables.path("events")).glob("*.zstd.parquet"))
    with pytest.raises(Exception, match="append"):
        tables.write("events", numbers(tables, 2), mode="overwrite", job="ingest", inputs={})


def test_partitions(tables: Tables) -> None:
    tables.write("examples", numbers(tables, 1, 2), mode="overwrite", job="j", inputs={}, partition_by=["name"])
    assert (Path(tables.path("examples")) / "name=2").is_dir()


def test_missing_table_names_table_path_and_job(tables: Tables) -> None:
    with pytest.raises(TableError, match=r"'examples' does not exist at .*tables/examples; run `millrace build_ex"):
        tables.read("examples")
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


def test_a_conflicting_writer_is_named(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two merges of one table from one version: the second is refused."""
    from delta.exceptions import ConcurrentAppendException
    from delta.tables import DeltaMergeBuilder

    def refuse(_: DeltaMergeBuilder) -> None:
        raise ConcurrentAppendException("files were added")

    tables.merge_new("events", numbers(tables, 1), ["id"], job="ingest", inputs={})
    monkeypatch.setattr(DeltaMergeBuilder, "execute", refuse)
    with pytest.raises(TableError, match=r"'events' .* changed by another writer while `ingest`"):
        tables.merge_new("events", numbers(tables, 2), ["id"], job="ingest", inputs={"file": "b"})
