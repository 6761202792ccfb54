"""Peak memory of a streaming process over five epochs, over 4 x the shuffle window plus 2 row groups a worker.

python benchmarks/loader_memory.py [ROWS EPOCHS]
"""

from __future__ import annotations

import threading
from pathlib import Path

from _loader import WIDE, WORKERS, arguments, loader, open_snapshot, report, table, wide

WINDOW, GROUP, GOAL = 800_000, 100_000, 1.0  # eight shards mix at least a row group each
ROW_BYTES = 8 * 8 + 13 * 4


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


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


def main() -> None:
    rows, epochs = arguments(5e6, 5)
    snapshot = open_snapshot(table("wide", rows, GROUP, wide))
    allowed = (4 * WINDOW + 2 * WORKERS * GROUP) * ROW_BYTES
    watch, before, peaks = Watch(), resident(), list[int]()
    with loader(snapshot, WIDE, WINDOW) as ours:
        for epoch in range(epochs):
            assert sum(len(batch["i0"]) for batch in ours.epoch(epoch)) == rows
            peaks.append(watch.take() - before)
            print(f"  epoch {epoch}: {peaks[-1] / 2**20:,.0f} MiB over the start, {allowed / 2**20:,.0f} allowed")
    detail = {
        "mib_by_epoch": [round(peak / 2**20) for peak in peaks],
        "last_over_first": round(peaks[-1] / peaks[0], 2),
    }
    report("loader_memory", max(peaks) / allowed, GOAL, "x the memory allowed (at most)", detail)


if __name__ == "__main__":
    main()
