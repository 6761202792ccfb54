"""Rows of a source that do not fit: how many and why, whether they are too many, and what of them is put aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs import source_files, source_rows
from jobs.source_rows import MALFORMED
from spark_udfs.occurrences import trimmed
from spark_udfs.order_lines import ERASED, NOT_KEPT, REPLACED
from training.errors import DataError, TooManyBadRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.settings_sources import TableSource
    from jobs.source import Source
    from spark_udfs.erased import Erased

KEPT = "kept"


def aside(typed: DataFrame, persons: Erased | None, of_nobody: frozenset[str]) -> DataFrame:
    """The rows for quarantine; once anybody was erased, none that mentions one, and no text of a malformed line.

    Args:
        typed: all rows.
        persons: who was erased.
        of_nobody: the source's columns whose values say nothing of a person.
    """
    rows = typed.where(F.col("reason") != ERASED)
    if persons is None:
        return rows
    row = F.when(F.col("reason") == MALFORMED, NOT_KEPT).otherwise(F.col("row"))
    return persons.unmentioned(rows.withColumn("row", row), "row", of_nobody, trimmed)


def counted(
    spark: SparkSession, source: Source, asked: TableSource, columns: Mapping[str, str], typed: DataFrame
) -> dict[str, int]:
    """Rows by reason, KEPT where they fit; columns that no row has are named.

    Raises:
        DataError: there are bytes that the encoding does not know.
    """
    is_replaced = F.max(F.contains("row", F.lit(REPLACED))).alias("is_replaced")
    is_said = [F.max(F.col(name).isNotNull()).alias(f"says {name}") for name in columns]
    held = typed.groupBy("reason").agg(F.count(F.lit(1)).alias("rows"), is_replaced, *is_said).collect()
    if any(row["is_replaced"] for row in held):
        source_files.refuse_undecodable(spark, source)
    said = [name for name in columns if any(row[f"says {name}"] for row in held)]
    if held:
        wanted = source_rows.wanted_of(asked, columns)
        own = {name: field for name, field in wanted.items() if name in columns}
        parts = {name: ", ".join(asked.joined[name]) for name in columns if name in asked.joined}
        source_files.tell_unsaid(source, own | parts, said)
    return {row["reason"] or KEPT: row["rows"] for row in held}


def bad(counts: Mapping[str, int]) -> dict[str, int]:
    """Rows that do not fit, by why."""
    return {reason: count for reason, count in counts.items() if reason not in (KEPT, ERASED)}


def check(counts: Mapping[str, int], source: str, place: str, limit: float) -> None:
    """See that there are rows, and most of them fit.

    Raises:
        DataError: there are none.
        TooManyBadRows: more than the limit, a share, do not fit.
    """
    rows, unfit = sum(counts.values()), bad(counts)
    if not rows:
        raise DataError(f"'{source}' holds no rows; name files that hold some in {place}.path")
    if sum(unfit.values()) > limit * rows:
        listed = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(unfit.items(), key=lambda item: -item[1]))
        broken = f". Values with line breaks want {place}.multiline: true" if MALFORMED in unfit else ""
        raise TooManyBadRows(
            f"{sum(unfit.values()):,} of {rows:,} rows of '{source}' are bad, over tables.quarantine_limit {limit:g}: "
            f"{listed}{broken}. Correct the file or {place}, or raise the limit; nothing was written"
        )
