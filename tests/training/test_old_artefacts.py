"""What older versions wrote still loads: `old/` holds files of the formats without checksums, as they were then."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import Field

from tests.training.tiny import TinyLoader, TinyModel, rows
from training import configs
from training import schema as schemas
from training.configs import CONFIGS, ModelConfig, TwoTowerConfig, model_identity
from training.fit import Event, FitSettings, fit
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.state.bundle import load_bundle
from training.watch.record import read_record
from training.world import World

OLD = Path(__file__).parent / "old"
BUNDLE = OLD / "two_tower-fdca6a29d189"
FINAL_LOSS = 2.0415434456101824  # of two epochs without a stop, by the version that wrote the checkpoint


class LaterSettings(FitSettings):
    """The settings of a later version."""

    momentum: float = 0.9
    names: list[str] = Field(default_factory=list)


class LaterConfig(TwoTowerConfig):
    """The model's hyper-parameters of a later version."""

    heads: int = 1
    windows: tuple[int, ...] = Field(default_factory=tuple)


@dataclass(frozen=True)
class LaterColumn(Column):
    """A column of a later version."""

    unit: str | None = None


def _go_on(folder: Path, settings: FitSettings) -> tuple[float, list[Event]]:
    events: list[Event] = []
    world = World()
    loader = TinyLoader(rows(64), 16, world)
    result = fit(
        TinyModel(),
        loader,
        settings,
        world=world,
        checkpoint_dir=str(folder),
        report=events.append,
        identity={"schema": "abc"},
    )
    return result.final_loss, events


@pytest.mark.parametrize("kind", [FitSettings, LaterSettings])
def test_a_training_goes_on_from_an_old_checkpoint(tmp_path: Path, kind: type[FitSettings]) -> None:
    shutil.copytree(OLD / "checkpoints", tmp_path, dirs_exist_ok=True)
    loss, events = _go_on(tmp_path, kind(epochs=2, batch_size=16, keep_checkpoints=1))
    assert (events[0].kind, events[0].step) == ("resume", 4)
    assert loss == pytest.approx(FINAL_LOSS, rel=1e-6)


def test_a_later_setting_that_is_set_is_another_training() -> None:
    assert LaterSettings().identity() == FitSettings().identity()
    assert LaterSettings(momentum=0.5).identity() == {**FitSettings().identity(), "momentum": 0.5}
    assert LaterSettings(names=["a"]).identity() == {**FitSettings().identity(), "names": ["a"]}


def test_a_later_field_of_a_model_that_is_set_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    old = model_identity({"name": "two_tower", "dim": 4})
    first = TwoTowerConfig(dim=4).model_dump(include=set(TwoTowerConfig.FIRST))
    assert old == json.loads(json.dumps({"name": "two_tower", **first}))
    monkeypatch.setitem(configs.CONFIGS, "two_tower", LaterConfig)
    assert model_identity({"name": "two_tower", "dim": 4}) == old
    assert model_identity({"name": "two_tower", "dim": 4, "windows": [3]}) == {**old, "windows": [3]}


@pytest.mark.parametrize("config", CONFIGS.values())
def test_a_model_names_the_fields_that_it_began_with(config: type[ModelConfig]) -> None:
    assert config.FIRST
    assert config.model_fields.keys() >= config.FIRST


@pytest.mark.parametrize(("kind", "config"), [(Column, TwoTowerConfig), (LaterColumn, LaterConfig)])
def test_an_old_bundle_loads(kind: type[Column], config: type[TwoTowerConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "Column", kind)
    monkeypatch.setattr(TwoTower, "Config", config)
    bundle = load_bundle(BUNDLE)
    assert bundle.name == BUNDLE.name
    assert bundle.provenance["examples_fingerprint"] == "abc"
    assert isinstance(bundle.schema["user"], kind)
    assert bundle.schema.fingerprint == "c4b311bd0937"
    model = bundle.model()
    assert isinstance(model, TwoTower)
    assert model.items.weight[1].tolist() == pytest.approx([-0.6226, 0.0464, 0.6532, -0.4179], abs=1e-4)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert torch.equal(model.drift_days, torch.tensor([30.0]))


def test_a_later_field_that_is_set_changes_the_fingerprint() -> None:
    plain = Schema((Column("age", Kind.DENSE),)).fingerprint
    assert Schema((LaterColumn("age", Kind.DENSE),)).fingerprint == plain
    assert Schema((LaterColumn("age", Kind.DENSE),)).to_json() == Schema((Column("age", Kind.DENSE),)).to_json()
    assert Schema((LaterColumn("age", Kind.DENSE, unit="days"),)).fingerprint != plain


def test_what_was_said_before_the_record_was_open_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged checkpoint, and a file system without locks."""
    shutil.copytree(OLD / "checkpoints", tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "step-000000004", tmp_path / "step-000000009")

    def without(handle: int, how: int) -> None:
        raise OSError("planted: no locks available")

    monkeypatch.setattr("fcntl.flock", without)
    _, events = _go_on(tmp_path, FitSettings(epochs=2, batch_size=16))
    said = [line for line in read_record(tmp_path) if line["kind"] == "warning"]
    assert [line["message"] for line in said] == [event.message for event in events if event.kind == "warning"]
    assert [line["step"] for line in said] == [4, 4]
    assert "has no locks (planted: no locks available)" in said[0]["message"]
    assert "step-000000009' is damaged" in said[1]["message"]
