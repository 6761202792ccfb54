"""Another table in the place of one that was removed."""

from __future__ import annotations

import shutil

from jobs.tables import Tables


def make_anew(tables: Tables, name: str, where: str = "true") -> None:
    """Remove a table, and make one of its rows that meet a condition, whose newest version has the same number."""
    version, rows = tables.version(name), tables.read(name).where(where)
    held = tables.spark.createDataFrame(rows.collect(), rows.schema)
    shutil.rmtree(tables.path(name))
    for number in range(version + 1):
        tables.write(name, held, mode="overwrite", job="anew", inputs={"write": number})
