"""Texts read as times and numbers: null where one is neither. Types are never guessed."""

from __future__ import annotations

import re

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, TimestampNTZType

MICROSECONDS = {"epoch_s": 1_000_000, "epoch_ms": 1_000}  # what one of such a number is, since 1970
ZONELESS = (DateType, TimestampNTZType)
NUMBER = r"^\s*[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\s*$"
_YEAR_9999 = 253_402_300_800_000_000  # in microseconds: Spark's last time ends before
_COMMA_NUMBER = r"^\s*([+-]?)(\d{1,3}(?:[.' \u00a0\u202f]\d{3})+|\d+)(?:,(\d+))?\s*$"
_ZONE_LETTERS = re.compile("[VzOXxZ]")


def time(text: Column, time_format: str, time_zone: str) -> Column:
    """A timestamp.

    Args:
        text: of a time.
        time_format: one of MICROSECONDS, or Spark's pattern.
        time_zone: of times whose pattern names none; the session's must be UTC.
    """
    if time_format not in MICROSECONDS:
        read = F.try_to_timestamp(text, F.lit(time_format))
        return read if names_zone(time_format) else in_zone(read, time_zone)
    number = F.when(text.rlike(NUMBER), text).cast("double") * MICROSECONDS[time_format]
    return F.timestamp_micros(F.when(F.abs(number) < _YEAR_9999, F.round(number)).cast("bigint"))


def in_zone(wall_clock: Column, time_zone: str) -> Column:
    """The point in time at which a clock in the zone shows this; where it shows it twice, or never, Java decides."""
    return wall_clock if time_zone == "UTC" else F.to_utc_timestamp(wall_clock, time_zone)


def names_zone(time_format: str) -> bool:
    """Whether a time of this format says when it was without a zone beside it."""
    outside_quotes = re.sub("'[^']*'", "", time_format)
    return time_format in MICROSECONDS or _ZONE_LETTERS.search(outside_quotes) is not None


def zoneless(rows: DataFrame, column: str, time_format: str) -> bool:
    """Whether the times of a column name no zone: by their type, or as texts of this format."""
    kind = rows.schema[column].dataType
    return isinstance(kind, ZONELESS) or (kind.simpleString() == "string" and not names_zone(time_format))


def number(text: str) -> Column:
    """A column of texts as numbers; null where one is none, or not finite. To Java 12d is a number too, and NaN."""
    value, last = F.expr(f"try_cast(`{text}` AS double)"), F.substring(F.trim(F.col(f"`{text}`")), -1, 1)
    return F.when(last.isin(*"0123456789.") & (F.abs(value) < float("inf")), value)


def with_point(text: Column) -> Column:
    """A number that has a decimal comma, and maybe marks between thousands, as one with a point; else no number.

    A point must stand between thousands there: 1.234,5 is a number, and so is 1.234; 1.5 is none.
    """
    sign, whole = F.regexp_extract(text, _COMMA_NUMBER, 1), F.regexp_extract(text, _COMMA_NUMBER, 2)
    fraction = F.regexp_extract(text, _COMMA_NUMBER, 3)
    digits = F.concat(sign, F.regexp_replace(whole, r"\D", ""), F.lit("."), fraction, F.lit("0"))
    return F.when(text.isNull(), None).when(text.rlike(_COMMA_NUMBER), digits).otherwise("no number")
