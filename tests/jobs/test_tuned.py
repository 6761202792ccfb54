"""What a study found is taken where it is asked for, shown, and refused where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import train
from jobs.artefacts import BEST, write_json
from jobs.settings import Settings, load_settings
from jobs.tuned import with_best
from training.errors import SettingsError
from training.settings import FitSettings

FOUND: dict[str, Any] = {
    "model_name": "two_tower",
    "model": {"dim": 32},
    "training": {"learning_rate": 0.007},
    **{"trial": 5, "metric": "recall_at_20", "value": 0.31, "epochs": 2},
}


def asked(run_dir: Path, *flags: str) -> Settings:
    return load_settings(None, [f"run_dir={run_dir}", "training.tuned=true", "training.epochs=7", *flags])


def test_the_best_values_are_taken_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path, BEST, FOUND)
    settings = asked(tmp_path)
    tuned, origin = with_best(settings)
    assert (tuned.model["dim"], tuned.training.learning_rate, tuned.training.epochs) == (32, 0.007, 7)
    assert not tuned.training.tuned, "a bundle's record must not ask for what another study may find"
    assert origin == {"trial": 5, "metric": "recall_at_20", "value": 0.31}
    shown = capsys.readouterr().err
    for part in ("trial 5", "model.dim", "64", "32", "training.learning_rate", "0.001", "0.007"):
        assert part in shown
    assert with_best(tuned) == (tuned, None)


def test_nothing_is_taken_unasked(tmp_path: Path) -> None:
    write_json(tmp_path, BEST, FOUND)
    settings = load_settings(None, [f"run_dir={tmp_path}"])
    assert with_best(settings) == (settings, None)


def test_train_takes_it_and_the_bundle_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path, BEST, FOUND)
    told: list[dict[str, Any]] = []

    def spec_of(settings: Settings, **_: Any) -> dict[str, Any]:
        training = {name: getattr(settings.training, name) for name in FitSettings.model_fields}
        pinned = {"uri": "examples", "version": 3, "splits": ["train"]}
        spec: dict[str, Any] = {
            "task": "recommend",
            "tables": {"examples": pinned},
            "schema": [],
            "build": {"cuts": {"test": ""}},
        }
        return spec | {"model": settings.model, "training": training, "reader": {"shuffle_rows": 1}}

    def start(settings: Settings, spec: dict[str, Any], spark: Any, env: Any) -> dict[str, Any]:
        told.append(spec)
        return {"bundle": "b", "bundle_path": "b", "epochs": 7, "steps": 1, "final_loss": 0.1}

    monkeypatch.setattr(train, "learn_spec", spec_of)
    monkeypatch.setattr(train, "start", start)
    train.run(asked(tmp_path))
    assert (told[0]["model"]["dim"], told[0]["training"]["learning_rate"]) == (32, 0.007)
    provenance = told[0]["provenance"]
    assert provenance["tuned"]["trial"] == 5
    assert provenance["settings"]["model"]["dim"] == 32
    assert provenance["settings"]["training"]["tuned"] is False


def test_there_is_nothing_to_take(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"takes .*best\.json of model 'two_tower'; there is none; run `millrace tu"
    ):
        with_best(asked(tmp_path))


def test_a_best_of_another_model_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path, BEST, FOUND | {"model_name": "other"})
    with pytest.raises(SettingsError, match=r"takes .* of model 'two_tower'; it is of model 'other'; run"):
        with_best(asked(tmp_path))


def test_a_best_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path, BEST, FOUND | {"model": {"dim": -1}, "trial": 7})
    with pytest.raises(SettingsError, match=r"best\.json of trial 7 does not fit the settings: (?s:.*)-1"):
        with_best(asked(tmp_path))
