"""One more day through ingest, build and score of the users touched against the whole: its time, and its rows read.

    python benchmarks/one_more_day.py [LINES DAYS USERS ITEMS]

A shop of so many lines lies in a file a day. All days but the last go through ingest, build and score once; then the
last day comes, the cut moves by a day, and the same three jobs run again, score for the users of that day. A build of
all rows at the same cut is the check: it must have the same examples.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

from cluster.session import build_session  # noqa: E402
from jobs import build_examples, ingest, score  # noqa: E402
from jobs.artefacts import LATEST, write_json  # noqa: E402
from jobs.settings import Settings  # noqa: E402
from jobs.tables import Tables  # noqa: E402
from spark_udfs.catalogue import SALES  # noqa: E402
from training.models import MODELS  # noqa: E402
from training.schema import Schema  # noqa: E402
from training.state.publish import write_bundle  # noqa: E402

KEPT = {"spark.ui.retainedStages": "100000", "spark.ui.retainedJobs": "100000"}  # so that their rows can be added up
START, HELD_OUT, GOAL, GOAL_ROWS = datetime(2024, 1, 1, tzinfo=UTC), 14, 0.10, 0.05


def main() -> None:
    lines, days, users, items = (int(value) for value in [*sys.argv[1:], "20000000", "200", "1000000", "50000"][:4])
    spark = build_session(
        "bench-one-more-day", master="local[2]", driver_memory="14g", shuffle_partitions=16, conf=KEPT
    )
    with tempfile.TemporaryDirectory(dir=".") as folder:
        print(json.dumps(measured(spark, Path(folder), lines, days, users, items)))


def measured(spark: SparkSession, folder: Path, lines: int, days: int, users: int, items: int) -> dict[str, Any]:
    files = folder / "lines"
    written(spark, lines, days, users, items).write.partitionBy("day").parquet(str(folder / "all"))
    files.mkdir()
    for number in range(days - 1):
        give(folder, number)
    whole, rows_whole = through(spark, settings(folder, days - 1 - HELD_OUT))
    give(folder, days - 1)
    moment = (START + timedelta(days=days - 1)).replace(tzinfo=None).isoformat()
    day, rows_day = through(spark, settings(folder, days - HELD_OUT, since=moment))
    check(spark, settings(folder, days - HELD_OUT))
    for name in whole:
        print(f"  {name:8} whole {whole[name]:8.1f} s {rows_whole[name]:14,} rows", end="   ")
        print(f"day {day[name]:8.1f} s {rows_day[name]:14,} rows")
    ratio = sum(day.values()) / sum(whole.values())
    rows = sum(rows_day.values()) / sum(rows_whole.values())
    detail = {"rows_read": round(rows, 4), "goal_rows_read": GOAL_ROWS, "whole_s": whole, "day_s": day}
    detail |= {"whole_rows": rows_whole, "day_rows": rows_day, "lines": lines}
    return {
        "name": "one_more_day",
        "ratio": round(ratio, 4),
        "goal": GOAL,
        "unit": "of the time of the whole",
        "detail": detail,
    }


def written(spark: SparkSession, lines: int, days: int, users: int, items: int) -> DataFrame:
    """Order lines by hash: a third of the users buys half of it all, and some items are bought more than others."""

    def drawn(name: str, below: int) -> Any:
        return F.pmod(F.xxhash64("id", F.lit(name)), F.lit(below))

    skewed = (F.pow(drawn("item", 1_000_000) / 1_000_000, 2.0) * items).cast("bigint")
    user = F.when(drawn("often", 2) == 0, drawn("user", users // 3)).otherwise(drawn("user", users))
    second = drawn("time", days * 86_400)
    moment = F.timestamp_micros(F.lit(round(START.timestamp() * 1e6)) + second * 1_000_000)
    return spark.range(lines, numPartitions=32).select(
        F.format_string("o%d", "id").alias("order_id"),
        F.format_string("u%07d", user).alias("user_id"),
        F.format_string("i%06d", skewed).alias("item_id"),
        F.lit(1).alias("quantity"),
        F.lit(9.5).alias("price"),
        moment.alias("time"),
        (second / 86_400).cast("int").alias("day"),
    )


def give(folder: Path, day: int) -> None:
    """Put a day's files where ingest finds them."""
    for file in sorted((folder / "all" / f"day={day}").glob("*.parquet")):
        shutil.copyfile(file, folder / "lines" / f"day-{day:04d}-{file.name}")


