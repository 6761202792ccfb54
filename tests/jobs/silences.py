"""What of a job's work on Spark is done outside every step, where nobody hears of it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import console


def silences(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From here on, the lines of jobs/ that bring rows to the driver while no step is shown."""
    found, depth = list[str](), [0]
    held = type(spark.range(1))
    collect = held.collect

    @contextmanager
    def heard(title: str, started: float) -> Iterator[None]:
        depth[0] += 1
        try:
            yield
        finally:
            depth[0] -= 1

    def watched(rows: object) -> object:
        if not depth[0]:
            calls = [Path(call.filename).name + f":{call.lineno}" for call in traceback.extract_stack()]
            found.append(" <- ".join(reversed(calls[-6:-1])))
        return collect(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(console, "_heartbeat", heard)
    monkeypatch.setattr(held, "collect", watched)
    return found
