"""The table `quality`: a row each time that a batch of a source is judged, with its profile, by which later ones are.

A row has the verdict (pass, warn, stop or overridden), what was found, and how many good batches it was held against.
Rows are only added. A profile names no person, so an erasure has nothing to look for here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs import dispositions
from jobs.quality.compared import Good
from jobs.quality.findings import Finding
from jobs.quality.profile import Profile

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.settings_quality import QualitySettings
    from jobs.tables import Tables

TABLE, JOB = "quality", "ingest"
PASS, WARN, STOP, OVERRIDDEN = "pass", "warn", "stop", "overridden"
COLUMNS = (
    "table string, source string, batch string, number bigint, judged bigint, verdict string, override string, "
    "held_against int, rows bigint, newest bigint, "
    "findings array<struct<check: string, column: string, found: string, expected: string>>, profile string"
)


class Verdict(NamedTuple):
    """A row of the table.

    Attributes:
        table: that the batch was to be written to.
        source: that its rows are of.
        batch: its name, as `dispositions` has it.
        number: of the batches of the table; one that comes in place of another has the same, and none is below earlier
            ones.
        judged: when, in microseconds since 1970, as times here are; in the table it is a time.
        verdict: PASS, WARN, STOP or OVERRIDDEN.
        override: why it was written all the same; None: nobody said so.
        held_against: how many good batches.
        rows: that were judged.
        newest: the latest time in it; None: there is none.
        findings: what differs.
        profile: JSON.
    """

    table: str
    source: str
    batch: str
    number: int
    judged: int
    verdict: str
    override: str | None
    held_against: int
    rows: int
    newest: int | None
    findings: Sequence[Finding]
    profile: str


class Written(NamedTuple):
    """What was written of a table before, good or not.

    Attributes:
        newest_us: the latest time of each source, in microseconds since 1970.
        number: of the last batch that was judged; -1: there is none.
    """

    newest_us: Mapping[str, int]
    number: int


def written(tables: Tables, table: str, batch: str) -> Written:
    """What was written of a table, but for a batch itself."""
    if not _is_any(tables):
        return Written({}, -1)
    is_of_table = (F.col("table") == table) & (F.col("batch") != batch) & (F.col("verdict") != STOP)
    newest = F.unix_micros(F.max("newest")).alias("newest")
    of_source = _that_stand(tables).where(is_of_table).groupBy("source").agg(newest, F.max("number").alias("number"))
    rows = of_source.collect()
    held = {row["source"]: row["newest"] for row in rows if row["newest"] is not None}
    return Written(held, max((row["number"] for row in rows), default=-1))


def last_good(tables: Tables, table: str, source: str, batch: str, asked: QualitySettings) -> list[Verdict]:
    """The latest good batches of a source before this one, the oldest first.

    Good is what passed, and what a person called good: by an override that is recorded, or one that the settings name
    now, of a batch that was written with a warning.
    """
    if not _is_any(tables):
        return []
    is_good = F.col("verdict").isin(PASS, OVERRIDDEN) | (
        (F.col("verdict") == WARN) & F.col("batch").isin(*asked.override)
    )
    of_source = (F.col("table") == table) & (F.col("source") == source) & (F.col("batch") != batch)
    of_number = Window.partitionBy("number").orderBy(F.desc("judged"), F.col("verdict") != OVERRIDDEN)
    rows = _that_stand(tables).where(of_source & is_good).withColumn("turn", F.row_number().over(of_number))
    latest = rows.where("turn = 1").drop("turn").orderBy(F.desc("number")).limit(asked.against)
    return [
        Verdict(*row)._replace(findings=[Finding(*one) for one in row["findings"]])
        for row in latest.withColumns(_each_time(F.unix_micros)).collect()[::-1]
    ]


def _is_any(tables: Tables) -> bool:
    return tables.exists(TABLE) and tables.exists(dispositions.TABLE)


def _that_stand(tables: Tables) -> DataFrame:
    """The rows whose batch was written: a verdict is kept before the rows are, and these may not have come."""
    batches = tables.read(dispositions.TABLE).select("batch").distinct()
    held = tables.read(TABLE)
    return held.join(batches, on="batch", how="left_semi").select(*held.columns)


def as_good(verdict: Verdict) -> Good:
    """A verdict as the judgement of another batch asks for it."""
    profile = Profile.from_json(json.loads(verdict.profile))
    return Good(profile, verdict.verdict != PASS, verdict.judged)


def keep(tables: Tables, verdicts: Sequence[Verdict]) -> None:
    """Add rows to the table."""
    rows: DataFrame = tables.spark.createDataFrame([tuple(one) for one in verdicts], COLUMNS)
    rows = rows.coalesce(1).withColumns(_each_time(F.timestamp_micros))
    judged = [[one.table, one.source, one.batch, one.verdict, one.judged] for one in verdicts]
    tables.write(TABLE, rows, mode="append", job=JOB, inputs={"judged": judged})


def _each_time(change: Callable[[str], Column]) -> dict[str, Column]:
    """The columns of times, changed: Python would read and write them in the machine's time zone."""
    return {name: change(name) for name in ("judged", "newest")}
