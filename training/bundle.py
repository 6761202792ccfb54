"""Bundles: what a training publishes. JSON beside safetensors, never pickle; written under another name, then renamed.

    bundles/two_tower-3f9c0a1b22d4/   the name carries a hash of all that is in it
        bundle.json                   format, model and config, schema, provenance, settings, metrics, checksum
        weights.safetensors

An old bundle scores with the schema that it carries.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from training import models
from training.errors import BundleError, SchemaError
from training.files import Streamed, describe, sha256, write_tensors
from training.json_files import sync_to_disk, write_json
from training.models.base import Model
from training.schema import Schema

FORMAT = 1
_JSON, _WEIGHTS = "bundle.json", "weights.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A published model.

    Attributes:
        name: model name and content hash, as in `two_tower-3f9c0a1b22d4`; scored rows carry it.
        path: its folder.
        model_name: key of `training.models.MODELS`.
        config: the model's hyper-parameters.
        schema: of the examples it was trained on.
        provenance: table, version, file-list hash and whatever else names where it comes from.
        settings: all settings of the job that made it.
        metrics: what validation or evaluation measured.
    """

    name: str
    path: Path
    model_name: str
    config: dict[str, Any]
    schema: Schema
    provenance: dict[str, Any]
    settings: dict[str, Any]
    metrics: dict[str, Any]

    def tensor_names(self) -> list[str]:
        with safe_open(self.path / _WEIGHTS, framework="pt") as file:
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
        with safe_open(self.path / _WEIGHTS, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def model(self) -> Model:
        """The model with its weights memory-mapped, in eval mode, on the CPU.

        Raises:
            BundleError: this version of Millrace does not know the model, or the weights do not fit it.
        """
        if self.model_name not in models.MODELS:
            raise BundleError(
                f"bundle '{self.path}' must hold a known model; it holds '{self.model_name}', known are "
                f"{', '.join(sorted(models.MODELS))}; load it with the version of Millrace that wrote it"
            )
        kind: type[Model] = models.MODELS[self.model_name]
        model = kind(kind.Config.parse(self.config), self.schema)
        wanted, held = set(model.state_dict()), set(self.tensor_names())
        if not wanted <= held:
            raise BundleError(
                f"bundle '{self.path}' must hold all weights of '{self.model_name}'; it lacks "
                f"{', '.join(sorted(wanted - held))}; load it with the version of Millrace that wrote it"
            )
        model.load_state_dict({name: self.tensor(name) for name in wanted}, assign=True)
        model.eval().requires_grad_(False)
        return model


def write_bundle(
    directory: Path | str,
    *,
    model_name: str,
    config: Mapping[str, Any],
    schema: Schema,
    tensors: Mapping[str, Tensor | Streamed],
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Bundle:
    """Write a bundle into `directory`. Writing the same content again changes nothing and returns the same bundle.

    Args:
        directory: made where it does not exist.
        model_name: key of `training.models.MODELS`.
        config: the model's hyper-parameters.
        schema: of the examples.
        tensors: the model's `state_dict()`, or `training.export.whole_state` of one with sharded tables; further
            tensors may be added.
        provenance: where it comes from.
        settings: of the job.
        metrics: what was measured.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / f".partial-{uuid.uuid4().hex[:12]}"
    scratch.mkdir()
    try:
        path = scratch / _WEIGHTS
        write_tensors(path, tensors)
        content = {
            "format": FORMAT,
            "model": model_name,
            "config": dict(config),
            "schema": schema.to_json(),
            "schema_fingerprint": schema.fingerprint,
            "provenance": dict(provenance),
            "settings": dict(settings),
            "metrics": dict(metrics),
            "weights": describe(path),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        target = root / f"{model_name}-{digest}"
        write_json(scratch / _JSON, content)
        if not target.exists():
            scratch.rename(target)
            sync_to_disk(root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return load_bundle(target)


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle; reads its weights once to check them.

    Raises:
        BundleError: the folder is no bundle, is torn or was changed, or is of another format.
    """
    folder = Path(path)
    content = _read(folder)
    _check_weights(folder, content["weights"])
    try:
        schema = Schema.from_json(content["schema"])
    except SchemaError as error:
        raise BundleError(f"bundle '{folder}' must carry a schema; {error}; write the bundle again") from error
    if schema.fingerprint != content["schema_fingerprint"]:
        raise BundleError(
            f"bundle '{folder}' must carry the schema it was written with; its fingerprint is {schema.fingerprint} "
            f"instead of {content['schema_fingerprint']}; it was changed: copy it again from where it was written"
        )
    return Bundle(
        name=folder.name,
        path=folder,
        model_name=content["model"],
        config=content["config"],
        schema=schema,
        provenance=content["provenance"],
        settings=content["settings"],
        metrics=content["metrics"],
    )


def _read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / _JSON).read_text())
    except OSError as error:
        raise BundleError(
            f"a bundle is a folder with {_JSON}; '{folder}': {error}; name one that train wrote"
        ) from error
    except ValueError as error:
        raise BundleError(
            f"bundle '{folder}' is torn: {_JSON} is not JSON ({error}); copy or train it again"
        ) from error
    if content.get("format") != FORMAT:
        raise BundleError(
            f"bundle '{folder}' must have format {FORMAT}; it has {content.get('format')!r}; "
            "load it with the version of Millrace that wrote it"
        )
    return content


def _check_weights(folder: Path, expected: Mapping[str, Any]) -> None:
    path = folder / _WEIGHTS
    size = path.stat().st_size if path.exists() else 0
    if size != expected["bytes"] or sha256(path) != expected["sha256"]:
        raise BundleError(
            f"bundle '{folder}' is torn: {_WEIGHTS} ({size} bytes) must have {expected['bytes']} bytes and the SHA-256 "
            f"that {_JSON} gives; copy or train it again"
        )
