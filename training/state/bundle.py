"""Bundles: what a training publishes (training/state/publish.py). JSON beside safetensors, never pickle.

    bundles/two_tower-3f9c0a1b22d4/   the name carries a hash of what it is: all but where and from what it was made,
                                      and no setting at its default that came later (training/identity.py)
        bundle.json                   format, model and config, schema, provenance, settings, metrics, checksums
        weights.safetensors           of a compressed bundle in fewer bytes (training/tables/quantised.py)
        attachments/NAME              files that go with it, where there are any: a tokenizer, thresholds

An old bundle scores with the schema that it carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from training import models
from training.errors import BundleError, SchemaError, UnreadableError
from training.models.base import Model
from training.schema import Schema
from training.state.described import WEIGHTS_FILE, read_content, unreadable
from training.state.files import damage
from training.state.names import ATTACHMENTS
from training.tables.quantised import Form, Packed, QuantisedTable, packed_of


@dataclass(frozen=True)
class Bundle:
    """A published model.

    Attributes:
        name: model name and content hash, as in `two_tower-3f9c0a1b22d4`; scored rows carry it.
        path: its folder.
        model_name: key of `training.models.MODELS`.
        config: the model's hyper-parameters; one that came later is there where it is not its default.
        schema: of the examples it was trained on.
        provenance: table, version, file-list hash and whatever else names where it comes from.
        settings: of the training; one that came later is there where it is not its default.
        metrics: what validation or evaluation measured.
        attachments: names of the files that go with it.
        stored: of a compressed bundle, its tensors that are stored otherwise than as they are.
    """

    name: str
    path: Path
    model_name: str
    config: dict[str, Any]
    schema: Schema
    provenance: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Any]
    attachments: tuple[str, ...] = ()
    stored: Mapping[str, Form] = field(default_factory=dict)

    def tensor_names(self) -> list[str]:
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            names: list[str] = file.keys()
        return sorted({*self.stored, *(name for name in names if name.partition(":")[0] not in self.stored)})

    def tensor(self, name: str) -> Tensor:
        """A tensor, memory-mapped: processes on a host share its pages, and it is read when it is used.

        One that is stored otherwise is made anew each time, in memory.

        Raises:
            BundleError: the bundle has no tensor of that name.
        """
        if name not in self.tensor_names():
            raise BundleError(
                f"bundle '{self.path}' must have the tensor that is asked for; it has no '{name}', but "
                f"{', '.join(self.tensor_names())}; use one of these"
            )
        if name in self.stored:
            return self.packed(name).whole()
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def packed(self, name: str) -> Packed:
        """One of `stored` as it is stored, memory-mapped."""
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            names: list[str] = file.keys()
            parts = {part: file.get_tensor(part) for part in names if part.partition(":")[0] == name}
        return packed_of(self.stored[name], name, parts)

    def attachment(self, name: str) -> Path:
        """Where a file lies that goes with the bundle; `load_bundle` has checked it.

        Raises:
            BundleError: the bundle has no attachment of that name.
        """
        if name not in self.attachments:
            raise BundleError(
                f"bundle '{self.path}' must have the attachment that is asked for; it has no '{name}', but "
                f"{', '.join(self.attachments) or 'none'}; train it with a version that attaches it"
            )
        return self.path / ATTACHMENTS / name

    def bare_model(self) -> Model:
        """The model without any weights, on torch's device `meta`.

        Raises:
            BundleError: this version of Millrace does not know it.
        """
        if self.model_name not in models.MODELS:
            raise BundleError(
                f"bundle '{self.path}' must hold a known model; it holds '{self.model_name}', known are "
                f"{', '.join(sorted(models.MODELS))}; load it with the version of Millrace that wrote it"
            )
        kind: type[Model] = models.MODELS[self.model_name]
        with torch.device("meta"):  # nothing is allocated or drawn that the weights replace
            return kind(kind.Config.parse(self.config), self.schema)

    def model(self) -> Model:
        """The model with its weights memory-mapped, in eval mode, on the CPU; tables that are stored otherwise stay so.

        Raises:
            BundleError: this version of Millrace does not know the model, the weights do not fit it, or it has buffers
                that are not among them.
        """
        model = self.bare_model()
        wanted, held = set(model.state_dict()), set(self.tensor_names())
        if not wanted <= held:
            raise BundleError(
                f"bundle '{self.path}' must hold all weights of '{self.model_name}'; it lacks "
                f"{', '.join(sorted(wanted - held))}; load it with the version of Millrace that wrote it"
            )
        for name in tables_of(model) & self.stored.keys():
            owner, _, own = name.removesuffix(".weight").rpartition(".")
            setattr(model.get_submodule(owner), own, QuantisedTable(self.packed(name)))
        model.load_state_dict({name: self.tensor(name) for name in model.state_dict()}, assign=True)
        model.eval().requires_grad_(False)
        bare = [name for name, tensor in model.named_buffers() if tensor.is_meta]
        if bare:
            raise BundleError(
                f"model '{self.model_name}' must keep all its tensors in its state; {', '.join(bare)} is none of it; "
                "register it as a persistent buffer"
            )
        return model


def tables_of(model: nn.Module) -> set[str]:
    """The names of the weights of a model's embedding tables."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}


def provenance_of(path: Path | str) -> dict[str, Any] | None:
    """Where a bundle came from, also where its weights are damaged; None where bundle.json is, or is not there.

    Raises:
        UnreadableError: bundle.json is there and cannot be read.
    """
    try:
        return open_described(Path(path)).provenance
    except UnreadableError:
        raise
    except BundleError:
        return None


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle; reads its weights and attachments once to check them.

    Raises:
        BundleError: the folder is no bundle, is torn, was changed or renamed, or is of another format.
        UnreadableError: its files are there and cannot be read.
    """
    folder = Path(path)
    bundle = open_described(folder)
    try:
        content = read_content(folder)
        checked = {WEIGHTS_FILE: content.weights}
        checked |= {f"{ATTACHMENTS}/{name}": written for name, written in content.attachments.items()}
        found = next(filter(None, (damage(folder / name, written) for name, written in checked.items())), None)
    except OSError as error:
        raise unreadable(folder, error) from error
    if found:
        raise BundleError(f"bundle '{folder}' is torn: {found}; copy or train it again")
    return bundle


def open_described(folder: Path) -> Bundle:
    """A bundle as its bundle.json describes it; the weights are not looked at."""
    content = read_content(folder)
    try:
        schema = Schema.from_json(content.schema)
    except SchemaError as error:
        raise BundleError(f"bundle '{folder}' must carry a schema; {error}; write the bundle again") from error
    if schema.fingerprint != content.schema_fingerprint:
        raise BundleError(
            f"bundle '{folder}' must carry the schema it was written with; its fingerprint is {schema.fingerprint} "
            f"instead of {content.schema_fingerprint}; it was changed: copy it again from where it was written"
        )
    return Bundle(
        name=folder.resolve().name,
        path=folder,
        model_name=content.model,
        config=content.config,
        schema=schema,
        provenance=content.provenance,
        settings=content.settings,
        metrics=content.metrics,
        attachments=tuple(sorted(content.attachments)),
        stored=content.stored,
    )
