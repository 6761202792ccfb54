"""Peak memory of a streaming process over five epochs, over 4 x the shuffle window plus 2 row groups a worker.

    python benchmarks/loader_memory.py [ROWS EPOCHS]

Small row groups with a window of eight, and large ones: a loader's eight shards hold a row group each, so the window is
never less. The worse of the two counts.
"""

from __future__ import annotations

import threading
from pathlib import Path

from _loader import WIDE, WORKERS, arguments, loader, open_snapshot, report, table, wide

GROUPS, GOAL = (25_000, 100_000), 1.0
ROW_BYTES = 8 * 8 + 13 * 4


def resident() -> int:
    """Bytes that this process has in memory, less the pages of files (its own code)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Watch:
    """Highest resident memory, looked at every 10 ms."""

    def __init__(self) -> None:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.peak = max(self.peak, resident())

    def take(self) -> int:
        """The peak since the last call."""
        peak, self.peak = self.peak, 0
        return peak


def peaks(rows: int, group: int, epochs: int, before: int) -> tuple[list[int], int]:
    """Bytes over the start in each epoch, and the bytes allowed."""
    snapshot, window = open_snapshot(table(f"wide-{group}", rows, group, wide)), 8 * group
    allowed = (4 * window + 2 * WORKERS * group) * ROW_BYTES
    watch, found = Watch(), list[int]()
    with loader(snapshot, WIDE, window) as ours:
        for epoch in range(epochs):
            assert sum(len(batch["i0"]) for batch in ours.epoch(epoch)) == rows
            found.append(watch.take() - before)
            mib, limit = round(found[-1] / 2**20), round(allowed / 2**20)
            print(f"  row groups of {group:,}, epoch {epoch}: {mib:,} MiB over the start, {limit:,} allowed")
    return found, allowed


def main() -> None:
    rows, epochs = arguments(5e6, 5)
    with loader(open_snapshot(table("wide", 10_000, 1000, wide)), WIDE, 1000) as warm:
        next(warm.epoch(0))  # loads the libraries' code
    before = resident()
    by_group = {group: peaks(rows, group, epochs, before) for group in GROUPS}
    detail = {
        str(group): {
            "mib_by_epoch": [round(peak / 2**20) for peak in found],
            "mib_allowed": round(allowed / 2**20),
            "last_over_first": round(found[-1] / found[0], 2),
        }
        for group, (found, allowed) in by_group.items()
    }
    worst = max(max(found) / allowed for found, allowed in by_group.values())
    report("loader_memory", worst, GOAL, "x the memory allowed (at most)", detail)


if __name__ == "__main__":
    main()
