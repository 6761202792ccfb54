"""Whose turn a trial is: which are left to run here, which another driver has, and which a dead one left behind."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from training.errors import TuningError
from tuning.objective import trial_id_of
from tuning.ownership import STALE_S, Watch, take_over

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
LOOK_AGAIN_S = 5.0
PUT_OFF_AT_MOST = 60  # times STALE_S; a trial's folder that another process holds for longer is a person's to look at


def one_is_left(
    study: optuna.Study, storage: BaseStorage, planned: int, watch: Watch, say: Callable[[str], None]
) -> bool:
    """Whether there is a trial for this driver to run; waits where only time tells if another's driver is dead."""
    waits = False
    while True:
        put_back_dead(study, storage, watch)
        if _taken(study) < planned:
            return True
        silent = watch.undecided(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        if not silent:
            return False
        if not waits:
            numbers = ", ".join(str(trial.number) for trial in silent)
            waiting = f"waiting up to {STALE_S:.0f} s for a sign of the driver of trial {numbers}"
            say(f"study '{study.study_name}': {waiting}")
        waits = True
        time.sleep(LOOK_AGAIN_S)


def put_back_dead(study: optuna.Study, storage: BaseStorage, watch: Watch) -> None:
    """Queue the trials whose driver is gone, under their own numbers and with what they have reported."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = trial_id_of(storage, study.study_name, trial.number)
        now = storage.get_trial(trial_id)  # while those before it were looked at, another driver may have run it again
        if now.state == TrialState.RUNNING and watch.is_dead(now):
            take_over(storage, trial_id)


def _taken(study: optuna.Study) -> int:
    """Trials that have ended or are under way with another driver."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def put_off(study: str, watch: Watch, trial: FrozenTrial, why: str | None, say: Callable[[str], None]) -> None:
    """Leave a trial to be taken over later: the ranks of a driver that was cut off or stopped may still train it.

    Raises:
        TuningError: it was put off too often.
    """
    if watch.put_off(trial) >= PUT_OFF_AT_MOST:
        raise TuningError(
            f"study '{study}': trial {trial.number} must have its folder to itself, and another process held it "
            f"all {PUT_OFF_AT_MOST} times that it was to start here: {why}; end that process and run this again; the "
            "trial goes on"
        )
    say(f"study '{study}': trial {trial.number} is put off for {STALE_S:.0f} s: {why}")
