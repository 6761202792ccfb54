"""The verdict agrees with Spark on a true stream, and finds rows that are lost, doubled or altered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from jobs import verify_epoch
from jobs.verify_epoch import verify
from spark_udfs.row_hashes import Sums, sums_of
from training.data.loader import Loader
from training.errors import DataError, TableError
from training.schema import Schema


@pytest.fixture(scope="module")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("verify") / "t")
    spark.sql(
        f"""create table delta.`{path}` using delta partitioned by (split)
        tblproperties ('delta.enableDeletionVectors'='true') as
        select id - 100 as id, cast(if(id % 7 = 0, null, id / 3) as double) as x, sequence(-id, id % 4) as history,
            timestamp'2025-01-01' + make_interval(0, 0, 0, 0, id) as at, concat('s', id) as name, unhex('00ff') as raw,
            if(id % 3 = 0, null, 'n') as note, id % 2 = 0 as flag, if(id % 5 = 0, 'train', 'validation') as split
        from range(0, 500, 1, 2)"""
    )
    spark.sql(f"delete from delta.`{path}` where id % 10 = 3")
    return path


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_true_stream_is_correct(spark: SparkSession, table: str, world_size: int) -> None:
    verdict = verify(spark, table, world_size=world_size)
    assert verdict["correct"]
    assert verdict["rows_in_spark"] == verdict["rows_streamed"] == 460
    assert len(verdict["steps"]) == world_size
    assert verdict["left_out"] == ["note (string, with nulls)"]


def test_a_doubled_row_in_a_lost_ones_place_is_found(
    spark: SparkSession, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, carried = verify_epoch._cells, verify_epoch._carried

    def two_columns(*args: Any) -> Any:
        found = carried(*args).schema
        return verify_epoch.Carried(Schema((found["id"], found["x"])), [])

    def doubled(batch: Any) -> Any:
        return [values[[0, 0, *range(2, len(values))]] for values in cells(batch)]  # type: ignore[call-overload, index]

    monkeypatch.setattr(verify_epoch, "_carried", two_columns)
    monkeypatch.setattr(verify_epoch, "_cells", doubled)
    verdict = verify(spark, table)
    assert verdict["rows_streamed"] == verdict["rows_in_spark"]
    assert not verdict["same_rows"]
    assert not verdict["correct"]
    with pytest.raises(DataError, match="must be Spark's 460 rows in equal steps; 460 rows came, in steps"):
        verify_epoch._correct(verdict)


def test_unequal_steps_are_found(spark: SparkSession, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Loader.epoch

    def one_more(loader: Loader, epoch: int) -> Any:
        yield from whole(loader, epoch)
        if loader.rank == 1:
            yield {}

    monkeypatch.setattr(Loader, "epoch", one_more)
    verdict = verify(spark, table, world_size=2)
    assert verdict["same_rows"]
    assert not verdict["correct"]
    assert verdict["steps"] == [1, 2]


def test_sums_ignore_order_and_nothing_else() -> None:
    ids, x = np.arange(5), np.arange(5, dtype=np.float32)
    lists = (np.array([1, 2, 3, 4, 5, 6]), np.array([0, 0, 1, 3, 3, 6]))
    whole = sums_of([ids, x, lists, list("abcde")], 5)
    assert whole.rows == 5
    assert sums_of([ids[::-1], x[::-1]], 5) == sums_of([ids, x], 5)
    parts = sums_of([ids[:2], x[:2]], 2) + sums_of([ids[2:], x[2:]], 3)
    assert parts == sums_of([ids, x], 5)
    assert sums_of([x.astype(np.int64), x], 5) != sums_of([x, x.astype(np.int64)], 5)
    other = (np.array([2, 1, 3, 4, 5, 6]), lists[1])
    assert sums_of([ids, x, other, list("abcde")], 5) != whole
    assert sums_of([ids, x, lists, list("abcdf")], 5) != whole
    assert Sums(1, 2**63 - 1, 0) + Sums(1, 1, 0) == Sums(2, -(2**63), 0)


def test_no_table_is_one_message(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no Delta table at"):
        verify(spark, str(tmp_path / "none"))


def test_command_line(spark: SparkSession, table: str) -> None:
    app = typer.Typer()
    app.command()(verify_epoch.command)
    assert CliRunner().invoke(app, ["--table", table, "--world-size", "2"]).exit_code == 0
