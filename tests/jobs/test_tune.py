"""The tune job: trials are jobs of several ranks on one pinned spec; what they find goes to best.json and to train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

from cluster.launch import launch
from cluster.rank import run_function
from jobs import tune
from jobs.artefacts import BEST, TUNING, read_json
from jobs.settings import Settings, load_settings
from jobs.tasks import TASKS
from jobs.tasks.recommend import VALIDATION_KS
from tests.tuning import toy
from training.batch import Ragged
from training.configs import CONFIGS, TwoTowerConfig, choices
from training.errors import DataError, SettingsError, TuningError
from training.metrics.values import ranking_metrics
from training.state import lock
from training.watch.record import Event
from training.world import World
from tuning.objective import study_reporter

SPEC: dict[str, Any] = {
    "task": "recommend",
    "tables": {"examples": {"uri": "somewhere/examples", "version": 3, "splits": ["train"]}},
    "ranks": 1,
    "checkpoint_dir": None,
}


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Stands for a task's: recall is highest without dropout; all ranks must have been told the same."""
    told = {key: spec[key] for key in ("model", "training", "report")}
    assert world.all_gather_object(told) == [told] * world.size
    assert spec["training"]["metric"] == "recall_at_20"
    Path(spec["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
    report = study_reporter(spec["report"])
    history = []
    for epoch in range(spec["training"]["epochs"]):
        entry = {"epoch": epoch, "loss": 1.0, toy.METRIC: (1 - spec["model"]["dropout"]) * (epoch + 1)}
        history.append(entry)
        if world.rank == 0:
            report(Event("epoch", 10 * epoch, epoch, "", entry))
    return {"history": history}


def broken(spec: dict[str, Any], world: World) -> dict[str, Any]:
    raise DataError(f"no such column in {spec['tables']['examples']['uri']}")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose training is the `learn` above."""
    use_learn(monkeypatch, "learn")
    return load_settings(None, flags(tmp_path))


def use_learn(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task = dataclasses.replace(TASKS["recommend"], learn=f"tests.jobs.test_tune:{name}")
    monkeypatch.setitem(TASKS, "recommend", task)

    def spec_of(settings: Settings, *, splits: tuple[str, ...], validate: bool) -> dict[str, Any]:
        assert (splits, validate) == (("train",), True)
        training = {name: getattr(settings.training, name) for name in tune.FitSettings.model_fields}
        return {**SPEC, "model": settings.model, "training": training, "ranks": settings.training.ranks}

    def started(target: str, spec: dict[str, Any], *, ranks: int, **how: Any) -> dict[str, Any]:
        """A trial of one rank in this process: its start is the launcher's matter."""
        if ranks > 1:
            return launch(target, spec, ranks=ranks, **how)
        return run_function(target, json.loads(json.dumps(spec)), World())

    monkeypatch.setattr(tune, "learn_spec", spec_of)
    monkeypatch.setattr(tune, "launch", started)


def flags(run_dir: Path, *more: str) -> list[str]:
    space = dict.fromkeys(tune.search_space(Settings()).start())
    space |= {"model.dim": {"choices": [8, 16]}, "model.dropout": {"low": 0.0, "high": 0.5}}
    storage = f"tuning.storage=journal:{run_dir}/study.log"
    fixed = ["training.ranks=1", "model.dim=16", "tuning.epochs=2", "tuning.trials=4", storage]
    return [f"run_dir={run_dir}", f"tuning.space={json.dumps(space)}", *fixed, *more]


def test_the_best_trial_goes_to_best_json_and_into_the_settings(settings: Settings) -> None:
    summary = tune.run(settings)
    held, best = read_json(settings.run_dir, TUNING), read_json(settings.run_dir, BEST)
    assert summary["counts"] == {"complete": 4}
    assert [trial["params"]["model.dim"] in (8, 16) for trial in held["trials"]] == [True] * 4
    assert held["start"]["params"] == {"model.dim": 16, "model.dropout": settings.model["dropout"]}
    assert held["metric"] == "recall_at_20"
    assert held["fingerprint"]["table examples"] == "somewhere/examples version 3, train"
    assert summary["best"]["value"] == max(trial["value"] for trial in held["trials"]) > summary["start"]
    assert best == summary["best"]
    assert best["epochs"] == 2
    assert not list((Path(settings.run_dir) / "trials").iterdir())  # a finished trial keeps no checkpoint


def test_a_second_run_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune.run(settings)
    before = (Path(settings.run_dir) / TUNING).read_text()
    use_learn(monkeypatch, "broken")
    assert tune.run(settings) == first
    assert (Path(settings.run_dir) / TUNING).read_text() == before


def test_trials_run_on_several_ranks(settings: Settings, tmp_path: Path) -> None:
    summary = tune.run(load_settings(None, flags(tmp_path, "training.ranks=2", "tuning.trials=1")))
    assert summary["counts"] == {"complete": 1}
    assert summary["best"]["value"] == pytest.approx(2 * (1 - settings.model["dropout"]))


def test_failing_trials_stop_the_study_with_their_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    use_learn(monkeypatch, "broken")
    with pytest.raises(
        TuningError, match=r"first 3 trials all failed.*DataError: no such column in somewhere/examples"
    ):
        tune.run(settings)
    assert read_json(settings.run_dir, BEST) is None


def test_another_version_of_the_table_is_another_study(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tune.run(settings)
    monkeypatch.setitem(SPEC["tables"], "examples", {"uri": "somewhere/examples", "version": 4, "splits": ["train"]})
    with pytest.raises(TuningError, match=r"table examples: was .*version 3, train\", is now .*version 4"):
        tune.run(settings)


def test_a_study_goes_on_without_a_field_that_a_newer_version_varies(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(TwoTowerConfig):
        heads: int = Field(1, ge=1, json_schema_extra=choices(1, 2))

    before = flags(tmp_path, "tuning.trials=1")
    tune.run(load_settings(None, before))
    monkeypatch.setitem(CONFIGS, "two_tower", Later)
    with pytest.raises(
        TuningError, match=r"range of model\.heads: was null, .*; 'model\.heads: null' in tuning\.space"
    ):
        tune.run(load_settings(None, before))
    held = flags(tmp_path, "tuning.trials=2")  # holds all that it does not name
    assert '"model.heads": null' in str(held)
    assert tune.run(load_settings(None, held))["counts"] == {"complete": 2}
    with pytest.raises(TuningError, match=r"model\.heads: was null, is now 2"):
        tune.run(load_settings(None, [*held, "model.heads=2"]))


def test_no_trials_asked_for(settings: Settings, tmp_path: Path) -> None:
    assert tune.run(load_settings(None, flags(tmp_path, "tuning.trials=0")))["best"] is None


@pytest.mark.parametrize("metric", ["loss", "recall_at_7"])
def test_a_metric_that_the_validation_does_not_give_is_refused(settings: Settings, tmp_path: Path, metric: str) -> None:
    with pytest.raises(SettingsError, match=rf"tuning\.metric must be one .* got '{metric}'; known: recall_at_10, "):
        tune.run(load_settings(None, flags(tmp_path, f"tuning.metric={metric}")))


def test_the_tasks_metrics_are_those_that_its_validation_gives() -> None:
    nothing = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    given = ranking_metrics(torch.zeros(0, 50, dtype=torch.int64), nothing, VALIDATION_KS)
    assert set(TASKS["recommend"].metrics) == {prefix + name for name in given for prefix in ("", "any_")}


def test_ranks_elsewhere_cannot_reach_a_file_here(settings: Settings, tmp_path: Path) -> None:
    away = load_settings(None, flags(tmp_path, "training.launcher=barrier", "tuning.storage=''"))
    with pytest.raises(SettingsError, match=r"tuning\.storage is 'sqlite:.*study\.db', .* training\.launcher=barrier"):
        tune.run(away)


def test_checkpoints_are_not_removed_under_another_drivers_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_S", 0.0)
    with lock.only_writer(tmp_path / "trial", print):
        (tmp_path / "trial" / "step-1").touch()
        tune._remove(tmp_path / "trial")
        assert (tmp_path / "trial" / "step-1").exists()
    tune._remove(tmp_path / "trial")
    tune._remove(tmp_path / "trial")
    assert not (tmp_path / "trial").exists()
