"""How much memory a process and all that it starts hold at most."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 1.0


class PeakMemory:
    """Adds up the memory of this process and its descendants now and then, pages that several share counted once.

    Attributes:
        peak: bytes, the largest sum so far.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while True:
            self._look()
            if self._ended.wait(EVERY_S):
                return

    def _look(self) -> None:
        self.peak = max(self.peak, held())


def held() -> int:
    """Bytes that this process and its descendants hold now; one that ends meanwhile holds none."""
    own = psutil.Process()
    return sum(_of(process) for process in [own, *own.children(recursive=True)])


def _of(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
