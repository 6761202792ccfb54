"""A simulated shop's raw tables: order lines with planted tastes, seasons, arrivals and dirt, and what scenes ask for.

    python -m jobs.simulate --settings shop.yaml shop.users=20000 shop.items=5000 simulate.scenes=[fraud]

Spark generates the rows where they are written; nothing passes through the driver, so `shop.users` may be thousands or
hundreds of millions. The same settings make the same rows, and a second run changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from jobs.command import main_of
from jobs.console import say, step
from jobs.sessions import in_utc, open_session, parallelism
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs.order_lines import Rules
from spark_udfs.simulated import shop, tastes
from spark_udfs.simulated.planted import Planted, planted
from spark_udfs.simulated.scenes import SCENES

JOB = "simulate"
ROWS_PER_TASK = 500_000
ORDER_LINES = Rules(
    columns={name: name for name in shop.RAW_COLUMNS},
    time_format=shop.TIME_FORMAT,
    cancelled_prefix="C",
    item_pattern="^P[0-9]+$",
)


def raw_tables(settings: Settings, spark: SparkSession) -> Tables:
    """Where the raw order lines lie: the folder `raw` beside the tables' root."""
    parent, slash, _ = settings.tables.root.rstrip("/").rpartition("/")
    return Tables(spark, f"{parent}{slash}raw")


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Write the raw table `order_lines`, and those of `simulate.scenes`.

    Returns:
        `path`, `version`, `rows`, `up_to_date` of the order lines; `tables`: the same of each other table.
    """
    spark = open_session(settings, spark)
    tables = raw_tables(settings, spark)
    size = settings.shop

    def order_lines() -> DataFrame:
        users = _units(spark, size.users, size.orders_per_user * tastes.LINES_PER_ORDER)
        return shop.order_lines(users.withColumnRenamed("id", "user"), size)

    def rows_of(table: Planted) -> DataFrame:
        return planted(table, _units(spark, table.units(size), table.rows_per_unit(size)), size)

    made = _write(tables, "order_lines", order_lines, settings)
    asked = [table for scene in dict.fromkeys(settings.simulate.scenes) for table in SCENES[scene]]
    return made | {
        "tables": {table.name: _write(tables, table.name, partial(rows_of, table), settings) for table in asked}
    }


def truth(settings: Settings, spark: SparkSession, table: Planted) -> DataFrame | None:
    """The rows of a table with the columns of the truth; None where the table was not made with these settings."""
    if not raw_tables(settings, spark).up_to_date(table.name, JOB, _inputs(settings)):
        return None
    size = settings.shop
    return planted(table, _units(spark, table.units(size), table.rows_per_unit(size)), size, truth=True)


def truth_of_source(
    settings: Settings, spark: SparkSession, source: str, columns: Mapping[str, str], table: Planted
) -> DataFrame | None:
    """The truth behind a task's own table; None where that is not the simulated one, or has other columns for ids.

    Args:
        settings: the pipeline's.
        spark: the session.
        source: the table's name in `sources`.
        columns: what tells rows apart: the task's column -> that of the simulated table.
        table: the simulated one.
    """
    asked = settings.sources.get(source)
    if asked is None or asked.name is not None or any(asked.columns.get(key) != columns[key] for key in columns):
        return None
    return truth(settings, spark, table)


def _inputs(settings: Settings) -> dict[str, Any]:
    """What a table is made from."""
    return {"shop": settings.shop.model_dump(mode="json")}


def _units(spark: SparkSession, count: int, rows_per_unit: float) -> DataFrame:
    """`id` from 0, in as many tasks as the rows that the units make ask for."""
    tasks = max(parallelism(spark), int(count * rows_per_unit / ROWS_PER_TASK))
    return spark.range(0, count, numPartitions=tasks)


def _write(tables: Tables, name: str, rows: Callable[[], DataFrame], settings: Settings) -> dict[str, Any]:
    """Write one table, unless these settings have made it."""
    inputs = _inputs(settings)
    known = tables.up_to_date(name, JOB, inputs)
    if known:
        say(f"{name} of the simulated shop is up to date in {tables.path(name)}")
    else:
        size = settings.shop
        with step(f"simulating {name}: {size.users:,} customers and {size.items:,} items over {size.days} days"):
            tables.write(name, rows(), mode="overwrite", job=JOB, inputs=inputs)
    count = tables.read(name).count()
    say(f"{count:,} rows in {tables.path(name)}")
    return {"path": tables.path(name), "version": tables.version(name), "rows": count, "up_to_date": known}


if __name__ == "__main__":
    main_of(run)
