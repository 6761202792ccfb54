"""Raw order lines to Delta tables: events, items, users; what is not kept lies in quarantine with its reason.

    python -m jobs.ingest --settings pipeline.yaml ingest.path=lines.csv.gz

Every raw row gets exactly one disposition (spark_udfs/order_lines.py says by which rules) and the counts must add up to
the raw rows. A second run on the same files changes nothing; other files add their new events.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.console import say, show_table, step
from jobs.main import main_of
from jobs.settings import IngestSettings, Settings
from jobs.simulate import ORDER_LINES, raw_tables
from jobs.tables import Tables, in_utc, open_session, session_settings
from spark_udfs import order_lines
from spark_udfs.order_lines import BY_RULE, DUPLICATE, KEPT, MALFORMED, OPTIONAL, REASONS, REQUIRED, Rules
from training.errors import DataError, SchemaError, SettingsError, TooManyBadRows

JOB = "ingest"


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Ingest `settings.ingest.path`, or the simulated shop if it names none.

    Returns:
        `source`, `dispositions` (rows by disposition), `raw_rows`, `up_to_date`, and `versions` of the tables.

    Raises:
        SettingsError: `ingest.columns` misses a column or names an unknown one.
        DataError: the source is missing, empty or unreadable, the counts do not add up, or the rules changed.
        SchemaError: the source has no such column.
        TooManyBadRows: the share of bad rows passed `tables.quarantine_limit`.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root)
    rules = _rules(settings.ingest)
    source, files = _source(settings, spark)
    inputs = {"source": source, "files": files, "rules": _as_json(rules)}
    known = tables.up_to_date("events", JOB, inputs)
    if known:
        say(f"events are up to date with {source}")
    else:
        _refuse_other_rules(tables, inputs)
        _ingest(settings, tables, rules, source, inputs)
    versions = _describe(tables)
    dispositions = _dispositions(tables, _batch(inputs))
    _show(dispositions)
    return {
        "source": source,
        "raw_rows": sum(dispositions.values()),
        "dispositions": dispositions,
        "up_to_date": known,
        "versions": versions,
    }


def _ingest(settings: Settings, tables: Tables, rules: Rules, source: str, inputs: dict[str, Any]) -> None:
    """Read, sort out, check, then write quarantine, dispositions and events, in this order: events are the proof."""
    batch = _batch(inputs)
    correct_times = {"spark.sql.legacy.timeParserPolicy": "CORRECTED"}
    with session_settings(tables.spark, correct_times):
        with step(f"reading {source}"), _readable(source):
            raw = _read(settings, tables.spark, rules)
            sorted_out = order_lines.sort_out(raw, rules).persist()
            counts = {row["disposition"]: row["rows"] for row in order_lines.counts(sorted_out).collect()}
            raw_rows = raw.count()
        _check(counts, raw_rows, source, settings.tables.quarantine_limit)
        aside = order_lines.set_aside(sorted_out).select(
            F.lit(source).alias("source"), "reason", "row", F.lit(batch).alias("batch")
        )
        tally = tables.spark.createDataFrame(
            [(batch, source, name, count) for name, count in counts.items()],
            "batch string, source string, disposition string, rows bigint",
        )
        with step("writing events"):
            tables.merge_new("quarantine", aside, ["batch", "row"], job=JOB, inputs=inputs)
            tables.merge_new("dispositions", tally, ["batch", "disposition"], job=JOB, inputs=inputs)
            tables.merge_new("events", order_lines.events(sorted_out), ["event_id"], job=JOB, inputs=inputs)
        sorted_out.unpersist()


def _describe(tables: Tables) -> dict[str, int]:
    """Items and users are functions of the events: made anew when these changed."""
    pin = tables.pin("events")
    versions, made_from = {"events": pin.version}, {"events": pin.content}
    events = tables.read("events", pin.version)
    for name, made in (("items", order_lines.items(events)), ("users", order_lines.users(events))):
        if tables.up_to_date(name, JOB, made_from):
            versions[name] = tables.version(name)
            continue
        with step(f"writing {name}"):
            versions[name] = tables.write(name, made, mode="overwrite", job=JOB, inputs=made_from)
    return versions


def _rules(ingest: IngestSettings) -> Rules:
    if ingest.path is None:
        return ORDER_LINES
    problems = [f"ingest.columns needs '{name}'" for name in REQUIRED if name not in ingest.columns]
    unknown = sorted(set(ingest.columns) - set(REQUIRED + OPTIONAL))
    problems += [f"ingest.columns has the unknown name '{name}'" for name in unknown]
    if problems:
        raise SettingsError(
            f"{'; '.join(problems)}. It maps our names ({', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}) "
            "to the file's columns, e.g. {order_id: InvoiceNo}"
        )
    return Rules(
        columns=dict(ingest.columns),
        time_format=ingest.time_format,
        cancelled_prefix=ingest.cancelled_prefix,
        item_pattern=ingest.item_pattern,
        now=ingest.now,
    )


def _source(settings: Settings, spark: SparkSession) -> tuple[str, list[Any]]:
    """The source's name, and what tells whether it changed: its files with size and time, or its Delta version."""
    path = settings.ingest.path
    if path is None:
        raw = raw_tables(settings, spark)
        return raw.path("order_lines"), [raw.version("order_lines")]
    if settings.ingest.format == "delta":
        folder, _, name = path.rstrip("/").rpartition("/")
        return path, [Tables(spark, folder or ".").version(name)]
    listed = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    try:
        # Only these columns are asked for, so no file is opened.
        rows = listed.load(path).select("path", "length", "modificationTime").collect()
    except AnalysisException as error:
        raise DataError(f"ingest.path '{path}' does not exist; name a file, a folder or a glob") from error
    if not rows:  # files without a byte are not listed
        raise DataError(f"ingest.path '{path}' is empty; name files that hold order lines")
    return path, sorted([row["path"], row["length"], str(row["modificationTime"])] for row in rows)


