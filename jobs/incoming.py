"""A batch of events, and a task's own table, as the quality gate sees them (jobs/quality/gate.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs import dispositions
from jobs.quality.gate import PART, Incoming
from jobs.settings_sources import TableSource
from jobs.source_rows import BINARY
from jobs.task import said_persons
from spark_udfs.order_lines import EVENT_COLUMNS, KEPT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ingest_batch import Batch
    from jobs.settings import Settings
    from jobs.tables import Tables

ALONE = "ingest"  # the place of a source that is none of several
KEYS = ("order_id", "user_id", "item_id", "time", "kind")
OF_PERSONS = frozenset({"user_id", "order_id"})
OF_NOBODY = frozenset({"kind", "category", "country"})  # texts whose words name no person


def of_events(batch: Batch, marked: DataFrame, counts: Mapping[str, Mapping[str, int]]) -> Incoming:
    """The rows that become events, by their source; a source that stands alone is known by its place in the settings.

    Args:
        batch: what is read.
        marked: the rows, sorted out.
        counts: of each source, rows by disposition.
    """
    named = {source.name: source.name if source.place != ALONE else ALONE for source, _ in batch.readings}
    source = F.col("source") if ALONE not in named.values() else F.lit(ALONE)
    kept = marked.where(F.col("disposition").isin(*KEPT))
    said = {name for _, rules in batch.readings for name in (*rules.columns, *rules.constants)} | {"kind"}
    return Incoming(
        table="events",
        batch=batch.name,
        number=batch.number,
        rows=kept.select(*(name for name in EVENT_COLUMNS if name in {*KEYS, *said}), source.alias(PART)),
        outcomes={named[name]: dispositions.named(rows) for name, rows in counts.items()},
        keys=KEYS,
        time="time",
        named=OF_NOBODY,
        of_persons=OF_PERSONS,
        is_read_again=batch.whole,
    )


def of_table(
    settings: Settings,
    tables: Tables,
    name: str,
    columns: Mapping[str, str],
    typed: DataFrame,
    counts: Mapping[str, int],
    batch: str,
) -> Incoming:
    """A table that is made anew; where nobody has said which columns are of persons, no word of it is kept.

    Args:
        settings: the pipeline's.
        tables: where the table lies.
        name: its own.
        columns: their types.
        typed: all rows, with what is wrong with each as `reason`.
        counts: rows by reason.
        batch: the batch's name.
    """
    asked, place = settings.sources.get(name, TableSource()), f"sources.{name}"
    texts = {column for column, kind in columns.items() if kind.removesuffix("?") == "string"}
    told = [column for column, kind in columns.items() if kind.removesuffix("?") != BINARY]
    persons = texts if asked.persons is None else set(said_persons(settings, name))
    has_time = columns.get("time", "").startswith("timestamp") and not asked.order_by_hash_of
    return Incoming(
        table=name,
        batch=batch,
        number=tables.version(name) + 1 if tables.exists(name) else 0,
        rows=typed.where("reason IS NULL").select(*told, F.lit(place).alias(PART)),
        outcomes={place: counts},
        keys=told,
        time="time" if has_time else None,
        named=frozenset(texts - persons),
        of_persons=frozenset(persons),
        is_read_again=True,
    )
