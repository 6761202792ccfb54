"""What an erasure says to people in the end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.console import say, show_counts, show_table


def now() -> str:
    """The time as logs and certificates have it: ISO, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def show(said: dict[str, Any], path: Path) -> None:
    """Show a certificate, and where it lies."""
    show_counts("Erased", {name: said[name] for name in ("persons", "in_rows", "not_in_rows")})
    show_table(
        "Tables",
        ("table", "rows removed", "version before", "version", "log files removed"),
        [(name, *table.values()) for name, table in said["tables"].items()],
    )
    for bundle in said["bundles"]:
        say(f"learnt from them: bundle {bundle['bundle']}; train anew: {bundle['anew']}")
    if said["old_files_until"]:
        say(f"{said['old_files_left']:,} old files name them until {said['old_files_until']}: erase again then")
    say(f"erase: no other file names them; certificate {path}")
