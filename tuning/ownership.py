"""Who runs a trial: drivers sign what they run, so that a dead driver's trial can be told from a live one's.

No two machines' clocks are compared: a driver's sign changes every `BEAT_S`, and who watches counts by its own clock.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from training.repeating import repeating

DRIVER, BEAT = "driver", "driver_seen"  # who: host, process and a sign of the taking, in one write; and that it lives
_OLD_HOST, _OLD_PROCESS = "driver_host", "driver_process"  # where older versions wrote them one by one
BEAT_S = 20.0
STALE_S = 120.0  # a driver whose sign stood still for this long is dead
SETTLE_S = 1.0  # longer than a storage takes to show one driver's sign to another


@contextmanager
def claimed(storage: BaseStorage, trial_id: int) -> Iterator[Callable[[], bool]]:
    """Sign a trial and show every `BEAT_S` that its driver lives; gives what tells whether it still is this driver's.

    It is not where another driver took this one for dead, as where it was cut off for longer than `STALE_S`.
    """
    signed = _sign(storage, trial_id)

    def is_ours() -> bool:
        return bool(storage.get_trial(trial_id).user_attrs[DRIVER] == signed)

    def beat() -> None:
        with suppress(Exception):  # a storage that is away for a moment; the next beat tells as much
            if is_ours():
                storage.set_trial_user_attr(trial_id, BEAT, uuid.uuid4().hex)

    with repeating(beat, BEAT_S, f"heartbeat of trial {trial_id}"):
        yield is_ours


def take_over(storage: BaseStorage, trial_id: int) -> bool:
    """Sign a dead driver's trial and queue it; whether no other driver did so at the same time.

    Of several that find it dead together the last to sign has it (Fischer's algorithm: Lamport, "A fast mutual
    exclusion algorithm", 1987). Where its driver lives after all and has ended it meanwhile, it stays ended.
    """
    with suppress(UpdateFinishedTrialError):
        signed = _sign(storage, trial_id)
        time.sleep(SETTLE_S)
        trial = storage.get_trial(trial_id)
        if trial.state == TrialState.RUNNING and trial.user_attrs[DRIVER] == signed:
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
            return True
    return False


def _sign(storage: BaseStorage, trial_id: int) -> dict[str, Any]:
    """In one write: who reads between two would pair one driver's host with another's process."""
    signed = {"host": socket.gethostname(), "process": os.getpid(), "sign": uuid.uuid4().hex}
    storage.set_trial_user_attr(trial_id, DRIVER, signed)
    return signed


def _driver(trial: FrozenTrial) -> tuple[object, int]:
    """Host and process of a trial's driver."""
    attributes = trial.user_attrs
    if isinstance(signed := attributes.get(DRIVER), dict):
        return signed["host"], int(signed["process"])
    return attributes.get(_OLD_HOST), int(attributes.get(_OLD_PROCESS, 0))


def _sign_of(trial: FrozenTrial) -> object:
    """What changes while its driver lives, and where another takes it over."""
    return trial.user_attrs.get(DRIVER), trial.user_attrs.get(BEAT)


class Watch:
    """What one driver has seen of the others' signs."""

    def __init__(self) -> None:
        self._first: dict[int, object] = {}
        self._last: dict[int, tuple[object, float]] = {}
        self._put_off: Counter[int] = Counter()

    def is_dead(self, trial: FrozenTrial) -> bool:
        """Whether a running trial's driver is gone, as far as this watch can tell by now.

        Call it while this process runs no trial of the study.
        """
        host, process = _driver(trial)
        ours = process == os.getpid() and trial.number in self._put_off
        if host == socket.gethostname() and not ours and not _lives(process):
            return True
        sign, now = _sign_of(trial), time.monotonic()
        self._first.setdefault(trial.number, sign)
        before, since = self._last.setdefault(trial.number, (sign, now))
        if before != sign:
            self._last[trial.number] = (sign, now)
        return before == sign and now - since > STALE_S

    def put_off(self, trial: FrozenTrial) -> int:
        """Leave a trial that this driver has signed alone, as a dead one's, for `STALE_S`; how often it was by now."""
        sign = _sign_of(trial)
        self._first[trial.number], self._last[trial.number] = sign, (sign, time.monotonic())
        self._put_off[trial.number] += 1
        return self._put_off[trial.number]

    def undecided(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Running trials of which it has seen no sign of life yet, and not for long enough to call them dead."""
        return [trial for trial in trials if self._first.get(trial.number) == _sign_of(trial)]


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
