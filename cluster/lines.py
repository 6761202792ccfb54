"""Where the ranks' lines go, by default and where nobody takes them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress


def to_stderr(line: str) -> None:
    """The default way to show the ranks' lines."""
    sys.stderr.write(f"{line}\n")  # in one piece: the ranks' threads write at once
    sys.stderr.flush()


def never_raising(log: Callable[[str], None]) -> Callable[[str], None]:
    """`log` for threads that must go on: a rank whose lines nobody takes stands still once its pipe is full.

    Where it raises, that is said on stderr, once, and this and all further lines follow there; where stderr is closed
    too, they are dropped.
    """
    broken = threading.Event()

    def careful(line: str) -> None:
        if not broken.is_set():
            try:
                return log(line)
            except Exception as error:  # whatever a notebook, a file or a library may raise
                broken.set()
                with suppress(OSError, ValueError):
                    to_stderr(f"the launch's log raised {type(error).__name__}: {error}; the ranks' lines follow here")
        with suppress(OSError, ValueError):
            to_stderr(line)
        return None

    return careful