def settings(folder: Path, cut: int, since: str | None = None) -> Settings:
    columns = {name: name for name in ("order_id", "user_id", "item_id", "quantity", "price", "time")}
    return Settings(
        **{
            "tables": {"root": str(folder / "tables")},
            "run_dir": str(folder / "run"),
            "ingest": {"path": str(folder / "lines"), "format": "parquet", "columns": columns},
            "examples": {"test_from": (START + timedelta(days=cut)).replace(tzinfo=None), "validation_days": 14},
            "scoring": {"k": 20} | ({} if since is None else {"since": since}),
        }
    )


def through(spark: SparkSession, asked: Settings) -> tuple[dict[str, float], dict[str, int]]:
    """The three jobs, with the seconds that each took and the rows that it read."""
    seconds, rows = dict[str, float](), dict[str, int]()
    jobs: dict[str, Callable[[Settings, SparkSession], Any]] = {"ingest": ingest.run, "build": build_examples.run}
    for name, job in (jobs | {"score": score.run}).items():
        if name == "score" and not (Path(asked.run_dir) / LATEST).exists():
            untrained(spark, asked)
        before, begun = rows_read(spark), time.perf_counter()
        job(asked, spark)
        seconds[name] = round(time.perf_counter() - begun, 1)
        rows[name] = rows_read(spark) - before
    return seconds, rows


def rows_read(spark: SparkSession) -> int:
    """Rows that tasks have read from files so far, by Spark's own count."""
    gateway = spark.sparkContext._gateway
    quantiles, statuses = gateway.new_array(gateway.jvm.double, 0), gateway.jvm.java.util.ArrayList()
    stages = spark.sparkContext._jsc.sc().statusStore().stageList(None, False, False, quantiles, statuses)
    return sum(stages.apply(number).inputRecords() for number in range(stages.size()))


def untrained(spark: SparkSession, asked: Settings) -> None:
    """A bundle with weights as they are drawn: what it costs to score does not depend on them."""
    tables = Tables(spark, asked.tables.root)
    manifest = json.loads(tables.read("builds").collect()[0]["manifest"])
    schema, kind = Schema.from_json(manifest["schema"]), MODELS["two_tower"]
    torch.manual_seed(3)
    counts = {name: torch.ones(schema["target"].size or 1) for name in SALES}
    config = kind.Config.parse({})
    model = kind(config, schema, counts)  # type: ignore[call-arg]
    bundle = write_bundle(
        Path(asked.run_dir) / "bundles",
        model_name="two_tower",
        config=config.model_dump(mode="json"),
        schema=schema,
        tensors=model.state_dict(),
        provenance={"build": manifest},
        settings={},
        metrics={},
    )
    write_json(asked.run_dir, LATEST, {"bundle": bundle.name, "identity": "untrained", "summary": {}})


def check(spark: SparkSession, asked: Settings) -> None:
    """A build of all rows must have the same examples."""
    tables = Tables(spark, asked.tables.root)
    found = digest(tables.read("examples"))
    other = asked.examples.model_copy(update={"rows_per_group": asked.examples.rows_per_group + 1})
    build_examples.run(asked.model_copy(update={"examples": other}), spark)
    wanted = digest(tables.read("examples"))
    if found != wanted:
        raise SystemExit(f"a build that goes on must give what one of all rows gives; {found} against {wanted}")


def digest(examples: DataFrame) -> Any:
    columns = sorted(set(examples.columns) - {"piece"})
    return examples.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*columns).cast("decimal(38,0)"))).collect()[0]


if __name__ == "__main__":
    main()
