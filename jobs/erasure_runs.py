"""What persons leave in a run folder: checkpoints, decoded rows, pages that name them; and bundles that learnt them.

A bundle holds no id, but a row of numbers that was learnt from the person. It is not removed, for it may be in use: it
is listed, with the command that trains anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.artefacts import EVALUATION, FEEDBACK, REPLAY, SCORE
from spark_udfs.occurrences import Finder, in_file
from training.errors import ArtefactError
from training.json_files import read_json

REPORT, TENSORS = "report.html", ".safetensors"
LEARNT = ("checkpoints", "trials", "baselines")  # folders, in the run folder or in one below it
MADE_ANEW = (EVALUATION, REPORT, SCORE, FEEDBACK, REPLAY)


def bundles(run_dir: Path, root: str, first: int | None) -> list[dict[str, str]]:
    """The bundles that learnt from tables that held the persons.

    Args:
        run_dir: the run folder; those of a loop below it too.
        root: of the tables.
        first: the least index that one of the persons has in the vocabulary; None: none has.

    Returns:
        `bundle`, `path` and `anew`, the command, of each.
    """
    if first is None:
        return []
    held = [path.parent for path in sorted(run_dir.rglob("bundle.json")) if path.parent.parent.name == "bundles"]
    anew = f"millrace build-examples --settings FILE && millrace train --settings FILE tables.root={root}"
    return [
        {"bundle": path.name, "path": str(path), "anew": f"{anew} run_dir={path.parent.parent}"}
        for path in held
        if _knows(path, first)
    ]


def clear(run_dir: Path, cache_dir: str | None) -> dict[str, int]:
    """Remove checkpoints and whatever else was computed from rows; returns how many files of each."""
    found = [path for name in LEARNT for path in run_dir.rglob(name) if path.is_dir()]
    removed = {name: sum(len(_files(path)) for path in found if path.name == name) for name in LEARNT}
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    cached = [] if cache_dir is None else [*Path(cache_dir).glob("*.arrow"), *Path(cache_dir).glob("*.partial")]
    for path in cached:
        path.unlink(missing_ok=True)
    return removed | {"cached": len(cached)}


def remove_pages(run_dir: Path, finder: Finder) -> list[str]:
    """Remove the JSON files and the report that name persons; a report shows what the evaluation beside it says."""
    named = {path for path, _ in naming(run_dir, finder) if path.name in MADE_ANEW}
    named |= {path.with_name(REPORT) for path in named if path.name == EVALUATION and path.with_name(REPORT).exists()}
    for path in named:
        path.unlink(missing_ok=True)
    return sorted(str(path) for path in named)


def naming(run_dir: Path, finder: Finder) -> Iterator[tuple[Path, int]]:
    """The files of a run folder that name persons, and in how many places; tensors are numbers alone."""
    for path in _files(run_dir):
        if path.suffix == TENSORS:
            continue
        places = in_file(path.name, path.read_bytes(), finder)
        if places:
            yield path, places


def _knows(bundle: Path, first: int) -> bool:
    """Whether a bundle's users reach so far; one that cannot be read, or says nothing of users, may."""
    try:
        content = read_json(bundle / "bundle.json", dict[str, Any])
    except ArtefactError:
        return True
    sizes = [column.get("size") for column in content.get("schema", ()) if column.get("name") == "user"]
    return not sizes or sizes[0] is None or first < int(sizes[0])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
