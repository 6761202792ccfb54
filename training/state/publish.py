"""Publishing a bundle: written under another name, then renamed, so that a folder of its name is always whole."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from training.configs import carried_config
from training.errors import BundleError, UnreadableError
from training.schema import Schema
from training.settings import FitSettings
from training.state.bundle import Bundle, load_bundle, open_described
from training.state.described import (
    BUNDLE_FILE,
    FORMAT,
    WEIGHTS_FILE,
    check_attached_name,
    name_of,
)
from training.state.files import Streamed, Written, replace_folder, sha256, write_tensors
from training.state.json_files import sync_to_disk, write_json
from training.state.names import ATTACHMENTS
from training.tables.quantised import Form

_PARTIAL = ".partial-"  # being written, or replaced


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
    attachments: Mapping[str, Path | str] | None = None,
    stored: Mapping[str, Form] | None = None,
) -> Bundle:
    """Write a bundle into `directory`. Where it holds one of that name that is whole, that one stays and is returned.

    Args:
        directory: made where it does not exist.
        model_name: key of `training.models.MODELS`.
        config: the model's hyper-parameters.
        schema: of the examples.
        tensors: the model's `state_dict()`, or what `training.state.export.export` gives for one with sharded tables;
            further tensors may be added.
        provenance: where it comes from.
        settings: of the training.
        metrics: what was measured.
        attachments: files to go with it, by the name that they get there; they are copied.
        stored: of a compressed bundle, how the tensors are stored that `tensors` has in parts.

    Raises:
        BundleError: an attachment's name is none of a file, or it cannot be read.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / f"{_PARTIAL}{uuid.uuid4().hex[:12]}"
    scratch.mkdir()
    try:
        written = write_tensors(scratch / WEIGHTS_FILE, tensors)
        attached = _attach(scratch / ATTACHMENTS, attachments or {})
        content = json.loads(
            json.dumps(
                {
                    "format": FORMAT,
                    "model": model_name,
                    "config": carried_config(model_name, config),
                    "schema": schema.to_json(),
                    "schema_fingerprint": schema.fingerprint,
                    "provenance": dict(provenance),
                    "settings": FitSettings.carried(settings),
                    "metrics": dict(metrics),
                    "weights": asdict(written),
                    **({"attachments": {name: asdict(one) for name, one in attached.items()}} if attached else {}),
                    **({"stored": {name: asdict(one) for name, one in stored.items()}} if stored else {}),
                }
            )
        )
        target = root / name_of(content)
        write_json(scratch / BUNDLE_FILE, content)
        if target.exists() and (held := _whole(target)):
            return held
        aside = root / f"{scratch.name}-replaced"
        replace_folder(scratch, target, aside)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return open_described(target)


def _attach(folder: Path, files: Mapping[str, Path | str]) -> dict[str, Written]:
    """Copy files into a folder that is made for them, if there are any."""
    attached: dict[str, Written] = {}
    for name, source in sorted(files.items()):
        check_attached_name(name, "be attached")
        folder.mkdir(exist_ok=True)
        try:
            shutil.copyfile(source, folder / name)
        except OSError as error:
            raise _unreadable(name, source, error) from error
        sync_to_disk(folder / name)
        attached[name] = Written((folder / name).stat().st_size, sha256(folder / name))
    if attached:
        sync_to_disk(folder)
    return attached


def check_attachments(files: Mapping[str, Path | str]) -> None:
    """See that files can be attached, before anything is done that would be lost.

    Raises:
        BundleError: an attachment's name is none of a file, or it cannot be read.
    """
    for name, source in sorted(files.items()):
        check_attached_name(name, "be attached")
        try:
            Path(source).open("rb").close()
        except OSError as error:
            raise _unreadable(name, source, error) from error


def _unreadable(name: str, source: Path | str, error: OSError) -> BundleError:
    return BundleError(
        f"attachment '{name}' must be a file that can be read; '{source}' is not: {error.strerror or error}; "
        "name another, or leave it out"
    )


def _whole(folder: Path) -> Bundle | None:
    try:
        return load_bundle(folder)
    except UnreadableError:
        raise
    except BundleError:  # torn: it is written anew
        return None


def clear_remnants(directory: Path | str) -> None:
    """Remove what writers left that were killed; for whoever knows that no other writes there now."""
    for rest in list(Path(directory).glob(f"{_PARTIAL}*")):
        shutil.rmtree(rest, ignore_errors=True)
