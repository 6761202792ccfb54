"""A training of new classes is told how many the bundle has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.tasks.new_classes import told
from training.errors import SettingsError
from training.schema import Column, Kind, Schema
from training.state.publish import write_bundle
from training.world import World


def test_the_bundle_says_how_many_classes_stay(tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path,
        **{"model_name": "text_classes", "config": {}, "schema": Schema((Column("label", Kind.LABEL, "intents", 28),))},
        **{"tensors": {"w": torch.ones(2)}, "provenance": {}, "settings": {}, "metrics": {}},
    )
    model = {"name": "text_classes", "learn": "new"}
    spec = {"model": model, "start_from": {"name": bundle.name, "path": str(bundle.path)}}
    assert told(spec, World())["model"] == model | {"learnt": 28}
    with pytest.raises(SettingsError, match=r"must be the 28 classes of .*; it is 3: leave it out"):
        told(spec | {"model": model | {"learnt": 3}}, World())
    with pytest.raises(SettingsError, match=r"set training.start_from, or learn=all"):
        told({"model": model, "start_from": None}, World())
    assert told({"model": {"name": "text_classes"}}, World()) == {"model": {"name": "text_classes"}}
