"""A study: many short trainings on one pinned version, each a job of several ranks, kept so that it can go on.

    plan = StudyPlan(name="recommend", storage="sqlite:///out/run/study.db", ...)
    run_study(plan, run_trial, progress)      # again after a kill: goes on where it stood

The driver proposes parameters and starts trials; the ranks report to the storage (tuning/objective.py). A trial whose
driver died is put back in the queue under its own number, so that it goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from training.errors import TuningError
from training.masking import masked
from tuning.objective import PRUNED_AFTER, Channel, Pruning, trial_id_of
from tuning.ownership import STALE_S, Watch, claimed
from tuning.space import Space
from tuning.storage import answering, open_storage
from tuning.turns import FINISHED, one_is_left, put_off

FINGERPRINT = "fingerprint"
RANGE = "range of "  # in front of a parameter's name, in a fingerprint
ERROR, IS_START, SECONDS = "error", "is_start", "seconds"
RANDOM_TRIALS = 5  # before TPE models the results: a trial is a training, so it starts sooner than Optuna's ten
GIVE_UP_AFTER = 3  # failures at a study's start before it stops: the cause lies with the set-up, not the parameters
ERROR_CHARACTERS = 4_000


@dataclass(frozen=True)
class StudyPlan:
    """All that a study is made of.

    Attributes:
        name: the study's name in its storage.
        storage: see tuning/storage.py.
        space: what is varied.
        fixed: what is held (pinned versions, model, settings), JSON; with the space and the metric, the fingerprint.
        metric: validation metric to maximise; a trial's value is that of its best epoch.
        trials: number of trials that the study shall have in the end, failed ones included; drivers that ask for the
            last one at the same moment run one each.
        pruning: when a trial is given up.
        seed: of the sampler.
    """

    name: str
    storage: str
    space: Space
    fixed: Mapping[str, Any]
    metric: str
    trials: int
    pruning: Pruning
    seed: int = 0

    def fingerprint(self) -> dict[str, Any]:
        """What must not change between the trials of a study, by the names that a person knows."""
        ranges = {f"{RANGE}{name}": spec for name, spec in self.space.to_json().items()}
        whole = {**self.fixed, **ranges, "metric": self.metric, "epochs of a trial": self.pruning.epochs}
        decoded: dict[str, Any] = json.loads(json.dumps(whole))
        return decoded


@dataclass(frozen=True)
class TrialJob:
    """What the caller runs: a training with these values that reports to this channel."""

    number: int
    overrides: dict[str, dict[str, Any]]
    channel: Channel


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended. `value` is None if it failed."""

    number: int
    state: str
    value: float | None
    params: Mapping[str, Any]
    seconds: float
    error: str | None = None
    best: bool = False


RunTrial = Callable[[TrialJob], Mapping[str, Any]]


def open_study(plan: StudyPlan, storage: BaseStorage) -> optuna.Study:
    """Create the study, or take up the one of this name.

    Raises:
        TuningError: the study was made with another fingerprint.
    """
    study = optuna.create_study(
        study_name=plan.name, storage=storage, direction="maximize", pruner=plan.pruning.build(), load_if_exists=True
    )
    wanted, held = plan.fingerprint(), study.user_attrs.get(FINGERPRINT)
    if held is None:
        study.set_user_attr(FINGERPRINT, wanted)
    elif held != wanted:
        raise TuningError(
            f"study '{plan.name}' in {masked(plan.storage)} compares trials of one data version, space and metric, and "
            f"these changed:\n{_changes(held, wanted)}\n"
            "Start another with tuning.study=NAME, or restore what changed"
        )
    return study


