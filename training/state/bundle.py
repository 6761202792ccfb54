"""Bundles: what a training publishes (training/state/publish.py). JSON beside safetensors, never pickle.

    bundles/two_tower-3f9c0a1b22d4/   the name carries a hash of what it is: all but where and from what it was made,
                                      and no setting at its default that came later (training/identity.py)
        bundle.json                   format, model and config, schema, provenance, settings, metrics, checksums
        weights.safetensors
        attachments/NAME              files that go with it, where there are any: a tokenizer, thresholds

An old bundle scores with the schema that it carries.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from training import models
from training.errors import ArtefactError, BundleError, SchemaError, UnreadableError
from training.models.base import Model
from training.schema import Schema
from training.state.files import Written, damage
from training.state.json_files import CHECKSUM, Format, parse_json

FORMAT = 2  # 1 had no checksum in bundle.json, and a name that hashed the provenance too
_NAMED = ("model", "config", "schema", "settings", "metrics", "weights", "attachments")  # what the name is a hash of
BUNDLE_FILE, WEIGHTS_FILE, ATTACHMENTS = "bundle.json", "weights.safetensors", "attachments"
_ATTACHED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a file's name on any disk, and no way out of the folder


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

    def tensor_names(self) -> list[str]:
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            return sorted(file.keys())

    def tensor(self, name: str) -> Tensor:
        """A tensor, memory-mapped: processes on a host share its pages, and it is read when it is used.

        Raises:
            BundleError: the bundle has no tensor of that name.
        """
        if name not in self.tensor_names():
            raise BundleError(
                f"bundle '{self.path}' must have the tensor that is asked for; it has no '{name}', but "
                f"{', '.join(self.tensor_names())}; use one of these"
            )
        with safe_open(self.path / WEIGHTS_FILE, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

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

    def model(self) -> Model:
        """The model with its weights memory-mapped, in eval mode, on the CPU.

        Raises:
            BundleError: this version of Millrace does not know the model, the weights do not fit it, or it has buffers
                that are not among them.
        """
        if self.model_name not in models.MODELS:
            raise BundleError(
                f"bundle '{self.path}' must hold a known model; it holds '{self.model_name}', known are "
                f"{', '.join(sorted(models.MODELS))}; load it with the version of Millrace that wrote it"
            )
        kind: type[Model] = models.MODELS[self.model_name]
        with torch.device("meta"):  # nothing is allocated or drawn that the weights replace
            model = kind(kind.Config.parse(self.config), self.schema)
        wanted, held = set(model.state_dict()), set(self.tensor_names())
        if not wanted <= held:
            raise BundleError(
                f"bundle '{self.path}' must hold all weights of '{self.model_name}'; it lacks "
                f"{', '.join(sorted(wanted - held))}; load it with the version of Millrace that wrote it"
            )
        model.load_state_dict({name: self.tensor(name) for name in wanted}, assign=True)
        model.eval().requires_grad_(False)
        bare = [name for name, tensor in model.named_buffers() if tensor.is_meta]
        if bare:
            raise BundleError(
                f"model '{self.model_name}' must keep all its tensors in its state; {', '.join(bare)} is none of it; "
                "register it as a persistent buffer"
            )
        return model


def check_attached_name(name: str, what: str) -> None:
    """
    Raises:
        BundleError: a file cannot have that name in a bundle; `what` it was to do there.
    """
    if not _ATTACHED.fullmatch(name):
        raise BundleError(
            f"a file can {what} under a name of letters, digits, '.', '_' and '-' alone; got {name!r}; name it so"
        )


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
        content = _read(folder)
        checked = {WEIGHTS_FILE: content.weights}
        checked |= {f"{ATTACHMENTS}/{name}": written for name, written in content.attachments.items()}
        found = next(filter(None, (damage(folder / name, written) for name, written in checked.items())), None)
    except OSError as error:
        raise _unreadable(folder, error) from error
    if found:
        raise BundleError(f"bundle '{folder}' is torn: {found}; copy or train it again")
    return bundle


@dataclass(frozen=True)
class _Content:
    """bundle.json."""

    format: int
    model: str
    config: dict[str, Any]
    schema: list[dict[str, Any]]
    schema_fingerprint: str
    provenance: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Any]
    weights: Written
    attachments: dict[str, Written] = field(default_factory=dict)
    checksum: str | None = None


def open_described(folder: Path) -> Bundle:
    """A bundle as its bundle.json describes it; the weights are not looked at."""
    content = _read(folder)
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
    )


def _read(folder: Path) -> _Content:
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(
            f"a bundle is a folder with {BUNDLE_FILE}; '{folder}' has none; name one that train wrote"
        ) from error
    except OSError as error:
        raise _unreadable(folder, error) from error
    try:
        held = parse_json(data, Format, f"'{path}'").format
        if held not in (1, FORMAT):
            raise BundleError(
                f"bundle '{folder}' must have format {FORMAT}, or 1; it has {held!r}; "
                "load it with the version of Millrace that wrote it"
            )
        content = parse_json(data, _Content, f"'{path}'")
        name = name_of(parse_json(data, dict[str, Any], f"'{path}'"))
    except ArtefactError as error:
        raise BundleError(f"bundle '{folder}' is torn: {error}; copy or train it again") from error
    if content.format == FORMAT and content.checksum is None:
        raise BundleError(f"bundle '{folder}' must have a {CHECKSUM} in its {BUNDLE_FILE}; it has none; copy it again")
    for attachment in content.attachments:
        check_attached_name(attachment, "lie in a bundle")
    if folder.resolve().name != name:
        raise BundleError(
            f"bundle '{folder}' must have the name '{name}', which is a hash of what it holds; it was renamed or "
            "changed: give it that name back, or copy it again from where it was written"
        )
    return content


def _unreadable(folder: Path, error: OSError) -> UnreadableError:
    return UnreadableError(
        f"the files of bundle '{folder}' must be readable; they are there and are not: {error.strerror or error}. See "
        "that the disk or file system answers and that this process may read there; where what it held is lost, remove "
        "the folder and train again"
    )


def name_of(content: Mapping[str, Any]) -> str:
    """What a bundle is called: by what decides its results, or, in format 1, by all that bundle.json says."""
    named = content if content["format"] == 1 else {key: content[key] for key in _NAMED if key in content}
    return f"{content['model']}-{hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]}"
