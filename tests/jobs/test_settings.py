"""One file, flags over it, every problem together."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from training.errors import SettingsError


def test_defaults_are_whole() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.model["name"] == "two_tower"
    assert len(settings.model) > 1, "the model's own defaults are filled in"


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {epochs: 2, ranks: 1}\nevaluation: {ks: [20, 5, 20]}\n")
    settings = load_settings(file, ["training.epochs=7", "tables.root=elsewhere"])
    assert (settings.training.epochs, settings.training.ranks, settings.tables.root) == (7, 1, "elsewhere")
    assert settings.evaluation.ks == (5, 20)


def test_every_problem_is_reported_together(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {epoch: 2, ranks: two}\nscoring: {k: 0}\nmodel: {name: two_towers}\n")
    with pytest.raises(SettingsError) as raised:
        load_settings(file, ["nonsense", "task=recomend"])
    message = str(raised.value)
    for part in (
        "6 problem(s)",
        "training.epoch: unknown key (value 2); did you mean 'epochs'?",
        "training.ranks",
        "'two'",
        "scoring.k",
        "two_towers",
        "known: two_tower",
        "flag 'nonsense'",
        "recomend",
    ):
        assert part in message, f"{part!r} is missing in:\n{message}"


@pytest.mark.parametrize(
    ("content", "what"),
    [("- a\n- b\n", "holds a list"), ("a: [1\n", "is not YAML"), ("{}", None), ("", None)],
)
def test_a_file_that_is_no_pipeline(tmp_path: Path, content: str, what: str | None) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(content)
    if what is None:
        assert load_settings(file) == Settings()
    else:
        with pytest.raises(SettingsError, match=what):
            load_settings(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml' does not exist"):
        load_settings(tmp_path / "nowhere.yaml")


def test_an_unknown_model_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="no_such_knob"):
        load_settings(None, ["model={name: two_tower, no_such_knob: 3}"])


@pytest.mark.parametrize("name", ["online_retail", "shop"])
def test_the_shipped_pipelines_are_valid(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "jobs" / "pipelines" / f"{name}.yaml"
    assert load_settings(path).task == "recommend"
