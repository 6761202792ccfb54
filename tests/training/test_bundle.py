"""Bundles: the same content is the same bundle; what is torn or foreign is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from training import models
from training.batch import Batch
from training.bundle import load_bundle, write_bundle
from training.configs import ModelConfig
from training.errors import BundleError
from training.models.base import Model
from training.schema import Column, Kind, Schema

SCHEMA = Schema((Column("item", Kind.ID, vocabulary="items", size=6),))


class Table(Model):
    """One embedding table."""

    class Config(ModelConfig):
        width: int = 3

    Config: ClassVar[type[ModelConfig]] = Config  # type: ignore[no-redef,misc]

    def __init__(self, config: Any, schema: Schema) -> None:
        super().__init__(config, schema)
        self.items = torch.nn.Embedding(schema.vocabularies()["items"], config.width, sparse=True)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", {"table": Table}, raising=False)


def _write(folder: Path, **changes: Any) -> Any:
    tensors = {"items.weight": torch.arange(18.0).reshape(6, 3), "extra": torch.ones(2)}
    content = {
        "model_name": "table",
        "config": {"width": 3},
        "schema": SCHEMA,
        "tensors": tensors,
        "provenance": {"table": "examples", "version": 4},
        "settings": {"training": {"seed": 1}},
        "metrics": {"recall_at_20": 0.12},
    }
    return write_bundle(folder, **{**content, **changes})


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    bundle = load_bundle(_write(tmp_path).path)
    assert bundle.name.startswith("table-")
    assert len(bundle.name) == len("table-") + 12
    assert bundle.schema == SCHEMA
    assert (bundle.config, bundle.provenance["version"]) == ({"width": 3}, 4)
    assert (bundle.settings, bundle.metrics) == ({"training": {"seed": 1}}, {"recall_at_20": 0.12})
    assert bundle.tensor_names() == ["extra", "items.weight"]
    assert bundle.tensor("items.weight")[2].tolist() == [6.0, 7.0, 8.0]
    model = bundle.model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.state_dict()["items.weight"], bundle.tensor("items.weight"))


def test_the_same_content_is_one_bundle(tmp_path: Path) -> None:
    first, second = _write(tmp_path), _write(tmp_path)
    assert first.path == second.path
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert _write(tmp_path, config={"width": 4}).name != first.name
    changed = {"items.weight": torch.arange(18.0).reshape(6, 3), "extra": torch.zeros(2)}
    assert _write(tmp_path, tensors=changed).name != first.name


def test_weights_are_mapped_not_read(tmp_path: Path) -> None:
    bundle = _write(tmp_path, tensors={"items.weight": torch.zeros(2_000_000, 3)})
    tensor = bundle.tensor("items.weight")
    with Path("/proc/self/smaps").open() as file:
        lines = iter(file)
        header = next(line for line in lines if str(bundle.path) in line)
        fields = dict(line.split(":") for line in (next(lines) for _ in range(20)))
    assert header
    assert int(fields["Rss"].split()[0]) < tensor.numel() * 4 // 1024 // 2


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a bundle is a folder with bundle.json; .*nowhere"):
        load_bundle(tmp_path / "nowhere")


def test_a_torn_one_is_refused(tmp_path: Path) -> None:
    bundle = _write(tmp_path)
    weights = bundle.path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"is torn: weights.safetensors \\({len(whole) - 1} bytes\\)"):
        load_bundle(bundle.path)
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BundleError, match=r"the SHA-256 that bundle.json gives"):
        load_bundle(bundle.path)
    weights.unlink()
    with pytest.raises(BundleError, match=r"is torn: weights.safetensors \(0 bytes\)"):
        load_bundle(bundle.path)
    (bundle.path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"is torn: bundle.json is not JSON"):
        load_bundle(bundle.path)


def _edit(path: Path, **changes: Any) -> None:
    file = path / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_foreign_one_is_refused(tmp_path: Path) -> None:
    bundle = _write(tmp_path)
    _edit(bundle.path, schema=Schema((Column("item", Kind.ID, vocabulary="items", size=7),)).to_json())
    with pytest.raises(BundleError, match=f"instead of {SCHEMA.fingerprint}; it was changed"):
        load_bundle(bundle.path)
    _edit(bundle.path, schema=[{"name": "item", "kind": "colour"}])
    with pytest.raises(BundleError, match=r"must carry a schema; .*colour"):
        load_bundle(bundle.path)
    _edit(bundle.path, format=7)
    with pytest.raises(BundleError, match="must have format 1; it has 7"):
        load_bundle(bundle.path)


def test_an_unknown_model_or_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="it holds 'tree', known are table"):
        _write(tmp_path, model_name="tree").model()
    with pytest.raises(BundleError, match=r"it lacks items\.weight"):
        _write(tmp_path, tensors={"extra": torch.ones(1)}).model()
    with pytest.raises(BundleError, match=r"it has no 'nope', but extra, items\.weight"):
        _write(tmp_path).tensor("nope")
