"""Stream one epoch of a table at any world size and hold it against Spark's own answer.

    millrace verify-epoch --settings pipeline.yaml                 the examples, at the settings' number of ranks
    python -m jobs.verify_epoch --table s3://shop/clicks --version 12 --world-size 8

All ranks are read in turn in this process. The verdict: each row of `spark.read` came exactly once (count, and two sums
of row hashes over all columns that a batch can carry), and every rank took the same number of steps.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import typer
from pyspark.sql import DataFrame, SparkSession

from jobs import builds
from jobs.command import Flags, SettingsFile, guarded, run_alone
from jobs.console import say, show_counts, step
from jobs.sessions import in_utc, open_session
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from spark_udfs.row_hashes import Cells, Sums, row_sums, sums_of
from training.batch import Batch, Ragged, batch_size
from training.data.loader import Loader
from training.data.snapshot import Snapshot, open_snapshot
from training.errors import DataError
from training.schema import Column, Kind, Schema

BATCH_ROWS = 4096


class Carried(NamedTuple):
    """A table's columns as a batch carries them, and those that it cannot."""

    schema: Schema
    left_out: list[str]


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Verify the examples table at the settings' number of ranks; see `verify`.

    Raises:
        DataError: the stream is not what Spark reads.
    """
    ranks = settings.training.ranks
    return _correct(verify(open_session(settings, spark, beside=("torch",)), **_in_force(settings), world_size=ranks))


def _in_force(settings: Settings) -> dict[str, Any]:
    """The examples that training takes."""
    version = builds.published_at(settings.tables.root)["versions"]["examples"]
    return {"table": f"{settings.tables.root}/examples", "version": version}


@in_utc
def verify(
    spark: SparkSession, table: str, *, version: int | None = None, world_size: int = 1, epoch: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Stream an epoch at a world size, compare it with Spark's rows and print the verdict.

    Returns:
        The verdict: `correct`, the counts on both sides, the steps of each rank, and the columns left out.

    Raises:
        TableError: there is no such table or version, or its files cannot be read.
    """
    snapshot = open_snapshot(table, version)
    root, _, name = snapshot.uri.rpartition("/")
    frame = Tables(spark, root).read(name, snapshot.version)
    with step(f"Spark reads version {snapshot.version} of {snapshot.uri}"):
        carried = _carried(snapshot.schema, _columns_with_nulls(frame))
        theirs = _spark_sums(frame, carried.schema)
    with step(f"{world_size} rank(s) stream epoch {epoch}"):
        started = time.perf_counter()
        ours, steps = _stream_sums(snapshot, carried.schema, world_size, epoch, seed)
        seconds = time.perf_counter() - started
    verdict = {
        "correct": ours == theirs and len(set(steps)) == 1,
        "table": snapshot.uri,
        "version": snapshot.version,
        "world_size": world_size,
        "rows_in_spark": theirs.rows,
        "rows_streamed": ours.rows,
        "same_rows": ours == theirs,
        "steps": steps,
        "left_out": carried.left_out,
        "rows_per_s": ours.rows / seconds,
    }
    _show(verdict)
    return verdict


def _correct(verdict: dict[str, Any]) -> dict[str, Any]:
    if not verdict["correct"]:
        raise DataError(
            f"an epoch of version {verdict['version']} of table '{verdict['table']}' must be Spark's "
            f"{verdict['rows_in_spark']} rows in equal steps; {verdict['rows_streamed']} rows came, in steps "
            f"{verdict['steps']}. Do not train on this table; report it with its `DESCRIBE DETAIL`"
        )
    return verdict


def _columns_with_nulls(frame: DataFrame) -> set[str]:
    counts = frame.selectExpr(*[f"count(*) - count(`{name}`) as `{name}`" for name in frame.columns]).collect()[0]
    return {name for name in frame.columns if counts[name]}


def _carried(table: pa.Schema, with_nulls: set[str]) -> Carried:
    columns, left_out = list[Column](), list[str]()
    for field in table:
        column = _column(field, field.name in with_nulls)
        if column is None:
            left_out.append(f"{field.name} ({field.type}{', with nulls' if field.name in with_nulls else ''})")
        else:
            columns.append(column)
    return Carried(Schema(tuple(columns)), left_out)


