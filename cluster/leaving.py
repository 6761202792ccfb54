"""A launcher that is asked to end (SIGTERM) asks its ranks and waits for them: a training then leaves a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster.errors import LaunchError
from cluster.processes import Rank


class LaunchEndedError(LaunchError):
    """The launcher was asked to end, and its ranks with it: nothing is to be started again."""

    asked_to_end = True  # whoever runs one launch after another looks for this


@contextmanager
def passing_on(ranks: Sequence[Rank]) -> Iterator[None]:
    """Pass a SIGTERM on to the ranks, as long as this is entered; in another thread than the main one it cannot be.

    Raises:
        LaunchEndedError: it came, and the ranks ended with an error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def pass_on(*_: object) -> None:
        asked.set()
        for rank in ranks:
            rank.signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except LaunchError as error:
        if asked.is_set():
            raise LaunchEndedError(f"the launch was asked to end (SIGTERM); {error}") from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if asked.is_set():
        signal.raise_signal(signal.SIGTERM)  # the ranks' work was done: what comes after it ends here
