"""Events to what training and evaluation read: vocabularies, examples, queries, catalogue.

    python -m jobs.build_examples --settings pipeline.yaml examples.test_from=2011-11-10

Time is split at two cuts: `test_from`, from which on everything is held out, and `validation_days` before it. The
examples' table property `millrace.build` names what else was made with them. Running it twice changes nothing.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.console import say, show_counts, step
from jobs.main import main_of
from jobs.settings import ExampleSettings, Settings
from jobs.tables import Tables, open_session
from jobs.tasks import TASKS
from spark_udfs import features, vocabularies
from spark_udfs.features import Cuts
from training.errors import DataError, TableError

JOB = "build_examples"
BUILD = "millrace.build"
EVENTS = {
    "event_id": "string", "user_id": "string", "item_id": "string", "kind": "string",
    "time": "timestamp", "arrival_time": "timestamp",
}  # fmt: skip
FEEDBACK = {"user_id": "string", "item_id": "string", "outcome": "string", "outcome_time": "timestamp"}


def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Build everything that the events (and feedback, if there is any) at their newest versions give.

    Returns:
        `versions` of the tables written, `counts`, `cuts` (ISO times), `schema` (JSON), `inputs`, `up_to_date`.

    Raises:
        TableError: no events, an empty table, or another writer at the same time.
        SchemaError: a table has other columns than it should.
        DataError: nothing lies before a cut, or a vocabulary is damaged.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root)
    inputs = _inputs(tables, settings)
    known = _build_of(tables)
    if known is not None and known["inputs"] == inputs:
        say("examples are up to date with events, feedback and settings")
        return known | {"up_to_date": True}
    lines = _lines(tables, inputs)
    cuts = _cuts(lines, settings.examples, tables.path("events"))
    counts = _count(lines, cuts)
    with step("appending to the vocabularies"):
        users = _vocabulary(tables, "users", lines, cuts, inputs)
        items = _vocabulary(tables, "items", lines, cuts, inputs)
    versions = _write(tables, settings.examples, lines, (users, items), cuts, counts, inputs)
    sizes = {"users": users.count() + 1, "items": items.count() + 1}
    written = tables.read("examples", versions["examples"]).groupBy("split").count().collect()
    counts |= {f"examples_{row['split']}": row["count"] for row in sorted(written)}
    build = {
        "versions": versions,
        "counts": counts,
        "cuts": {"validation": cuts.validation.isoformat(), "test": cuts.test.isoformat()},
        "schema": TASKS[settings.task].schema(sizes).to_json(),
        "inputs": inputs,
    }
    tables.describe("examples", {BUILD: json.dumps(build, sort_keys=True)})
    show_counts(f"Examples of {cuts.test:%Y-%m-%d}", counts)
    return build | {"up_to_date": False}


def _inputs(tables: Tables, settings: Settings) -> dict[str, Any]:
    optional = {name: tables.version(name) if tables.exists(name) else None for name in ("feedback",)}
    return {
        "task": settings.task,
        "events": tables.version("events"),
        "items": tables.version("items"),
        **optional,
        "settings": settings.examples.model_dump(mode="json"),
    }


def _build_of(tables: Tables) -> dict[str, Any] | None:
    text = tables.properties("examples").get(BUILD) if tables.exists("examples") else None
    build: dict[str, Any] | None = json.loads(text) if text else None
    return build


def _lines(tables: Tables, inputs: dict[str, Any]) -> DataFrame:
    events = tables.require(tables.read("events", inputs["events"]), "events", EVENTS)
    if events.isEmpty():
        raise TableError(
            f"table 'events' at {tables.path('events')} is empty; run `millrace ingest` on a file with order lines"
        )
    feedback = None
    if inputs["feedback"] is not None:
        feedback = tables.read("feedback", inputs["feedback"])
        tables.require(feedback, "feedback", FEEDBACK)
    return features.purchases(events, feedback)


def _cuts(lines: DataFrame, examples: ExampleSettings, path: str) -> Cuts:
    span = lines.where("user_id IS NOT NULL").agg(
        F.min(F.unix_micros("time")).alias("first"), F.max(F.unix_micros("time")).alias("last")
    )
    first, last = span.collect()[0]
    if first is None:
        raise DataError(f"no purchase at {path} has a customer; map user_id in ingest.columns and ingest again")
    if examples.test_from is not None:
        test = features.utc(examples.test_from)
    else:
        tenth = datetime.fromtimestamp((last - (last - first) / 10) / 1e6, tz=UTC)
        test = tenth.replace(hour=0, minute=0, second=0, microsecond=0)
    validation = test - timedelta(days=examples.validation_days)
    begins = datetime.fromtimestamp(first / 1e6, tz=UTC)
    if validation <= begins:
        raise DataError(
            f"training needs purchases before {validation:%Y-%m-%d} (examples.test_from {test:%Y-%m-%d} less "
            f"validation_days {examples.validation_days}), the first one is of {begins:%Y-%m-%d}; "
            "move test_from or shorten the validation"
        )
    return Cuts(validation=validation, test=test)


def _count(lines: DataFrame, cuts: Cuts) -> dict[str, int]:
    """Lines, customers and items of known customers before the test cut, and what is held out."""
    has_user, before = F.col("user_id").isNotNull(), features.known_before(cuts.test)
    known = F.coalesce(has_user & before, F.lit(False))
    row = lines.agg(
        F.count_if(known).alias("training_lines"),
        F.countDistinct(F.when(known, F.col("user_id"))).alias("training_users"),
        F.countDistinct(F.when(known, F.col("item_id"))).alias("training_items"),
        F.count_if(has_user & (F.col("time") >= F.lit(cuts.test))).alias("held_out_lines"),
    )
    return {name: int(value) for name, value in row.collect()[0].asDict().items()}


def _vocabulary(tables: Tables, kind: str, lines: DataFrame, cuts: Cuts, inputs: dict[str, Any]) -> DataFrame:
    """Append the ids that known customers' lines before the test cut have, and read the vocabulary back."""
    name = f"vocabulary_{kind}"
    ids = lines.where(features.known_before(cuts.test) & F.col("user_id").isNotNull())
    ids = ids.select(F.col(f"{kind.removesuffix('s')}_id").alias("id"))
    held = tables.read(name) if tables.exists(name) else tables.spark.createDataFrame([], vocabularies.SCHEMA)
    # Serializable: of two merges at once the second is refused, so no index is given twice.
    properties = {"delta.appendOnly": "true", "delta.isolationLevel": "Serializable"}
    new = vocabularies.new_entries(ids, held)
    vocabulary = tables.read(name, tables.merge_new(name, new, ["id"], job=JOB, inputs=inputs, properties=properties))
    faults = vocabularies.faults(vocabulary)
    if faults:
        listed = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise DataError(
            f"table '{name}' at {tables.path(name)} must number its ids 1, 2, ... once each; it has {listed}. "
            "Restore an earlier version (RESTORE TABLE), or remove both vocabularies and train anew"
        )
    return vocabulary


