"""Who runs a trial: drivers sign what they run, so that a dead driver's trial can be told from a live one's."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

HOST, PROCESS, SEEN = "driver_host", "driver_process", "driver_seen"
BEAT_S = 20.0
STALE_S = 120.0  # a driver on another machine that was not seen for this long is dead


@contextmanager
def claimed(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Sign a trial and show every `BEAT_S` that its driver lives."""
    storage.set_trial_user_attr(trial_id, HOST, socket.gethostname())
    storage.set_trial_user_attr(trial_id, PROCESS, os.getpid())
    storage.set_trial_user_attr(trial_id, SEEN, time.time())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            storage.set_trial_user_attr(trial_id, SEEN, time.time())

    thread = threading.Thread(target=beat, name=f"heartbeat of trial {trial_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_stale(trial: FrozenTrial) -> bool:
    """Whether a running trial's driver is gone. Call it before this process runs any trial of the study."""
    signed = trial.user_attrs
    if signed.get(HOST) == socket.gethostname() and not _lives(int(signed.get(PROCESS, 0))):
        return True
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - float(signed.get(SEEN, begun)) > STALE_S


def _lives(process: int) -> bool:
    """Whether another process of this number runs here; ours took over the number if it is our own."""
    if process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
