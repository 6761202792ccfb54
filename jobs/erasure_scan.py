"""Which tables persons stand in, by all files of all tables: live ones, old ones, and logs.

The executors read the files; what comes to the driver is a row for each file that names a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import erasure_files, erasure_tables
from jobs.sessions import session_settings
from jobs.simulate import ORDER_LINES, raw_tables
from jobs.tables import Tables
from spark_udfs.occurrences import ONE_FILE_A_BATCH, Finder, find, trimmed
from spark_udfs.order_lines import NOT_KEPT, normalised, of_no_person

if TYPE_CHECKING:
    from jobs.settings import Settings

RAW, VOCABULARY, QUARANTINE, EXAMPLES = "order_lines", "vocabulary_users", "quarantine", "examples"
MALFORMED = "malformed_line"  # the reason of a line that has no fields
BY_ID = ("events", "users", "queries", "recommendations", "feedback")
# In this order they are cleaned. The vocabulary is the last: it says which index is whose.
ORDER = (RAW, *BY_ID, QUARANTINE, EXAMPLES, VOCABULARY)


class Scan:
    """Looks for ids in the tables of a pipeline, and in the raw order lines if its shop is simulated.

    Args:
        settings: the pipeline's.
        tables: its tables.
        ids: as ingest keeps them.
    """

    def __init__(self, settings: Settings, tables: Tables, ids: Iterable[str]) -> None:
        held = frozenset(ids)
        clean = normalised if settings.ingest.normalise_ids else trimmed
        self.finder = Finder(held, {"user_id", settings.ingest.columns.get("user_id", "user_id")}, clean)
        self._aside = of_no_person(settings.ingest.columns or ORDER_LINES.columns)
        self._by_index = Finder(held, {"id"})  # `id` is a user's in the users' vocabulary alone
        self._tables, raw = tables, raw_tables(settings, tables.spark)
        self._source = _plain(settings.ingest.path or "")
        self._raw = raw if settings.ingest.path is None and raw.exists(RAW) else None

    def of(self, name: str) -> Tables:
        """Where a table lies."""
        return self._raw if name == RAW and self._raw is not None else self._tables

    def files(self) -> dict[str, int]:
        """The files in which ids stand, and in how many places."""
        spark, folders = self._tables.spark, list[str]()
        for tables in (self._tables, *([] if self._raw is None else [self._raw])):
            for name in erasure_files.folders_in(spark, tables.root):
                folders += erasure_tables.places(tables, name)
        with session_settings(spark, ONE_FILE_A_BATCH):
            rows = find(spark, folders, self.finder, {f"/{VOCABULARY}/": self._by_index}).collect()
        return {row["path"]: row["places"] for row in rows if not self._is_source(row["path"])}

    def _is_source(self, path: str) -> bool:
        """Whether a file is of the shop's own source (`ingest.path`), where that lies below the tables' root."""
        is_below = self._source.startswith(f"{_plain(self._tables.root)}/")
        return is_below and f"{_plain(path)}/".startswith(f"{self._source}/")

    def still_needed(self, files: dict[str, int]) -> dict[str, int]:
        """Those of the files that the tables as they are now consist of."""
        needed: dict[str, int] = {}
        for name in sorted({name for path in files if (name := table_of(path))}):
            is_old = erasure_tables.old(self.of(name), name)
            needed |= {path: places for path, places in files.items() if table_of(path) == name and not is_old(path)}
        return needed | {path: places for path, places in files.items() if table_of(path) is None}

    def known(self, wanted: DataFrame) -> int:
        """How many of the ids (a column `value`) stand in a table now."""
        held = [(name, "user_id") for name in BY_ID if self._tables.exists(name)]
        held += [(VOCABULARY, "id")] if self._tables.exists(VOCABULARY) else []
        if not held:
            return 0
        ids = [self._tables.read(name).select(F.col(column).alias("value")) for name, column in held]
        return reduce(DataFrame.union, ids).join(wanted, on="value", how="left_semi").distinct().count()

    def indices(self, wanted: DataFrame) -> DataFrame:
        """The persons' indices in the vocabulary (a column `value`), while it has their ids."""
        if not self._tables.exists(VOCABULARY):
            return self._tables.spark.createDataFrame([], "value bigint")
        held = self._tables.read(VOCABULARY).withColumnRenamed("id", "value")
        return held.join(wanted, on="value", how="left_semi").select(F.col("index").alias("value"))

    def quarantined(self) -> DataFrame:
        """The raw rows in quarantine (a column `value`) that name one of the persons, and all malformed lines.

        Those have no fields to look at; what ingest has put in place of such a line names nobody.
        """
        rows = self._tables.read(QUARANTINE).where(F.col("row") != NOT_KEPT)
        names = F.udf(partial(self.finder.names, aside=self._aside), "boolean")
        is_malformed = F.col("reason") == MALFORMED
        return rows.where(F.when(is_malformed, True).otherwise(names("row"))).select(F.col("row").alias("value"))


def table_of(path: str) -> str | None:
    """The table of persons that a file belongs to; None: another."""
    return next((name for name in ORDER if f"/{name}/" in path), None)


def _plain(place: str) -> str:
    """A path or URL as it can be compared: a local one absolute, without its scheme."""
    local = re.sub("^file:/+", "/", place).rstrip("/")
    return local if ":/" in local else str(Path(local).absolute())
