"""A simulated shop's raw order lines, with planted tastes, seasons, arrivals and dirt.

    python -m jobs.simulate --settings shop.yaml shop.users=20000 shop.items=5000

Spark generates the lines where they are written; nothing passes through the driver, so `shop.users` may be thousands or
hundreds of millions. The same settings make the same lines, and a second run changes nothing.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from jobs.command import main_of
from jobs.console import say, step
from jobs.sessions import in_utc, open_session, parallelism
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs.order_lines import Rules
from spark_udfs.simulated import shop, tastes

JOB = "simulate"
LINES_PER_TASK = 500_000
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
    """Write the raw table `order_lines`.

    Returns:
        `path`, `version`, `rows`, `up_to_date`.
    """
    spark = open_session(settings, spark)
    tables = raw_tables(settings, spark)
    size = settings.shop
    inputs = {"shop": size.model_dump(mode="json")}
    known = tables.up_to_date("order_lines", JOB, inputs)
    if known:
        say(f"the simulated shop is up to date in {tables.path('order_lines')}")
    else:
        lines = size.users * size.orders_per_user * tastes.LINES_PER_ORDER
        tasks = max(parallelism(spark), int(lines / LINES_PER_TASK))
        users = spark.range(0, size.users, numPartitions=tasks).withColumnRenamed("id", "user")
        with step(f"simulating {size.users:,} customers and {size.items:,} items over {size.days} days"):
            tables.write("order_lines", shop.order_lines(users, size), mode="overwrite", job=JOB, inputs=inputs)
    rows = tables.read("order_lines").count()
    say(f"{rows:,} raw order lines in {tables.path('order_lines')}")
    return {
        "path": tables.path("order_lines"),
        "version": tables.version("order_lines"),
        "rows": rows,
        "up_to_date": known,
    }


if __name__ == "__main__":
    main_of(run)
