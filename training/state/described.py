"""bundle.json: what a bundle says of itself, checked as it is read; and the name that it has by that."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import ArtefactError, BundleError, UnreadableError
from training.state.files import Written
from training.state.json_files import CHECKSUM, Format, parse_json
from training.tables.quantised import Form

FORMAT = 2  # 1 had no checksum in bundle.json, and a name that hashed the provenance too
_NAMED = (
    "model",
    "config",
    "schema",
    "settings",
    "metrics",
    "weights",
    "attachments",
    "stored",
)  # what the name is a hash of
BUNDLE_FILE, WEIGHTS_FILE = "bundle.json", "weights.safetensors"
_ATTACHED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a file's name on any disk, and no way out of the folder


@dataclass(frozen=True)
class Content:
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
    stored: dict[str, Form] = field(default_factory=dict)
    checksum: str | None = None


def check_attached_name(name: str, what: str) -> None:
    """
    Raises:
        BundleError: a file cannot have that name in a bundle; `what` it was to do there.
    """
    if not _ATTACHED.fullmatch(name):
        raise BundleError(
            f"a file can {what} under a name of letters, digits, '.', '_' and '-' alone; got {name!r}; name it so"
        )


def read_content(folder: Path) -> Content:
    """
    Raises:
        BundleError: the folder is no bundle, is torn, was changed or renamed, or is of another format.
        UnreadableError: the file is there and cannot be read.
    """
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(
            f"a bundle is a folder with {BUNDLE_FILE}; '{folder}' has none; name one that train wrote"
        ) from error
    except OSError as error:
        raise unreadable(folder, error) from error
    try:
        held = parse_json(data, Format, f"'{path}'").format
        if held not in (1, FORMAT):
            raise BundleError(
                f"bundle '{folder}' must have format {FORMAT}, or 1; it has {held!r}; "
                "load it with the version of Millrace that wrote it"
            )
        content = parse_json(data, Content, f"'{path}'")
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


def unreadable(folder: Path, error: OSError) -> UnreadableError:
    """What is raised where the files of a bundle are there and cannot be read."""
    return UnreadableError(
        f"the files of bundle '{folder}' must be readable; they are there and are not: {error.strerror or error}. See "
        "that the disk or file system answers and that this process may read there; where what it held is lost, remove "
        "the folder and train again"
    )


def name_of(content: Mapping[str, Any]) -> str:
    """What a bundle is called: by what decides its results, or, in format 1, by all that bundle.json says."""
    named = content if content["format"] == 1 else {key: content[key] for key in _NAMED if key in content}
    return f"{content['model']}-{hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]}"
