"""The settings of a source of events as rules: what is mapped, checked as a whole, and tried on one row.

Patterns, zones and encodings are Spark's and Java's, so it is Spark that tries them, before any file is blamed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs.sessions import SPARK_ERRORS
from jobs.settings_mapping import mapping_problems
from jobs.settings_sources import CSV_ONLY, EventSource, IngestSettings, SourceSettings
from spark_udfs import order_lines, typed_texts
from spark_udfs.order_lines import Rules
from training.errors import SettingsError

CORRECT_TIMES = {"spark.sql.legacy.timeParserPolicy": "CORRECTED"}
A_TIME = datetime(2001, 11, 23, 16, 5, 9)  # in the afternoon, and no two of its parts are equal


def rules_of(place: str, ingest: IngestSettings, asked: EventSource) -> Rules:
    """How to read a source.

    Args:
        place: of the settings that name it, for messages.
        ingest: the section.
        asked: the settings of the source.

    Raises:
        SettingsError: a name that is needed is not mapped, one is unknown or mapped twice.
    """
    if problems := mapping_problems(place, asked):
        raise SettingsError("; ".join(problems))
    return Rules(
        columns=dict(asked.columns),
        constants=dict(asked.constants),
        kinds=dict(asked.kinds),
        time_format=asked.time_format,
        time_zone=asked.time_zone,
        decimal_comma=asked.decimal == ",",
        cancelled_prefix=ingest.cancelled_prefix,
        item_pattern=ingest.item_pattern,
        now=ingest.now,
        earliest=_earliest(ingest, asked),
        normalise_ids=ingest.normalise_ids,
    )


def try_out(spark: SparkSession, place: str, asked: SourceSettings) -> None:
    """Try patterns, zone and encoding on one row, before any file is blamed for them.

    Raises:
        SettingsError: a time in `time_format` does not read back, Spark knows no such pattern, zone or encoding, or a
            setting is for files of another format.
    """
    defaults = SourceSettings()
    wrong = [name for name in CSV_ONLY if getattr(asked, name) != getattr(defaults, name)]
    if wrong and asked.format != "csv":
        raise SettingsError(f"{place}.{wrong[0]} is for {place}.format csv, got {asked.format}; leave it out")
    line_break = tried(spark, F.decode(F.lit(b"\n"), asked.encoding), f"{place}.encoding", asked.encoding)
    if line_break != "\n" and not asked.multiline:
        raise SettingsError(
            f"{place}.encoding '{asked.encoding}' has line breaks of several bytes; set {place}.multiline=true (csv), "
            "or convert the file to UTF-8"
        )
    a_time = F.lit(str(A_TIME)).cast("timestamp")
    tried(spark, F.to_utc_timestamp(a_time, asked.time_zone), f"{place}.time_zone", asked.time_zone)
    if asked.time_format not in typed_texts.MICROSECONDS:
        _try_pattern(spark, f"{place}.time_format", asked.time_format)


def _try_pattern(spark: SparkSession, setting: str, pattern: str) -> None:
    text = F.date_format(F.lit(str(A_TIME)).cast("timestamp"), pattern)
    back = F.try_to_timestamp(text, F.lit(pattern))
    written = tried(spark, F.concat(text, F.lit("|"), F.coalesce(back.cast("string"), F.lit(""))), setting, pattern)
    shown, _, read = written.rpartition("|")
    minute = A_TIME.replace(second=0)
    shorter = (A_TIME, minute, minute.replace(minute=0), minute.replace(minute=0, hour=0))
    if read not in [str(time) for time in shorter]:
        raise SettingsError(
            f"{setting} '{pattern}' writes {A_TIME} as '{shown}' and reads that as {read or 'nothing'}: "
            "hours of twelve (hh) need am or pm (a), MM is the month, mm the minute; year, month and day must be there"
        )


def tried(spark: SparkSession, column: Column, setting: str, value: str) -> Any:
    """The value of a column of one row.

    Raises:
        SettingsError: Spark does not take it.
    """
    try:
        return spark.range(1).select(column).collect()[0][0]
    except SPARK_ERRORS as error:
        reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in reasons if not line.endswith(":")), reasons[0])
        raise SettingsError(f"{setting} is '{value}', which Spark does not take: {reason}") from error


def as_json(rules: Rules, asked: SourceSettings) -> dict[str, Any]:
    """What decides how a row is read. What came later is named only where it is used, so that older tables go on."""
    later = {
        "earliest": str(rules.earliest) if rules.earliest != order_lines.EARLIEST else None,
        "normalise_ids": rules.normalise_ids or None,
        "encoding": asked.encoding if asked.encoding != SourceSettings().encoding else None,
        "multiline": asked.multiline or None,
        "constants": dict(rules.constants) or None,
        "kinds": dict(rules.kinds) or None,
        "time_zone": rules.time_zone if rules.time_zone != "UTC" else None,
        "decimal_comma": rules.decimal_comma or None,
        "delimiter": asked.delimiter if asked.delimiter != "," else None,
        "quotes": [asked.quote, asked.escape] if (asked.quote, asked.escape) != ('"', None) else None,
        # Fields that are not mapped were no part of a row once.
        "json_rows": "whole" if asked.format == "json" else None,
    }
    first = {name: value for name, value in vars(rules).items() if name not in later}
    first |= {"columns": dict(rules.columns), "now": str(rules.now) if rules.now else None}
    return first | {name: value for name, value in later.items() if value is not None}


def _earliest(ingest: IngestSettings, asked: EventSource) -> datetime:
    is_default = ingest.earliest == order_lines.EARLIEST
    of_epochs = is_default and asked.time_format in typed_texts.MICROSECONDS
    return order_lines.EARLIEST_EPOCH if of_epochs else ingest.earliest
