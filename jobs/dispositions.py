"""The table `dispositions`: how many raw rows of each batch became what."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs import ingested
from jobs.console import show_table
from jobs.yaml_settings import cut
from spark_udfs.event_names import KINDS, SOLD
from spark_udfs.order_lines import DUPLICATE, ERASED, KEPT, REASONS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.tables import Tables

TABLE, JOB = "dispositions", "ingest"
UNKNOWN_KIND = "unknown_kind: "  # begins rows of `dispositions` that name a word: they are a part of another row
ODD_IDS = "odd_ids"  # rows of `dispositions` that are no disposition: kept rows whose ids may be one in several forms


def tally(tables: Tables, batch: str, counts: Mapping[str, Mapping[str, int]]) -> DataFrame:
    """The rows of a batch, from its counts by source and disposition."""
    rows = [(batch, name, what, count) for name, held in counts.items() for what, count in held.items()]
    return tables.spark.createDataFrame(rows, "batch string, source string, disposition string, rows bigint")


def of_batch(tables: Tables, batch: str) -> dict[str, dict[str, int]]:
    """The rows of a batch, by source."""
    held: dict[str, dict[str, int]] = {}
    for row in sorted(tables.read(TABLE).where(F.col("batch") == batch).collect(), key=itemgetter("source")):
        held.setdefault(row["source"], {})[row["disposition"]] = row["rows"]
    return held


def of_all(tables: Tables) -> dict[str, int]:
    """Rows by disposition of all batches of which the events consist."""
    held = tables.read(TABLE).join(ingested.in_force(tables), on=["source", "batch"], how="left_semi")
    rows = held.groupBy("disposition").agg(F.sum("rows").alias("rows")).collect()
    return named({row["disposition"]: row["rows"] for row in rows})


def named(held: Mapping[str, int]) -> dict[str, int]:
    """Those that are dispositions, in their order."""
    return {name: held[name] for name in (*KEPT, DUPLICATE, ERASED, *REASONS) if name in held}


def listed(rows: Mapping[str, int]) -> str:
    """Words with how often they stand."""
    return ", ".join(f"'{cut(word)}' ({count:,})" for word, count in rows.items())


def show(of_batch: Mapping[str, int], of_all: Mapping[str, int]) -> None:
    """Show the rows of the last batch, and of all where there are more."""
    words = {
        "sale": "kept: sales of known customers",
        "sale_without_customer": "kept for item statistics only: sales without a customer",
        "return": "kept as returns: cancelled orders; histories do not change",
        **{kind: f"kept: events of the kind {kind}" for kind in KINDS if kind not in SOLD},
        "ignored_kind": f"set aside: {REASONS['ignored_kind']}",
        "duplicate": "set aside: further copies of a row that equals another in every column",
        "erased": "dropped: of persons who were erased; written nowhere",
        "not_a_product": f"set aside: {REASONS['not_a_product']}",
    }
    total = ("all", "", sum(of_batch.values()), sum(of_all.values()))
    rows = [
        (name, words.get(name, f"quarantined: {REASONS.get(name)}"), of_batch.get(name, 0), count)
        for name, count in of_all.items()
    ]
    if of_batch == of_all:
        show_table("Raw rows by disposition", ("disposition", "what", "rows"), [row[:3] for row in [*rows, total]])
    else:
        heads = ("disposition", "what", "rows of this batch", "all rows")
        show_table("Raw rows by disposition", heads, [*rows, total])
