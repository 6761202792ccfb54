"""Tables that raw Parquet readers get wrong, built by Spark and Delta: the stream must equal `spark.read`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pyspark.sql import SparkSession

from tests.training.streams import WORLD_SIZES, in_order, ranks_epoch
from training.data.snapshot import open_snapshot, read_table
from training.schema import Column, Kind, Schema

BIG = 2**53 + 1  # the first integer that a float64 cannot hold
VECTORS = "'delta.enableDeletionVectors'='true'"
ROWS = f"""
    select {BIG} + id as id, cast(id * 0.5 as float) as x, sequence(id, id + id % 5) as history,
        cast(id % 7 as int) as k, concat('s', id) as s,
        transform(sequence(0, cast(id % 3 as int)), i -> cast(i as float)) as age,
        date'2024-01-30' + cast(id % 3 as int) as day,
        timestamp'1999-12-31 23:59:59.123456' + make_interval(0,0,0,id) as t,
        case id % 5 when 0 then null when 1 then 'a/b c' when 2 then 'é=%:#?' when 3 then '' else '%2F+' end as p
    from range({{start}}, {{stop}}, 1, 2)
"""
SIZE = 2**62


def rows(start: int = 0, stop: int = 300) -> str:
    return ROWS.format(start=start, stop=stop)


def create(spark: SparkSession, path: str, *, by: str = "", properties: str = "", query: str = "") -> None:
    partitioned = f"partitioned by ({by})" if by else ""
    with_properties = f"tblproperties ({properties})" if properties else ""
    spark.sql(f"create table delta.`{path}` using delta {partitioned} {with_properties} as {query or rows()}")


def deleted(spark: SparkSession, path: str) -> None:
    create(spark, path, properties=VECTORS)
    spark.sql(f"delete from delta.`{path}` where k in (1, 4)")


def merged(spark: SparkSession, path: str) -> None:
    create(spark, path, properties=VECTORS)
    spark.sql(
        f"merge into delta.`{path}` a using ({rows(200, 400)}) b on a.id = b.id when matched and b.k = 3 then delete "
        "when matched then update set x = -1, history = array(1, 2) when not matched then insert *"
    )


def mapped_by_name(spark: SparkSession, path: str) -> None:
    create(spark, path, by="day", properties=f"'delta.columnMapping.mode'='name', {VECTORS}")
    for change in (
        "rename column x to `new, x`",
        "rename column day to the_day",
        "drop column k",
        "add column k string",
    ):
        spark.sql(f"alter table delta.`{path}` {change}")
    spark.sql(f"delete from delta.`{path}` where s like '%7'")
    spark.sql(
        f"insert into delta.`{path}` select id, x, history, s, age, day, t, p, 'now text' from ({rows(300, 350)})"
    )


def mapped_by_id(spark: SparkSession, path: str) -> None:
    spark.sql(
        f"create table delta.`{path}` (id bigint, history array<bigint>, p string) using delta partitioned by (p) "
        "tblproperties ('delta.columnMapping.mode'='id')"
    )
    spark.sql(f"insert into delta.`{path}` select id, history, p from ({rows()})")
    spark.sql(f"alter table delta.`{path}` rename column history to items")


def overwritten(spark: SparkSession, path: str) -> None:
    create(spark, path)
    spark.sql(f"insert overwrite delta.`{path}` {rows(1000, 1050)}")


def z_ordered(spark: SparkSession, path: str) -> None:
    create(spark, path, properties=VECTORS)
    spark.sql(f"insert into delta.`{path}` {rows(300, 400)}")
    spark.sql(f"delete from delta.`{path}` where k = 2")
    spark.sql(f"optimize delta.`{path}` zorder by (id)")


def by_odd_strings(spark: SparkSession, path: str) -> None:
    create(spark, path, by="p", properties=VECTORS)
    spark.sql(f"delete from delta.`{path}` where k = 5")


def by_every_type(spark: SparkSession, path: str) -> None:
    more = "id % 2 = 0 as flag, cast(id % 3 as decimal(9, 2)) as price, timestamp'2024-03-31 01:30:00.5' as at"
    create(spark, path, by="day, k, flag, price, at", query=f"select *, {more} from ({rows(0, 9)})")


def evolved(spark: SparkSession, path: str) -> None:
    create(spark, path, query=f"select id, s from ({rows()})")
    spark.sql(rows(300, 400)).write.format("delta").mode("append").option("mergeSchema", "true").save(path)


def widened(spark: SparkSession, path: str) -> None:
    narrow = "select cast(id as int) as id, cast(id as smallint) as k, cast(id as float) + 0.5f as x from range(50)"
    create(spark, path, properties="'delta.enableTypeWidening'='true'", query=narrow)
    for column, wide in {"id": "bigint", "k": "int", "x": "double"}.items():
        spark.sql(f"alter table delta.`{path}` change column {column} type {wide}")
    spark.sql(f"insert into delta.`{path}` select {BIG} + id, cast(100000 + id as int), 0.1 + id from range(50)")


def widened_and_deleted(spark: SparkSession, path: str) -> None:
    widened(spark, path)
    spark.sql(f"alter table delta.`{path}` set tblproperties ({VECTORS})")
    spark.sql(f"delete from delta.`{path}` where k % 3 = 0")
    spark.sql(f"insert into delta.`{path}` select 9, 3, 0.5")


def cloned(spark: SparkSession, path: str) -> None:
    """Of a table whose partitions' folders are escaped in the log's URLs, with files and vectors of its own."""
    by_odd_strings(spark, f"{path} of")
    spark.sql(f"create table delta.`{path}` shallow clone delta.`{path} of`")
    spark.sql(f"delete from delta.`{path}` where k = 3 and p in ('a/b c', '%2F+')")
    spark.sql(f"insert into delta.`{path}` {rows(300, 320)}")


def clone_of_a_clone(spark: SparkSession, path: str) -> None:
    cloned(spark, f"{path} 50%25")
    spark.sql(f"create table delta.`{path}` shallow clone delta.`{path} 50%25`")


def behind_checkpoints(spark: SparkSession, path: str, policy: str = "classic", parts: int = 0) -> None:
    """Vectors in a checkpoint, in commits after it, and one that a later commit takes away."""
    create(
        spark,
        path,
        by="k",
        properties=f"{VECTORS}, 'delta.checkpointInterval'='3', 'delta.checkpointPolicy'='{policy}'",
    )
    size = "spark.databricks.delta.checkpoint.partSize"
    if parts:
        spark.conf.set(size, parts)
    try:
        for k in (1, 2, 3, 4, 5):
            spark.sql(f"delete from delta.`{path}` where k = {k} and id % 4 = 1")
    finally:
        spark.conf.unset(size)
    spark.sql(f"optimize delta.`{path}` where k = 1")
    spark.sql(f"restore table delta.`{path}` to version as of 4")
    spark.sql(f"delete from delta.`{path}` where k = 6 and id % 4 = 2")


def behind_checkpoints_in_parts(spark: SparkSession, path: str) -> None:
    behind_checkpoints(spark, path, parts=3)


def behind_checkpoints_of_the_second_kind(spark: SparkSession, path: str) -> None:
    behind_checkpoints(spark, path, policy="v2", parts=3)


def many_row_groups(spark: SparkSession, path: str) -> None:
    conf = spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    conf.set("parquet.block.size", "4096")
    try:
        create(spark, path, properties=VECTORS, query=f"select /*+ coalesce(1) */ * from ({rows(0, 2000)})")
    finally:
        conf.unset("parquet.block.size")
    spark.sql(f"delete from delta.`{path}` where k in (0, 6) or id < {BIG} + 150")


TABLES: dict[str, Callable[[SparkSession, str], None]] = {
    build.__name__: build
    for build in (
        deleted,
        merged,
        mapped_by_name,
        mapped_by_id,
        overwritten,
        z_ordered,
        by_odd_strings,
        by_every_type,
        evolved,
        widened,
        widened_and_deleted,
        cloned,
        clone_of_a_clone,
        behind_checkpoints,
        behind_checkpoints_in_parts,
        behind_checkpoints_of_the_second_kind,
        many_row_groups,
    )
}


SLOW = {"behind_checkpoints_in_parts", "behind_checkpoints_of_the_second_kind"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in sorted(TABLES)]


@pytest.fixture(scope="module", params=NAMES)
def table(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("tables") / request.param)
    TABLES[request.param](spark, path)
    return path


class Truth(NamedTuple):
    """What Spark says: types and rows, time stamps without a zone."""

    types: dict[str, str]
    rows: list[Any]


@pytest.fixture(scope="module")
def truth(table: str, spark: SparkSession) -> Truth:
    frame = spark.read.format("delta").load(table)
    # With a zone, the driver would shift them to its own.
    columns = [
        f"cast(`{name}` as timestamp_ntz) as `{name}`" if kind == "timestamp" else f"`{name}`"
        for name, kind in frame.dtypes
    ]
    return Truth(dict(frame.dtypes), frame.selectExpr(*columns).collect())


def schema_of(truth: Truth) -> Schema:
    """A schema of every column that a batch can carry; null numbers become 0."""
    columns = []
    for name, kind in truth.types.items():
        has_null = any(row[name] is None for row in truth.rows)
        fill = 0 if has_null else None
        if kind in ("bigint", "int") and name != "k":
            columns.append(Column(name, Kind.ID, "ids", SIZE, fill=fill))
        elif kind == "array<bigint>":
            columns.append(Column(name, Kind.IDS, "ids", SIZE, fill=fill))
        elif kind == "array<float>":
            columns.append(Column(name, Kind.DENSE, ragged=True, fill=fill))
        elif kind in ("timestamp", "date"):
            columns.append(Column(name, Kind.TIME, fill=fill))
        elif kind == "string" and not has_null:
            columns.append(Column(name, Kind.TEXT))
        elif kind != "string":
            columns.append(Column(name, Kind.DENSE, fill=fill))
    return Schema(tuple(columns))


def as_streamed(column: Column, value: Any) -> Any:
    """A value that Spark gives as the stream must give it."""
    if value is None:
        return [] if column.is_ragged else column.fill
    if column.kind is Kind.TIME:
        moment = value if isinstance(value, datetime.datetime) else datetime.datetime.combine(value, datetime.time())
        return (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1)
    if column.kind is Kind.DENSE and not column.is_ragged:
        return float(np.float32(value))
    return value


def by_key(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(found, key=lambda row: row[0])


def test_table_equals_sparks(table: str, truth: Truth) -> None:
    arrow = read_table(open_snapshot(table))
    mine = [tuple(row.values()) for row in arrow.to_pylist()]
    plain = [tuple(v.replace(tzinfo=None) if isinstance(v, datetime.datetime) else v for v in row) for row in mine]
    assert arrow.column_names == list(truth.types)
    assert by_key(plain) == by_key(tuple(row) for row in truth.rows)


def test_stream_equals_sparks_at_every_world_size(table: str, truth: Truth) -> None:
    schema = schema_of(truth)
    expected = by_key(tuple(as_streamed(schema[name], row[name]) for name in schema.names) for row in truth.rows)
    snapshot = open_snapshot(table, columns=schema.names)
    orders = []
    for world_size in WORLD_SIZES:
        ranks, _ = ranks_epoch(snapshot, schema, world_size=world_size, shards=24)
        assert len({len(steps) for steps in ranks}) == 1
        orders.append(in_order(ranks))
        assert by_key(orders[-1]) == expected
    assert all(order == orders[0] for order in orders)


def test_older_version_and_partitions(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    by_odd_strings(spark, path)
    for wanted in (["a/b c"], [None], ["é=%:#?", "%2F+"]):
        mine = read_table(open_snapshot(path, partitions={"p": wanted}), ["id", "p"]).to_pylist()
        frame = spark.read.format("delta").load(path).select("id", "p")
        found = [row.asDict() for row in frame.collect() if (row.p or None) in wanted]
        assert sorted(mine, key=lambda row: row["id"]) == sorted(found, key=lambda row: row["id"])
    assert open_snapshot(path, 0).rows == 300
    assert open_snapshot(path, 0).fingerprint != open_snapshot(path, 1).fingerprint