def _column(field: pa.Field, has_nulls: bool) -> Column | None:
    """A column of any table; whole numbers as times, which have no range to keep. Null numbers are 0 on both sides."""
    types, listed = pa.types, pa.types.is_list(field.type)
    element = field.type.value_type if listed else field.type
    if types.is_integer(element) or (not listed and (types.is_timestamp(element) or types.is_date(element))):
        return Column(field.name, Kind.TIME, ragged=listed, fill=0)
    if types.is_floating(element):
        return Column(field.name, Kind.DENSE, ragged=listed, fill=0)
    if not listed and not has_nulls and types.is_boolean(element):
        return Column(field.name, Kind.DENSE)
    if not listed and not has_nulls and types.is_string(element):
        return Column(field.name, Kind.TEXT)
    if not listed and not has_nulls and types.is_binary(element):
        return Column(field.name, Kind.IMAGE)
    return None


def _spark_sums(frame: DataFrame, schema: Schema) -> Sums:
    return sum((Sums(*row) for row in row_sums(frame, schema).collect()), Sums(0, 0, 0))


def _stream_sums(snapshot: Snapshot, schema: Schema, world_size: int, epoch: int, seed: int) -> tuple[Sums, list[int]]:
    """Sums over all ranks, and each rank's steps."""
    total, steps = Sums(0, 0, 0), list[int]()
    for rank in range(world_size):
        with Loader(snapshot, schema, batch_size=BATCH_ROWS, seed=seed, rank=rank, world_size=world_size) as loader:
            steps.append(0)
            for batch in loader.epoch(epoch):
                total += sums_of(_cells(batch), batch_size(batch))
                steps[-1] += 1
    return total, steps


def _cells(batch: Batch) -> list[Cells]:
    cells = list[Cells]()
    for value in batch.values():
        if isinstance(value, Ragged):
            cells.append((value.values.numpy(), value.offsets.numpy()))
        else:
            cells.append(value if isinstance(value, list) else value.numpy())
    return cells


def _show(verdict: dict[str, Any]) -> None:
    counts = {"rows in Spark": verdict["rows_in_spark"], "rows streamed": verdict["rows_streamed"]}
    counts |= {
        "ranks": verdict["world_size"],
        "steps a rank": max(verdict["steps"]),
        "rows a second": verdict["rows_per_s"],
    }
    show_counts(f"epoch of version {verdict['version']} of {verdict['table']}", counts)
    if verdict["left_out"]:
        say(f"not compared, because a batch cannot carry them: {', '.join(verdict['left_out'])}")
    if verdict["correct"]:
        say("correct: every row exactly once, equal steps on every rank")
    else:
        steps = "" if len(set(verdict["steps"])) == 1 else f"; the ranks' steps differ: {verdict['steps']}"
        rows = "" if verdict["same_rows"] else "; the rows streamed are not Spark's"
        say(f"WRONG{rows}{steps}")


def command(
    flags: Flags = None,
    settings: SettingsFile = None,
    table: Annotated[str | None, typer.Option(help="path or URL; default: the examples in force")] = None,
    version: Annotated[
        int | None, typer.Option(help="the Delta version; default: the one in force, of other tables the newest")
    ] = None,
    world_size: Annotated[int | None, typer.Option(min=1, help="default: the settings' ranks")] = None,
    epoch: Annotated[int, typer.Option(min=0)] = 0,
    seed: int = 0,
) -> None:
    """Stream an epoch of a table at any world size; compare count and row hashes with Spark's own."""

    def call() -> None:
        loaded = load_settings(settings, flags)
        of = {"table": table} if table else _in_force(loaded)
        of |= {} if version is None else {"version": version}
        ranks = world_size or loaded.training.ranks
        _correct(verify(open_session(loaded, beside=("torch",)), **of, world_size=ranks, epoch=epoch, seed=seed))

    guarded(call)


if __name__ == "__main__":
    run_alone(command)
