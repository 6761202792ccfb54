"""A shop's own Delta table that is as its task reads it: it is cloned, so that its files are read where they lie.

A clone is a table of ours with a log of its own, which names the files of one version of the other: it is pinned, built
from and erased from as any other, and holds no copy. Where the shop removes those files (VACUUM), the next ingest makes
another clone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path

from pyspark.sql import functions as F

from jobs import catalogue_tables, delta_sql
from jobs.settings_sources import TableSource
from jobs.source import Source, column


def place_of(source: Source) -> str:
    """The table as SQL names it."""
    if source.asked.table is not None:
        return catalogue_tables.quoted(source.asked.table)
    # Spark's SQL resolves a relative path against its warehouse.
    return delta_sql.place(source.name if ":/" in source.name else str(Path(source.name).absolute()))


def obstacle(source: Source, asked: TableSource, columns: Mapping[str, str], set_aside: int) -> str | None:
    """Why a table must be copied; None: it can be read where it lies.

    Args:
        source: the table.
        asked: its settings.
        columns: what the task reads: types, by column.
        set_aside: how many rows are not kept.
    """
    if source.version is None or source.table is None:
        return "it is no Delta table, which has versions"
    if asked.order_by_hash_of:
        return "its times are made"
    if asked.words or asked.wide or asked.joined or any(name != of_source for name, of_source in asked.columns.items()):
        return "its columns or words are not the task's own"
    held = {field.name: field.dataType.simpleString() for field in source.table.schema.fields}
    wanted = {name: kind.removesuffix("?") for name, kind in columns.items()}
    if held != wanted:
        other = sorted(name for name in held.keys() | wanted if held.get(name) != wanted.get(name))
        told = ", ".join(f"'{name}' is {held.get(name, 'not there')}" for name in other)
        return f"its columns are not those that the task reads: {told}"
    if set_aside:
        return f"{set_aside:,} of its rows are not kept"
    texts = [column(name) for name, kind in wanted.items() if kind == "string"]
    is_blank = reduce(or_, ((F.trim(text) != text) | (text == "") for text in texts), F.lit(False))
    if not source.table.where(is_blank).isEmpty():
        return "texts in it are empty, or have blanks around"
    return None
