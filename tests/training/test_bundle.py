"""Bundles: the same content is the same bundle; what is torn or foreign is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from training import models
from training.batch import Batch
from training.configs import ModelConfig
from training.errors import BundleError, UnreadableError
from training.models.base import Model
from training.schema import Column, Kind, Schema
from training.state import described, files, publish
from training.state.bundle import Bundle, load_bundle, provenance_of
from training.state.json_files import write_json
from training.state.publish import clear_remnants, write_bundle

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


_init = Table.__init__


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


def test_attachments_come_back_and_are_part_of_what_it_is(tmp_path: Path) -> None:
    source = tmp_path / "given"
    source.write_bytes(b"words")
    plain, bundle = _write(tmp_path / "b"), _write(tmp_path / "b", attachments={"tokenizer.json": source})
    assert plain.attachments == ()
    assert "attachments" not in json.loads((plain.path / "bundle.json").read_text())
    again = load_bundle(bundle.path)
    assert again.attachments == ("tokenizer.json",)
    assert again.attachment("tokenizer.json").read_bytes() == b"words"
    assert _write(tmp_path / "b", attachments={"tokenizer.json": str(source)}).path == bundle.path
    source.write_bytes(b"other")
    assert _write(tmp_path / "b", attachments={"tokenizer.json": source}).name not in (bundle.name, plain.name)
    with pytest.raises(BundleError, match=r"it has no 'vocabulary', but tokenizer\.json"):
        again.attachment("vocabulary")


def test_a_damaged_attachment_is_named(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"words")
    bundle = _write(tmp_path, attachments={"a.txt": tmp_path / "given"})
    bundle.attachment("a.txt").write_bytes(b"worse")
    with pytest.raises(BundleError, match=r"is torn: a\.txt does not have the SHA-256"):
        load_bundle(bundle.path)
    bundle.attachment("a.txt").unlink()
    with pytest.raises(BundleError, match=r"is torn: a\.txt cannot be read"):
        load_bundle(bundle.path)
    assert _write(tmp_path, attachments={"a.txt": tmp_path / "given"}).attachment("a.txt").read_bytes() == b"words"


@pytest.mark.parametrize("name", ["../weights", "a/b", "", ".hidden", "a\nb"])
def test_an_attachments_name_is_one_of_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"words")
    with pytest.raises(BundleError, match=r"can be attached under a name of letters.*; got "):
        _write(tmp_path, attachments={name: tmp_path / "given"})
    bundle = _write(tmp_path, attachments={"a.txt": tmp_path / "given"})
    content = json.loads((bundle.path / "bundle.json").read_text())
    content["attachments"] = {name: content["attachments"]["a.txt"]}
    del content["checksum"]
    write_json(bundle.path / "bundle.json", content)
    with pytest.raises(BundleError, match=r"can lie in a bundle under a name"):
        load_bundle(bundle.path)


def test_an_attachment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"attachment 'a' must be a file that can be read; '.*none' is not: No such"):
        _write(tmp_path, attachments={"a": tmp_path / "none"})
    assert list(tmp_path.iterdir()) == []


def test_weights_are_mapped_not_read(tmp_path: Path) -> None:
    bundle = _write(tmp_path, tensors={"items.weight": torch.zeros(2_000_000, 3)})
    tensor = bundle.tensor("items.weight")
    with Path("/proc/self/smaps").open() as file:
        lines = iter(file)
        header = next(line for line in lines if str(bundle.path) in line)
        fields = dict(line.split(":") for line in (next(lines) for _ in range(20)))
    assert header
    assert int(fields["Rss"].split()[0]) < tensor.numel() * 4 // 1024 // 2


def test_a_model_is_built_without_what_its_weights_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _write(tmp_path)
    devices = []
    monkeypatch.setattr(
        Table,
        "__init__",
        lambda self, config, schema: devices.append(str(torch.zeros(1).device)) or _init(self, config, schema),
    )
    assert bundle.model().items.weight.device.type == "cpu"
    assert devices == ["meta"]


def test_a_model_with_a_buffer_outside_its_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _write(tmp_path)

    def init(self: Table, config: Any, schema: Schema) -> None:
        _init(self, config, schema)
        self.register_buffer("scale", torch.ones(2), persistent=False)

    monkeypatch.setattr(Table, "__init__", init)
    with pytest.raises(BundleError, match="model 'table' must keep all its tensors in its state; scale is none of it"):
        bundle.model()


def test_a_name_hashes_what_decides_the_result(tmp_path: Path) -> None:
    """Neither the folder it was made in nor what it was made from; the first one stays."""
    first = _write(tmp_path / "one")
    assert _write(tmp_path / "two", provenance={"run_dir": "elsewhere"}).name == first.name
    again = _write(tmp_path / "one", provenance={"run_dir": "elsewhere"})
    assert again.provenance == first.provenance
    others = [{"settings": {"training": {"seed": 2}}}, {"metrics": {"recall_at_20": 0.13}}, {"config": {"width": 4}}]
    names = {_write(tmp_path / "one", **other).name for other in others}
    assert len(names | {first.name}) == 4


def test_a_torn_one_is_written_anew(tmp_path: Path) -> None:
    bundle = _write(tmp_path)
    (bundle.path / "weights.safetensors").write_bytes(b"torn")
    assert _write(tmp_path).path == bundle.path
    assert load_bundle(bundle.path).tensor("items.weight")[2].tolist() == [6.0, 7.0, 8.0]
    assert [path.name for path in tmp_path.iterdir()] == [bundle.name]


def test_what_killed_writers_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One was killed between the two names: neither the torn bundle nor the new one has it."""

    def killed(scratch: Path, target: Path, aside: Path) -> None:
        target.rename(aside)
        raise SystemExit

    bundle, kept = _write(tmp_path), _write(tmp_path, config={"width": 4})
    (bundle.path / "weights.safetensors").write_bytes(b"torn")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        patched.setattr(publish, "replace_folder", killed)
        with pytest.raises(SystemExit):
            _write(tmp_path)
    assert len(list(tmp_path.glob(".partial-*"))) == 2
    clear_remnants(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    clear_remnants(tmp_path / "none")


def test_a_bundle_is_not_read_again_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail(f"{path} was read"))
    assert _write(tmp_path).name.startswith("table-")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a bundle is a folder with bundle.json; .*nowhere"):
        load_bundle(tmp_path / "nowhere")


