"""What a study has found, as data: the contents of tuning.json and best.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from tuning.space import by_section
from tuning.storage import open_storage
from tuning.study import ERROR, IS_START, SECONDS, StudyPlan, epoch_values, open_study

IMPORTANCE_NEEDS = 4  # finished trials before a ranking of parameters says anything


def summarise(plan: StudyPlan) -> dict[str, Any]:
    """The study as JSON.

    Returns:
        study, metric, fingerprint, planned; counts by state; trials (number, state, value, params, epochs: the metric
        after each, seconds, error, is_start); best and start (entries of trials, or None); importances by parameter
        (PED-ANOVA, Watanabe et al., 2023; they sum to 1, empty with too few trials).

    Raises:
        TuningError: see `open_study`.
    """
    study = open_study(plan, open_storage(plan.storage))
    trials = [_row(trial) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    complete = [row for row in trials if row["state"] == "complete"]
    return {
        "study": plan.name,
        "metric": plan.metric,
        "fingerprint": plan.fingerprint(),
        "planned": plan.trials,
        "counts": dict(Counter(row["state"] for row in trials)),
        "trials": trials,
        "best": max(complete, key=lambda row: (row["value"], -row["number"]), default=None),
        "start": next((row for row in complete if row["is_start"]), None),
        "importances": _importances(study),
    }


def best_overrides(summary: dict[str, Any]) -> dict[str, Any] | None:
    """What a training takes from a study: {"model", "training", "value", "trial", "epochs"}; None if no trial ended.

    `epochs` is the number after which the best trial's metric was highest.
    """
    best = summary["best"]
    if best is None:
        return None
    sections = {"model": {}, "training": {}, **by_section(best["params"])}
    epochs = 1 + best["epochs"].index(max(_finite(best["epochs"])))
    return {**sections, "value": best["value"], "trial": best["number"], "metric": summary["metric"], "epochs": epochs}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    values = epoch_values(trial)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else max(_finite(values), default=None),
        "params": trial.params,
        "epochs": values,
        "seconds": round(trial.user_attrs.get(SECONDS, 0.0), 3),
        "error": trial.user_attrs.get(ERROR),
        "is_start": bool(trial.user_attrs.get(IS_START)),
    }


def _finite(values: Sequence[float]) -> list[float]:
    """Without those of epochs whose metric nothing decided, which are neither more nor less than any other."""
    return [value for value in values if math.isfinite(value)]


def _importances(study: optuna.Study) -> dict[str, float]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < IMPORTANCE_NEEDS or len({trial.value for trial in complete}) < 2:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
