"""Whether rows still are what the history's were, counted over batches: each may have few rows, or none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from spark_udfs import live
from spark_udfs.order_lines import ERASED

ENOUGH = 100  # rows of which something is said; of a column, as many as would have said it in the history


def counted(tally: Mapping[str, Any], counts: Iterable[Any], asked: Collection[str]) -> dict[str, Any]:
    """A tally with a batch's rows.

    Args:
        tally: as this gives it; empty at first.
        counts: rows by what they are: reason (null: none), rows, and "says NAME" of each column.
        asked: these columns.

    Returns:
        rows and bad (by reason) since there last were ENOUGH; silent: rows by column since it last said anything.
    """
    held, before = list(counts), tally if tally.get("rows", 0) < ENOUGH else {"silent": tally["silent"]}
    rows, bad = sum(row["rows"] for row in held), dict(before.get("bad", {}))
    for row in held:
        if row["reason"] not in (None, ERASED, *live.REASONS):
            bad[row["reason"]] = bad.get(row["reason"], 0) + row["rows"]
    silent = {
        name: 0 if any(row[f"says {name}"] for row in held) else before.get("silent", {}).get(name, 0) + rows
        for name in asked
    }
    return {"rows": before.get("rows", 0) + rows, "bad": bad, "silent": silent}


def too_many_bad(tally: Mapping[str, Any], limit: float) -> str | None:
    """Of how many rows too many do not fit, and why; None: those are few."""
    rows, bad = tally["rows"], tally["bad"]
    if rows < ENOUGH or sum(bad.values()) <= limit * rows:
        return None
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(bad.items()))
    return f"{sum(bad.values()):,} of {rows:,} rows are bad, over tables.quarantine_limit {limit:g}: {listed}"


def fallen_silent(tally: Mapping[str, Any], shares: Mapping[str, float]) -> str | None:
    """Which columns say nothing any more; None: all do, as often as in the history, whose `shares` of rows say them."""
    silent = {name: rows for name, rows in tally["silent"].items() if rows * shares[name] >= ENOUGH}
    if not silent:
        return None
    listed = ", ".join(f"{name} (of the history's rows {shares[name]:.0%} do)" for name in silent)
    return f"none of {min(silent.values()):,} rows says anything in {listed}"
