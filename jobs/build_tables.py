"""The tables of a build, each written in a commit, and how the examples' files are laid out."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import builds
from jobs.console import step
from spark_udfs import pieces
from spark_udfs.pieces import Pieces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.growth import Growth
    from jobs.settings_sections import ExampleSettings
    from jobs.tables import Tables
    from jobs.task import Task
    from spark_udfs.features import Cuts

JOB = "build_examples"


def pieces_of(cuts: Cuts, goes_on: Growth | None) -> Pieces:
    return Pieces((cuts.validation,)) if goes_on is None else goes_on.pieces(cuts)


def write(
    tables: Tables,
    task: Task,
    ground: Ground,
    cuts: Cuts,
    lines: int,
    inputs: dict[str, Any],
    goes_on: Growth | None,
) -> dict[str, int]:
    """Write what the task makes of so many lines, each table in a commit; returns their versions."""
    examples, versions = ground.settings.examples, dict[str, int]()
    with step("build examples: planning its tables"):
        on_spark = task.spark()
        planned = dict(
            on_spark.examples(ground, cuts) if goes_on is None else on_spark.go_on(ground, cuts, goes_on.before(tables))
        )
        made = planned.pop("examples")
    overwrite = partial(tables.write, mode="overwrite", job=JOB, inputs=inputs)
    if goes_on is not None:
        versions |= {name: goes_on.manifest["versions"][name] for name in builds.side_tables(goes_on.manifest)}
    for name, rows in planned.items():
        folders = ["split"] if "split" in rows.columns else []
        with step(f"writing {name}"):
            versions[name] = overwrite(name, rows, partition_by=folders, properties={"compression": "zstd"})
    rows, where, since, count = made, None, None, lines
    if goes_on is not None:
        with step("build examples: opening the examples of the build before"):
            since = goes_on.put_back(tables, JOB)
        rows, where = goes_on.rows(tables, made), goes_on.replaces()
        count -= goes_on.manifest["counts"]["examples_train"]
    rows = rows.withColumn(pieces.COLUMN, pieces_of(cuts, goes_on).of(F.col("known_at")))
    with step("writing examples"):
        versions["examples"] = overwrite(
            "examples",
            _laid_out(rows, task, count, examples),
            where=where,
            since=since,
            partition_by=[pieces.COLUMN],
            properties=_file_layout(examples),
        )
    return versions


def _laid_out(rows: DataFrame, task: Task, count: int, examples: ExampleSettings) -> DataFrame:
    """Spread moments over files by hash, and keep each moment's rows side by side: their one history compresses away.

    Moments are in hash order within a file, so that a row group mixes users and times.
    """
    files = max(1, math.ceil(count / examples.rows_per_file))
    key = [name for name in task.key if name in rows.columns]
    moment = F.xxhash64(*key[: task.spread])
    return rows.repartition(files, moment).sortWithinPartitions(pieces.COLUMN, moment, *key)


def _file_layout(examples: ExampleSettings) -> dict[str, str]:
    """Row groups of exactly `rows_per_group` rows (the last of a file has the rest).

    Parquet's writer knows no limit of rows, only one of bytes, which it checks after so many rows: a limit that is
    always passed, checked every `rows_per_group` rows, is one.
    """
    rows = str(examples.rows_per_group)
    return {
        "compression": "zstd",
        "parquet.block.size": "1",
        "parquet.page.size.row.check.min": rows,
        "parquet.page.size.row.check.max": rows,
    }
