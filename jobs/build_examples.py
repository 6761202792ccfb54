"""Events to what training and evaluation read: vocabularies, examples, queries, catalogue.

    python -m jobs.build_examples --settings pipeline.yaml examples.test_from=2011-11-10

Time is split at two cuts: `test_from`, from which on everything is held out, and `validation_days` before it. What was
built together counts once the manifest (jobs/builds.py) names it. Running it twice changes nothing.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import builds
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.sessions import in_utc, open_session, partitions_for, session_settings
from jobs.settings import Settings
from jobs.settings_sections import ExampleSettings
from jobs.table_reads import Pin
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs import features, vocabularies
from spark_udfs.features import Cuts
from training.errors import DataError, TableError

JOB = "build_examples"
READ, OPTIONAL = ("events", "items", "feedback"), ("feedback",)
KINDS = ("users", "items")
EVENTS = {
    "event_id": "string", "user_id": "string", "item_id": "string", "kind": "string",
    "time": "timestamp", "arrival_time": "timestamp",
}  # fmt: skip
FEEDBACK = {"user_id": "string", "item_id": "string", "outcome": "string", "outcome_time": "timestamp"}


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Build everything that the events (and feedback, if there is any) at their newest versions give.

    Returns:
        The manifest (see jobs/builds.py) and `up_to_date`.

    Raises:
        TableError: no events, an empty table, or another writer at the same time.
        SchemaError: a table has other columns than it should.
        DataError: nothing lies before a cut, a vocabulary is damaged, or persons were erased meanwhile.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root)
    with session_settings(spark, partitions_for(spark, tables.size("events"))):
        return _build(settings, tables)


def _build(settings: Settings, tables: Tables) -> builds.Manifest:
    before, watch = builds.newest(tables), Watch(tables, JOB, "examples")
    pins = {name: tables.pin(name) for name in READ if name not in OPTIONAL or tables.exists(name)}
    inputs = _inputs(pins, settings)
    if before.manifest is not None and before.manifest["inputs"] == inputs:
        held = builds.readable(tables, before.manifest)
        if held is not None:
            return _held(tables, before, held)
        say("examples are built again: versions that the build in force names have lost files, and rows have changed")
    read = {name: tables.read(name, pin.version) for name, pin in pins.items()}
    lines = _lines(tables, read)
    cuts = _cuts(lines, settings.examples, tables.path("events"))
    counts = _count(lines, cuts)
    with step("appending to the vocabularies"):
        vocabulary = {kind: _vocabulary(tables, kind, lines, cuts, inputs) for kind in KINDS}
    written = _write(tables, settings.examples, lines, read["items"], vocabulary, cuts, counts, inputs)
    sizes = {kind: tables.read(f"vocabulary_{kind}", version).count() + 1 for kind, version in vocabulary.items()}
    items = tables.read("vocabulary_items", vocabulary["items"])
    rows = tables.read("examples", written["examples"]).groupBy("split").count().collect()
    counts |= {f"examples_{row['split']}": row["count"] for row in sorted(rows)}
    manifest = {
        "versions": {f"vocabulary_{kind}": version for kind, version in vocabulary.items()} | written,
        "read": {name: pin.version for name, pin in pins.items()},
        "inputs": inputs,
        "cuts": {"validation": cuts.validation.isoformat(), "test": cuts.test.isoformat()},
        "counts": counts,
        "schema": TASKS[settings.task].schema(sizes).to_json(),
        "items": vocabularies.digest(items, sizes["items"] - 1),
    }
    watch.before_publishing()
    builds.publish(tables, manifest, job=JOB, since=before.version)
    show_counts(f"Examples of {cuts.test:%Y-%m-%d}", counts)
    return manifest | {"up_to_date": False}


def _held(tables: Tables, before: builds.Newest, held: builds.Manifest) -> builds.Manifest:
    """What was built is still there; where housekeeping has moved it, a new manifest says so."""
    same = held == before.manifest
    if not same:
        builds.publish(tables, held, job=JOB, since=before.version)
    say(f"examples are up to date with events, feedback and settings{'' if same else '; they lie in other files now'}")
    return held | {"up_to_date": same}


def _inputs(pins: dict[str, Pin], settings: Settings) -> dict[str, Any]:
    """What decides the rows: the tables read, by the last change of their rows, and the settings."""
    return {
        "task": settings.task,
        **{name: pins[name].content if name in pins else None for name in READ},
        "settings": settings.examples.model_dump(mode="json"),
    }


def _lines(tables: Tables, read: dict[str, DataFrame]) -> DataFrame:
    events = tables.require(read["events"], "events", EVENTS)
    if events.isEmpty():
        raise TableError(
            f"table 'events' at {tables.path('events')} is empty; run `millrace ingest` on a file with order lines"
        )
    feedback = read.get("feedback")
    if feedback is not None:
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


def _vocabulary(tables: Tables, kind: str, lines: DataFrame, cuts: Cuts, inputs: dict[str, Any]) -> int:
    """Append the ids that known customers' lines before the test cut have; returns the vocabulary's version."""
    name = f"vocabulary_{kind}"
    ids = lines.where(features.known_before(cuts.test) & F.col("user_id").isNotNull())
    ids = ids.select(F.col(f"{kind.removesuffix('s')}_id").alias("id"))
    held = tables.read(name) if tables.exists(name) else tables.spark.createDataFrame([], vocabularies.SCHEMA)
    # Serializable: of two merges at once the second is refused, so no index is given twice.
    properties = {"delta.appendOnly": "true", "delta.isolationLevel": "Serializable"}
    new = vocabularies.new_entries(ids, held)
    version = tables.merge_new(name, new, ["id"], job=JOB, inputs=inputs, properties=properties)
    faults = vocabularies.faults(tables.read(name, version))
    if faults:
        listed = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise DataError(
            f"table '{name}' at {tables.path(name)} must number its ids 1, 2, ... once each; it has {listed}. "
            "Restore an earlier version (RESTORE TABLE), or remove both vocabularies and train anew"
        )
    return version


def _write(
    tables: Tables,
    examples: ExampleSettings,
    lines: DataFrame,
    names: DataFrame,
    vocabulary: dict[str, int],
    cuts: Cuts,
    counts: dict[str, int],
    inputs: dict[str, Any],
) -> dict[str, int]:
    """Write catalogue, queries, examples; returns their versions."""
    users, items = (tables.read(f"vocabulary_{kind}", vocabulary[kind]) for kind in KINDS)
    known = features.indexed(lines, users, items).persist()
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
    versions: dict[str, int] = {}
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
