"""What the trainer's benchmarks share: one thread a rank, middle times, memory, the last line."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def arguments(*defaults: float) -> list[int]:
    """Whole numbers from the command line; those that are not given are the defaults."""
    return [int(float(given)) for given in [*sys.argv[1:], *[str(d) for d in defaults][len(sys.argv) - 1 :]]]


def middle_ms(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Middle milliseconds of each call, called in turn, after one call each that is not counted.

    Every second round goes backwards, so that no call always finds what the same other one left in the caches.
    """
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in list(calls.items())[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


def memory_mb(field: str) -> int:
    """A line of /proc/self/status in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 // 10**6


def report(name: str, ratio: float, goal: float, unit: str, detail: dict[str, Any]) -> None:
    """The last line."""
    print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": goal, "unit": unit, "detail": detail}))
