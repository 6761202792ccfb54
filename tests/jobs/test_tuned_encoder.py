"""What a training starts from that tunes an encoder, and what it refuses before the first step. No Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.learn_spec import _columns_for
from jobs.tasks.tuned_encoder import start_of
from tests.training.text_models import CONFIG, save_folder
from training.errors import SettingsError, WeightsError
from training.schema import Column, Kind, Schema
from training.state.text_weights import weights_digest
from training.world import World


def spec_of(folder: Path, **changed: Any) -> dict[str, Any]:
    return {
        "model": {"name": "tuned_text_classes", "encoder": None},
        "options": {"weights": str(folder)},
        "build": {"inputs": {"options": {"weights_digest": weights_digest(folder)}}},
    } | changed


def test_a_spec_is_told_what_the_encoder_is_and_the_tokenizer_goes_along(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "weights")
    started = start_of(spec_of(folder), World())
    told = started.told(spec_of(folder))["model"]["encoder"]
    assert {name: told[name] for name in CONFIG if name in told} == {
        name: value for name, value in CONFIG.items() if name != "hidden_dropout_prob"
    }
    [(name, file)] = started.attached(tmp_path).items()
    assert (name, file.read_bytes()) == ("tokenizer.json", (folder / "tokenizer.json").read_bytes())
    other = {"model": {"name": "text_classes"}}
    plain = start_of(other, World())
    assert (plain.told(other), plain.attached(tmp_path)) == (other, {})


def test_weights_that_the_examples_were_not_made_with_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    with pytest.raises(WeightsError, match=r"of SHA-256 0a0a; '.*' has [0-9a-f]{64}: set options.weights back"):
        start_of(spec_of(folder, build={"inputs": {"options": {"weights_digest": "0a0a"}}}), World())
    wrong = {"name": "tuned_text_classes", "encoder": {"hidden_size": 3}}
    with pytest.raises(SettingsError, match=r"model\.encoder must be .* left out; it is \{'hidden_size': 3\}"):
        start_of(spec_of(folder, model=wrong), World())


def test_examples_without_tokens_are_refused_with_the_option_that_makes_them() -> None:
    columns = Schema((Column("terms", Kind.IDS, "terms", 9), Column("label", Kind.LABEL, "intents", 3)))
    with pytest.raises(SettingsError, match=r"examples with tokens; .* have terms, label; .* \(options\.tokens_kept\)"):
        _columns_for("tuned_text_classes", columns)
