"""What runs on the ranks of a trial: the training itself, told after every epoch whether to go on.

The channel between the ranks and the study is the study's storage: rank 0 writes each epoch's validation metric there
and asks the pruner; if it says stop, `report` raises `Pruned`, which `training.fit` carries to all ranks. Nothing else
connects a trial to its driver, so a trial that outlives its driver loses nothing.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage

from training.errors import TuningError
from training.watch.record import Event, Pruned
from training.world import World
from tuning.storage import answering, open_storage

LEARN = "tuning.objective:learn_trial"  # for cluster.launch
PRUNED_AFTER = "pruned_after_epochs"
MEDIAN_NEEDS = 3  # finished trials before the median of them says something


@dataclass(frozen=True)
class Pruning:
    """When a trial is given up.

    Attributes:
        kind: "median" stops a trial that is worse than the median of the others after as many epochs (Golovin et al.,
            2017); "hyperband" runs successive halving in several brackets (Li et al., 2018), for many trials; "none".
        epochs: epochs of a trial at most.
        warmup: epochs that every trial may take.
    """

    kind: Literal["median", "hyperband", "none"]
    epochs: int
    warmup: int

    def build(self) -> BasePruner:
        """Optuna's pruner; its steps are epochs done, from 1."""
        if self.kind == "median":
            return MedianPruner(n_startup_trials=MEDIAN_NEEDS, n_warmup_steps=self.warmup + 1)
        if self.kind == "hyperband":
            return HyperbandPruner(min_resource=min(self.warmup + 1, self.epochs), max_resource=self.epochs)
        return NopPruner()


@dataclass(frozen=True)
class Channel:
    """A trial's address: what a rank needs to reach its study. Travels in the spec, as JSON."""

    storage: str
    study: str
    trial: int
    metric: str
    pruning: Pruning

    def to_json(self) -> dict[str, Any]:
        return {"kind": "study", **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Channel:
        fields = {key: value for key, value in values.items() if key != "kind"}
        return cls(**{**fields, "pruning": Pruning(**fields["pruning"])})


def study_reporter(channel: Mapping[str, Any]) -> Callable[[Event], None]:
    """The `report` callback of a trial's `fit`: metric to the study, decision back. `fit` calls it on rank 0 only.

    Args:
        channel: `Channel.to_json()`.

    Returns:
        The callback. It raises `Pruned` to end the trial, and TuningError where the storage cannot be opened, read or
        written, or an epoch comes without the metric.
    """
    address = Channel.from_json(channel)

    @functools.cache
    def connect() -> tuple[BaseStorage, optuna.Study]:  # when the first epoch ends, and on rank 0 alone
        storage = open_storage(address.storage)
        return storage, optuna.load_study(study_name=address.study, storage=storage, pruner=address.pruning.build())

    def report(event: Event) -> None:
        if event.kind != "epoch":
            return
        value = event.values.get(address.metric)
        if value is None:
            raise TuningError(
                f"tuning.metric is '{address.metric}', which no epoch's validation gives; it gives: "
                f"{', '.join(sorted(event.values))}"
            )
        epochs = event.epoch + 1
        with answering(address.storage):
            storage, study = connect()
            trial_id = trial_id_of(storage, address.study, address.trial)
            storage.set_trial_intermediate_value(trial_id, epochs, float(value))
            given_up = epochs < address.pruning.epochs and study.pruner.prune(study, storage.get_trial(trial_id))
            if given_up:
                storage.set_trial_user_attr(trial_id, PRUNED_AFTER, epochs)
        if given_up:
            raise Pruned(f"trial {address.trial} ends at {address.metric} {value:.4g} after {epochs} epoch(s)")

    return report


def trial_id_of(storage: BaseStorage, study: str, number: int) -> int:
    """The storage's own id of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)


def learn_trial(spec: Mapping[str, Any], world: World) -> dict[str, Any]:
    """Run a task's `learn` as a trial; a pruned one is a result, not a failure.

    Args:
        spec: {"learn": "module:function" of the task, "spec": what that function is told}; the function returns a dict
            with fit's history, an entry an epoch.
        world: the ranks.

    Returns:
        What `learn` returns, and "pruned": true or false. The metric of every epoch is in the study.
    """
    module, _, name = spec["learn"].partition(":")
    learn = getattr(importlib.import_module(module), name)
    try:
        result = learn(spec["spec"], world)
    except Pruned:
        return {"pruned": True}
    if world.rank == 0:
        _fill_in(Channel.from_json(spec["spec"]["report"]), result["history"])
    return {**result, "pruned": False}


def _fill_in(address: Channel, history: Sequence[Mapping[str, float]]) -> None:
    """Report epochs that were not: a trial that died after an epoch's checkpoint goes on with the next epoch."""
    storage = open_storage(address.storage)
    with answering(address.storage):
        trial_id = trial_id_of(storage, address.study, address.trial)
        known = storage.get_trial(trial_id).intermediate_values
        for entry in history:
            epochs = int(entry["epoch"]) + 1
            if epochs not in known:
                storage.set_trial_intermediate_value(trial_id, epochs, float(entry[address.metric]))
