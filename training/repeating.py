"""Something that is done again and again beside the work, for as long as the work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(call: Callable[[], None], every_s: float, name: str) -> Iterator[None]:
    """Call it every so many seconds in a thread of that name, until the block ends; it must not raise."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            call()

    thread = threading.Thread(target=beat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