def test_a_torn_one_is_refused(tmp_path: Path) -> None:
    bundle = _write(tmp_path)
    weights = bundle.path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(
        BundleError, match=f"torn: weights.safetensors has {len(whole) - 1} bytes instead of {len(whole)}"
    ):
        load_bundle(bundle.path)
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BundleError, match=r"torn: weights.safetensors does not have the SHA-256"):
        load_bundle(bundle.path)
    weights.unlink()
    with pytest.raises(BundleError, match=r"is torn: weights.safetensors cannot be read: No such file"):
        load_bundle(bundle.path)
    for text in ("{", "[]", "null", "{}", '{"format": 2}', '{"format": "2"}'):
        (bundle.path / "bundle.json").write_text(text)
        with pytest.raises(BundleError, match=r"is torn: '.*bundle.json' must be JSON as Millrace writes it; .*again"):
            load_bundle(bundle.path)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_one_that_cannot_be_read_just_now_is_not_called_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file handle that a network file system has lost; nothing is written in its place."""
    bundle = _write(tmp_path)
    opened, written = Path.open, (bundle.path / "bundle.json").stat()

    def stale(path: Path, *how: Any, **more: Any) -> Any:
        if path == bundle.path / name:
            raise OSError(116, "Stale file handle", str(path))
        return opened(path, *how, **more)

    reads = [lambda: load_bundle(bundle.path), lambda: _write(tmp_path)]
    reads += [lambda: provenance_of(bundle.path)] if name == "bundle.json" else []
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", stale)
        for what in reads:
            with pytest.raises(
                UnreadableError, match=rf"bundle '{bundle.path}' must be readable; .*Stale .*remove the"
            ):
                what()
    assert load_bundle(bundle.path).name == bundle.name
    assert (bundle.path / "bundle.json").stat() == written


def test_a_torn_ones_provenance_is_taken_where_it_is_whole(tmp_path: Path) -> None:
    bundle = _write(tmp_path)
    (bundle.path / "weights.safetensors").unlink()
    assert provenance_of(bundle.path) == {"table": "examples", "version": 4}
    _edit(bundle.path, seal=False, provenance={"version": 5})
    assert provenance_of(bundle.path) is None
    assert provenance_of(tmp_path / "none") is None


def _edit(path: Path, seal: bool = True, **changes: Any) -> None:
    """Change bundle.json, with its checksum, or without."""
    file = path / "bundle.json"
    content = {**json.loads(file.read_text()), **changes}
    if seal:
        write_json(file, {key: value for key, value in content.items() if key != "checksum"})
    else:
        file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provenance": {"version": 5}, "seal": False}, "it was changed after it was written"),
        ({"config": {"width": 4}, "seal": False}, "it was changed after it was written"),
        ({"checksum": None, "seal": False}, "must have the checksum that it carries"),
        ({"config": {"width": 4}}, "must have the name 'table-.*', which is a hash of what it holds"),
        ({"metrics": {"recall_at_20": 0.9}}, "must have the name 'table-.*', which is a hash of what it holds"),
        ({"weights": None}, "weights: Input should be an object"),
        ({"weights": {"bytes": 1}}, "weights.sha256: Field required"),
        ({"schema": {}}, "schema: Input should be a valid array"),
        ({"schema": [{"name": "item", "kind": "colour"}]}, "must have the name|must carry a schema; .*colour"),
        ({"format": 7}, "must have format 2, or 1; it has 7"),
    ],
)
def test_a_changed_one_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bundle = _write(tmp_path)
    _edit(bundle.path, **changes)
    with pytest.raises(BundleError, match=words):
        load_bundle(bundle.path)


def test_a_renamed_one_is_refused_until_it_has_its_name_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _write(tmp_path)
    (tmp_path / "best").symlink_to(bundle.name)
    assert load_bundle(tmp_path / "best").name == bundle.name
    monkeypatch.chdir(bundle.path)
    assert load_bundle(".").name == bundle.name
    renamed = bundle.path.rename(tmp_path / "table-000000000000")
    with pytest.raises(BundleError, match=f"must have the name '{bundle.name}', .* renamed or changed: give it that"):
        load_bundle(renamed)


def _resealed(bundle: Bundle, **changes: Any) -> Path:
    """A bundle of which all hashes fit what was changed."""
    _edit(bundle.path, **changes)
    content = json.loads((bundle.path / "bundle.json").read_text())
    return bundle.path.rename(bundle.path.with_name(described.name_of(content)))


def test_a_foreign_one_is_refused(tmp_path: Path) -> None:
    schema = Schema((Column("item", Kind.ID, vocabulary="items", size=7),)).to_json()
    with pytest.raises(BundleError, match=f"instead of {SCHEMA.fingerprint}; it was changed"):
        load_bundle(_resealed(_write(tmp_path), schema=schema))
    with pytest.raises(BundleError, match=r"must carry a schema; .*colour"):
        load_bundle(_resealed(_write(tmp_path), schema=[{"name": "item", "kind": "colour"}]))


def test_an_unknown_model_or_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="it holds 'tree', known are table"):
        _write(tmp_path, model_name="tree").model()
    with pytest.raises(BundleError, match=r"it lacks items\.weight"):
        _write(tmp_path, tensors={"extra": torch.ones(1)}).model()
    with pytest.raises(BundleError, match=r"it has no 'nope', but extra, items\.weight"):
        _write(tmp_path).tensor("nope")
