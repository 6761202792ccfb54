"""Random tables under random operations: what is streamed is what `spark.read` gives, row for row."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException, UnsupportedOperationException
from pyspark.sql import SparkSession

from tests.training.streams import ranks_epoch
from tests.training.test_awkward_tables import Truth, as_streamed, schema_of
from training.data.snapshot import open_snapshot, read_table

TABLES = int(os.environ.get("MILLRACE_FUZZ_TABLES", "24"))
ODD = ("null", "'a b'", "'a/b'", "'50%'", "'50%25'", "'é=:#?&+'", "''", "'x\\ty'", "'{{[]}}'")
FOLDERS = ("plain", "a b", "50%25", "é+&", "x=1")


class Fuzz:
    """One table and what may happen to it; every choice comes from its seed."""

    def __init__(self, spark: SparkSession, folder: Path, seed: int) -> None:
        self.spark, self.folder, self.random = spark, folder, random.Random(seed)
        self.done = list[str]()
        self.path = str(folder / f"{self.random.choice(FOLDERS)}-{seed}")
        self.added = self.clones = 0
        self.next_id = 0
        self.create()

    def sql(self, text: str) -> None:
        self.done.append(text)
        self.spark.sql(text)

    @property
    def table(self) -> str:
        return f"delta.`{self.path}`"

    def columns(self) -> list[str]:
        return self.spark.read.format("delta").load(self.path).columns

    def create(self) -> None:
        by = self.random.choice(("", "p", "p", "k", "p, k"))
        properties = {
            "delta.enableDeletionVectors": self.random.choice(("true", "true", "false")),
            "delta.enableTypeWidening": self.random.choice(("true", "false")),
            "delta.columnMapping.mode": self.random.choice(("none", "name", "name", "id")),
            "delta.checkpointInterval": self.random.choice(("2", "10")),
            "delta.checkpointPolicy": self.random.choice(("classic", "v2")),
        }
        listed = ", ".join(f"'{key}'='{value}'" for key, value in properties.items())
        self.sql(
            f"create table {self.table} (id bigint, k int, x float, s string, p string, history array<bigint>) using "
            f"delta {f'partitioned by ({by})' if by else ''} tblproperties ({listed})"
        )
        self.append()

    def rows(self, count: int) -> str:
        """A query of new rows in the columns of the first schema."""
        start, self.next_id = self.next_id, self.next_id + count
        odd = self.random.sample(ODD, 3)
        cases = " ".join(f"when {number} then {value}" for number, value in enumerate(odd))
        return (
            "select id, cast(id % 4 as int) as k, if(id % 9 = 0, null, cast(id / 2 as float)) as x, "
            f"concat('s', id) as s, case id % 3 {cases} end as p, "
            "if(id % 7 = 0, null, sequence(id, id + id % 3)) as history "
            f"from range({start}, {start + count}, 1, {self.random.choice((1, 2))})"
        )

    def append(self) -> None:
        known = {"id", "k", "x", "s", "p", "history"}
        there = self.columns()
        self.spark.sql(self.rows(self.random.randint(1, 60))).createOrReplaceTempView("fuzz_new")
        names = ", ".join(f"`{name}`" for name in there)
        values = ", ".join(f"`{name}`" if name in known else "cast(null as string)" for name in there)
        self.sql(f"insert into {self.table} ({names}) select {values} from fuzz_new")

    def overwrite(self) -> None:
        self.sql(f"delete from {self.table} where true")
        self.append()

    def delete(self) -> None:
        self.sql(f"delete from {self.table} where {self.condition()}")

    def update(self) -> None:
        self.sql(f"update {self.table} set s = concat('u', s) where {self.condition()}")

    def merge(self) -> None:
        self.sql(
            f"merge into {self.table} a using (select id as key from {self.table} where {self.condition()}) b "
            "on a.id = b.key when matched and a.id % 2 = 0 then delete when matched then update set s = 'merged'"
        )

    def optimize(self) -> None:
        self.sql(f"optimize {self.table} {self.random.choice(('', '', 'zorder by (id)'))}")

    def rename(self) -> None:
        extra = [name for name in self.columns() if name.startswith("extra")]
        if extra:
            self.sql(f"alter table {self.table} rename column `{self.random.choice(extra)}` to `{self.fresh()}`")

    def add(self) -> None:
        self.sql(f"alter table {self.table} add column `{self.fresh()}` string")
        self.sql(f"update {self.table} set `{self.columns()[-1]}` = concat('e', id) where {self.condition()}")

    def drop(self) -> None:
        extra = [name for name in self.columns() if name.startswith("extra")]
        if extra:
            self.sql(f"alter table {self.table} drop column `{self.random.choice(extra)}`")

    def widen(self) -> None:
        column, wide = self.random.choice((("k", "bigint"), ("x", "double")))
        self.sql(f"alter table {self.table} change column {column} type {wide}")

    def clone(self) -> None:
        self.clones += 1
        path = f"{self.path} clone {self.random.choice(FOLDERS)} {self.clones}"
        self.sql(f"create table delta.`{path}` shallow clone {self.table}")
        self.path = path

    def restore(self) -> None:
        newest = open_snapshot(self.path).version
        self.sql(f"restore table {self.table} to version as of {self.random.randint(max(0, newest - 1), newest)}")

    def condition(self) -> str:
        return self.random.choice(
            (
                f"id % {self.random.randint(2, 6)} = 1",
                f"id < {self.random.randint(0, self.next_id)}",
                f"k = {self.random.randint(0, 3)}",
                f"p <=> {self.random.choice(ODD)}",
            )
        )

    def fresh(self) -> str:
        self.added += 1
        return f"extra {self.added}" if self.mapped else f"extra{self.added}"

    @property
    def mapped(self) -> bool:
        return open_snapshot(self.path).properties.get("delta.columnMapping.mode", "none") != "none"

    def step(self) -> None:
        """One operation that this table allows; what Delta refuses (no mapping, no widening) changes nothing."""
        acts: list[Callable[[], None]] = [
            self.append,
            self.append,
            self.overwrite,
            self.delete,
            self.delete,
            self.update,
        ]
        acts += [self.merge, self.optimize, self.rename, self.add, self.drop, self.widen, self.clone, self.restore]
        try:
            self.random.choice(acts)()
        except (AnalysisException, UnsupportedOperationException) as refused:
            self.done.append(f"-- refused: {str(refused)[:100]}")


def counted(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row that can be counted; 0 and 0.0 are one value."""
    return tuple(tuple(value) if isinstance(value, list) else value for value in row)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(TABLES))
def test_a_random_tables_stream_is_sparks(spark: SparkSession, tmp_path: Path, seed: int) -> None:
    fuzz = Fuzz(spark, tmp_path, seed)
    for _ in range(fuzz.random.randint(3, 8)):
        fuzz.step()
    frame = spark.read.format("delta").load(fuzz.path)
    truth = Truth(dict(frame.dtypes), frame.collect())
    snapshot = open_snapshot(fuzz.path)
    said = "\n".join(fuzz.done)
    whole = Counter(repr(tuple(row.values())) for row in read_table(snapshot).to_pylist())
    assert whole == Counter(repr(tuple(row)) for row in truth.rows), said
    if truth.rows:
        schema = schema_of(truth)
        ranks, _ = ranks_epoch(snapshot, schema, world_size=fuzz.random.choice((1, 2, 3)))
        streamed = Counter(counted(row) for steps in ranks for rows in steps for row in rows)
        wanted = (tuple(as_streamed(schema[name], row[name]) for name in schema.names) for row in truth.rows)
        assert streamed == Counter(map(counted, wanted)), said