def _read(settings: Settings, spark: SparkSession, rules: Rules) -> DataFrame:
    """The source as strings; types are never guessed."""
    ingest = settings.ingest
    if ingest.path is None:
        raw = raw_tables(settings, spark).read("order_lines")
    elif ingest.format == "csv":
        raw = _read_csv(spark, ingest.path)
    elif ingest.format == "json":
        wanted = StructType([StructField(column, StringType()) for column in rules.columns.values()])
        raw = spark.read.schema(wanted).json(ingest.path)
    else:
        raw = spark.read.format(ingest.format).load(ingest.path)
    missing = [f"'{column}' (our {name})" for name, column in rules.columns.items() if column not in raw.columns]
    if missing:
        raise SchemaError(
            f"'{ingest.path}' has no column {', '.join(missing)}; it has: {', '.join(raw.columns)}. "
            "Correct ingest.columns"
        )
    return raw.select(*(F.col(f"`{column}`").cast("string").alias(column) for column in raw.columns))


def _read_csv(spark: SparkSession, path: str) -> DataFrame:
    quoted = {"header": "true", "escape": '"'}
    header = spark.read.options(**quoted).csv(path).columns
    schema = StructType([StructField(name, StringType()) for name in [*header, MALFORMED]])
    # Every file's own header must be this one: columns go by position.
    reader = spark.read.schema(schema).options(**quoted, enforceSchema="false", columnNameOfCorruptRecord=MALFORMED)
    return reader.csv(path)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        causes = [line for line in lines if line.startswith("Caused by: ")] or lines[:1]
        raise DataError(
            f"'{source}' cannot be read: {causes[-1].removeprefix('Caused by: ')}. "
            "Check that it is whole (gzip -t), that ingest.format is right, and that all files have the same header"
        ) from error


def _check(counts: Mapping[str, int], raw_rows: int, source: str, limit: float) -> None:
    if not raw_rows:
        raise DataError(f"'{source}' holds a header but no rows; name files that hold order lines")
    if sum(counts.values()) != raw_rows:
        raise DataError(
            f"dispositions of '{source}' must add up to its {raw_rows:,} rows, they add up to "
            f"{sum(counts.values()):,}: the source changed while it was read; run ingest again"
        )
    bad = {name: count for name, count in counts.items() if name not in KEPT + BY_RULE}
    if sum(bad.values()) > limit * raw_rows:
        listed = ", ".join(f"{name}: {count:,}" for name, count in sorted(bad.items(), key=lambda item: -item[1]))
        raise TooManyBadRows(
            f"{sum(bad.values()):,} of {raw_rows:,} rows of '{source}' are bad, over tables.quarantine_limit "
            f"{limit:g}: {listed}. Correct the file or ingest.columns, or raise the limit; nothing was written"
        )


def _refuse_other_rules(tables: Tables, inputs: Mapping[str, Any]) -> None:
    """Events that were kept under other rules cannot be told apart any more."""
    before = tables.made_from("events")
    if before is not None and before.get("rules") != inputs["rules"]:
        changed = [key for key, value in inputs["rules"].items() if before.get("rules", {}).get(key) != value]
        raise DataError(
            f"the events at {tables.path('events')} were ingested under other rules (changed: {', '.join(changed)}); "
            "name a new folder in tables.root, or remove this one"
        )


def _as_json(rules: Rules) -> dict[str, Any]:
    return {**vars(rules), "columns": dict(rules.columns), "now": str(rules.now) if rules.now else None}


def _batch(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def _dispositions(tables: Tables, batch: str) -> dict[str, int]:
    rows = tables.read("dispositions").where(F.col("batch") == batch).select("disposition", "rows").collect()
    held = {row["disposition"]: row["rows"] for row in rows}
    return {name: held[name] for name in (*KEPT, DUPLICATE, *REASONS) if name in held}


def _show(dispositions: Mapping[str, int]) -> None:
    words = {
        "sale": "kept: sales of known customers",
        "sale_without_customer": "kept for item statistics only: sales without a customer",
        "return": "kept as returns: cancelled orders; histories do not change",
        "view": "kept: views",
        "duplicate": "set aside: further copies of a row that equals another in every column",
        "not_a_product": f"set aside: {REASONS['not_a_product']}",
    }
    rows = [(name, words.get(name, f"quarantined: {REASONS.get(name)}"), count) for name, count in dispositions.items()]
    show_table(
        "Raw rows by disposition", ("disposition", "what", "rows"), [*rows, ("all", "", sum(dispositions.values()))]
    )


if __name__ == "__main__":
    main_of(run)