def _changes(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two fingerprints, a line each, and what leaves out a range that a study was begun without.

    A newer version may bring one, with a field; the field's default is what the study has had all along.
    """
    lines = []
    for key in sorted(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key)):
        line = f"  - {key}: was {json.dumps(held.get(key))}, is now {json.dumps(wanted.get(key))}"
        if key.startswith(RANGE) and key not in held:
            line += f"; '{key.removeprefix(RANGE)}: null' in tuning.space holds it at its configured value"
        lines.append(line)
    return "\n".join(lines)


def run_study(
    plan: StudyPlan, run_trial: RunTrial, progress: Callable[[TrialEnd], None], say: Callable[[str], None] = print
) -> None:
    """Run trials until the study has as many as planned.

    The first takes the configured values; trials that a dead driver left behind go first. Interrupting leaves the
    trial under way to the next call. Drivers on several machines may share a study through its storage.

    Args:
        plan: the study.
        run_trial: runs one trial's training and returns when it has ended, pruned or not; what it raises is kept as
            the trial's error.
        progress: told of each trial that has ended.
        say: gets a line where it has to wait.

    Raises:
        TuningError: see `open_study`; or the first trials all failed, another process holds the folder of one for
            two hours, or the storage can no longer be read or written.
    """
    storage = open_storage(plan.storage)
    with answering(plan.storage):
        _run_all(open_study(plan, storage), storage, plan, run_trial, progress, say)


def _run_all(
    study: optuna.Study,
    storage: BaseStorage,
    plan: StudyPlan,
    run_trial: RunTrial,
    progress: Callable[[TrialEnd], None],
    say: Callable[[str], None],
) -> None:
    watch = Watch()
    failed = 0
    while one_is_left(study, storage, plan.trials, watch, say):
        end = _run_one(study, storage, plan, watch, run_trial, say)
        if end is None:
            continue
        progress(end)
        failed += end.state == "fail"
        if failed == min(GIVE_UP_AFTER, plan.trials) and not study.get_trials(
            states=(TrialState.COMPLETE, TrialState.PRUNED)
        ):
            raise TuningError(
                f"study '{plan.name}': the first {failed} trials all failed, so it stopped; trial {end.number} "
                f"with {dict(end.params)}: {end.error}\nRemove the cause and run it again; it goes on"
            )


def _run_one(
    study: optuna.Study,
    storage: BaseStorage,
    plan: StudyPlan,
    watch: Watch,
    run_trial: RunTrial,
    say: Callable[[str], None],
) -> TrialEnd | None:
    """Take the next trial, run it, and tell the study how it ended.

    None where another driver has taken it over, or another process holds its folder: then it is put off.
    """
    trial = study.ask()
    trial_id = trial_id_of(storage, plan.name, trial.number)
    started = time.perf_counter()
    error, held = None, False
    with claimed(storage, trial_id) as is_ours:
        study.sampler = _sampler(study, trial, plan)
        overrides = plan.space.suggest(trial)
        if PRUNED_AFTER not in trial.user_attrs:  # else its driver died after the decision
            channel = Channel(plan.storage, plan.name, trial.number, plan.metric, plan.pruning)
            try:
                run_trial(TrialJob(trial.number, overrides, channel))
            except Exception as problem:
                if getattr(problem, "asked_to_end", False):
                    raise  # this driver ends; the trial goes on with the next one
                error = f"{type(problem).__name__}: {problem}"[:ERROR_CHARACTERS]
                held = bool(getattr(problem, "busy", False))
        try:
            if not held and is_ours():
                trial.set_user_attr(SECONDS, time.perf_counter() - started)
                return _tell(study, trial, storage.get_trial(trial_id), plan, error)
        except (UpdateFinishedTrialError, ValueError):  # Optuna's words for a trial that has ended, or is queued again
            if is_ours():
                raise
    if held and is_ours():  # by now it has no heartbeat
        put_off(plan.name, watch, storage.get_trial(trial_id), error, say)
        return None
    say(
        f"study '{plan.name}': trial {trial.number} was taken over by another driver, which saw no sign of this one "
        f"for {STALE_S:.0f} s; what came of it here is left out{'' if error is None else f' ({error})'}"
    )
    return None


def _tell(study: optuna.Study, trial: Trial, left: FrozenTrial, plan: StudyPlan, error: str | None) -> TrialEnd:
    values = epoch_values(left)
    finite = [value for value in values if math.isfinite(value)]
    if error is None and not finite:
        error = f"TuningError: the trial reported no finite {plan.metric}; it reported {values}"
    pruned = PRUNED_AFTER in left.user_attrs
    if error is not None:
        trial.set_user_attr(ERROR, error)
        study.tell(trial, state=TrialState.FAIL)
    elif pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, max(finite))
    state = "fail" if error is not None else "pruned" if pruned else "complete"
    value = None if error is not None else max(finite)
    is_best = state == "complete" and study.best_trial.number == trial.number
    return TrialEnd(trial.number, state, value, trial.params, left.user_attrs[SECONDS], error, is_best)


def epoch_values(trial: FrozenTrial) -> list[float]:
    """The metric after each epoch, in order."""
    return [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]


def _sampler(study: optuna.Study, trial: Trial, plan: StudyPlan) -> BaseSampler:
    """What proposes a trial's values: a function of the study's seed, the trial's number and what others have found.

    So a study that was interrupted proposes what an unbroken one would, and drivers that start together differ.
    """
    base = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=(plan.seed * 100_003 + trial.number) % 2**32)
    if IS_START not in trial.user_attrs:
        trial.set_user_attr(IS_START, _is_to_start(study, trial.number))
    if not trial.user_attrs[IS_START]:
        return base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # unchanged since Optuna 2.4
        return PartialFixedSampler(plan.space.start(), base)


def _is_to_start(study: optuna.Study, number: int) -> bool:
    """Whether a trial takes the configured values: none has that did not fail, and none before it may still.

    Numbers are given once, so of drivers that start together one is to.
    """
    others = [trial for trial in study.get_trials(deepcopy=False) if trial.number != number]
    standing = any(trial.user_attrs.get(IS_START) and trial.state != TrialState.FAIL for trial in others)
    undecided = any(trial.number < number and trial.state not in FINISHED for trial in others)
    return not standing and not undecided