def _write(
    tables: Tables,
    examples: ExampleSettings,
    lines: DataFrame,
    vocabulary: tuple[DataFrame, DataFrame],
    cuts: Cuts,
    counts: dict[str, int],
    inputs: dict[str, Any],
) -> dict[str, int]:
    """Write catalogue, queries, examples; the examples last: their property vouches for the rest."""
    users, items = vocabulary
    known = features.indexed(lines, users, items).persist()
    names = tables.read("items", inputs["items"])
    split = {features.VALIDATION: (cuts.validation, cuts.test), features.TEST: (cuts.test, None)}
    per_cut = {
        "catalogue": [
            features.catalogue(lines, items, names, cut, examples.recent_days, name) for name, (cut, _) in split.items()
        ],
        "queries": [
            features.queries(known, users, cut, until, examples.max_history, name)
            for name, (cut, until) in split.items()
        ],
    }
    versions = {name: tables.version(name) for name in ("vocabulary_users", "vocabulary_items")}
    for name, (validation, test) in per_cut.items():
        with step(f"writing {name}"):
            versions[name] = tables.write(
                name, validation.unionByName(test), mode="overwrite", job=JOB, inputs=inputs, partition_by=["split"],
                properties={"compression": "zstd"},
            )  # fmt: skip
    with step("writing examples"):
        rows = _laid_out(features.examples(known, cuts, examples.max_history), counts["training_lines"], examples)
        versions["examples"] = tables.write(
            "examples", rows, mode="overwrite", job=JOB, inputs=inputs, partition_by=["split"],
            properties=_file_layout(examples),
        )  # fmt: skip
    known.unpersist()
    return versions


def _laid_out(rows: DataFrame, count: int, examples: ExampleSettings) -> DataFrame:
    """Spread moments over files by hash, and keep each moment's rows side by side: their one history compresses away.

    Moments are in hash order within a file, so that a row group mixes users and times.
    """
    files = max(1, math.ceil(count / examples.rows_per_file))
    moment = F.xxhash64("user", "time")
    return rows.repartition(files, moment).sortWithinPartitions("split", moment, "user", "time", "target")


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


if __name__ == "__main__":
    main_of(run)
