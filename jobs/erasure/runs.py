"""What persons leave in a run folder: checkpoints, decoded rows, pages that name them; and bundles that learnt them.

A bundle holds no id, but a row of numbers that was learnt from the person. It is not removed, for it may be in use: it
is listed, with the command that trains anew.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jobs import builds, replay, store_files, train
from jobs.artefacts import COMPRESSION, EVALUATION, FEEDBACK, ITEM_FILES, REPLAY, SCORE
from jobs.console import say
from jobs.tables import Tables
from spark_udfs.occurrences import Finder, in_file
from training.errors import ArtefactError, DataError
from training.state.json_files import read_json
from training.state.lock import NAME, only_writer

REPORT, TENSORS = "report.html", ".safetensors"
LEARNT = ("checkpoints", "trials", ITEM_FILES, "replay")  # folders of a run folder
LOOPS = ("loop/*", "loop/*/nothing_shown", "loop/*/lists_shown")  # run folders that `feedback_round` makes in one
LOOP, MAKES_LOOPS = re.compile("-loop-[0-9a-f]{12}$"), "feedback_round"
MADE_ANEW = (COMPRESSION, EVALUATION, REPORT, SCORE, FEEDBACK, REPLAY)


def bundles(
    run_dir: Path, root: str, first: int | None, before: int | None = None, *, kinds: Collection[str]
) -> list[dict[str, str]]:
    """The bundles that learnt from tables that held the persons.

    Args:
        run_dir: the run folder; those of a loop below it too.
        root: of the tables.
        first: the least index that one of the persons has in a vocabulary, 0 for lines of theirs; None: none has.
        before: the first version of `examples` without them; None: there is none yet.
        kinds: the vocabularies of persons.

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
        if _knows(path, first, before, kinds)
    ]


def loops(tables: Tables) -> list[str]:
    """The roots beside the tables' that `feedback_round` made: by their names, and by who published builds there."""
    beside = store_files.beside(tables.spark, tables.root, "-loop-")
    named = [root for root in beside if LOOP.search(root)]
    return [root for root in named if MAKES_LOOPS in builds.publishers(Tables(tables.spark, root))]


def clear(run_dir: Path, cache_dir: str | None) -> dict[str, int]:
    """Remove checkpoints and whatever else was computed from rows; returns how many files of each.

    The run folder's own lock (`train.lock`) is held by the caller. A folder that is a link stays, and is emptied.

    Raises:
        LockHeldError: a training, a trial or a replay is at work there; what it writes to stays.
        DataError: a file came back after it was removed, or a link deep in a folder leads elsewhere.
        OSError: a file cannot be removed.
    """
    removed = dict.fromkeys(LEARNT, 0)
    with ExitStack() as held:
        if (run_dir / "replay").exists():
            held.enter_context(only_writer(run_dir, say, name=replay.LOCK, what="run folder", who="replay"))
        for folder in _run_folders(run_dir):
            if folder != run_dir:
                held.enter_context(only_writer(folder, say, name=train.LOCK, what="run folder"))
            for name in LEARNT:
                removed[name] += _empty(folder / name)
    cached = [] if cache_dir is None else [*Path(cache_dir).glob("*.arrow"), *Path(cache_dir).glob("*.partial")]
    for path in cached:
        path.unlink(missing_ok=True)
    return removed | {"cached": len(cached)}


def remove_pages(run_dir: Path, finder: Finder, *, whole: bool) -> list[str]:
    """Remove the JSON files and the report of the run folder, and of a loop's in it, that name persons.

    Args:
        run_dir: the run folder.
        finder: looks for the persons.
        whole: remove them all: a page may show an id in a way in which it cannot be told from a number.
    """
    pages = [path for folder in _run_folders(run_dir) for name in MADE_ANEW if (path := folder / name).is_file()]
    named = {path for path in pages if whole or in_file(path.name, path.read_bytes(), finder)}
    named |= {path for path in pages if path.name == REPORT and path.with_name(EVALUATION) in named}
    for path in named:
        path.unlink()
    return sorted(str(path) for path in named)


def naming(run_dir: Path, finder: Finder) -> Iterator[tuple[Path, int]]:
    """The files of a run folder that name persons, and in how many places; tensors are numbers alone."""
    for path in _files(run_dir):
        if path.suffix == TENSORS:
            continue
        places = in_file(path.name, path.read_bytes(), finder)
        if places:
            yield path, places


def _knows(bundle: Path, first: int, before: int | None, kinds: Collection[str]) -> bool:
    """Whether a bundle's persons reach so far, and its examples are so old; one that says nothing of it may.

    So may one that began with the weights of another that does, or that is gone.
    """
    try:
        content = read_json(bundle / "bundle.json", dict[str, Any])
    except ArtefactError:
        return True
    made = content.get("provenance", {})
    start = made.get("settings", {}).get("training", {}).get("start_from")
    if start is not None and _knows(Path(start), first, before, kinds):
        return True
    version = made.get("tables", {}).get("examples", {}).get("version")
    if before is not None and version is not None and version >= before:
        return False
    sizes = [column.get("size") for column in content.get("schema", ()) if column.get("vocabulary") in kinds]
    return not sizes or any(size is None or first < int(size) for size in sizes)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _run_folders(run_dir: Path) -> list[Path]:
    return [run_dir, *(path for places in LOOPS for path in sorted(run_dir.glob(places)) if path.is_dir())]


def _empty(place: Path) -> int:
    """Remove all in a folder, each part while its writer's lock is held, and the folder unless it is a link."""
    if not place.is_dir():
        return 0
    files = 0
    for child in sorted(place.iterdir()):
        with ExitStack() as held:
            if child.is_dir():
                held.enter_context(only_writer(child, say))
            files += _remove(child)
    if any(place.iterdir()):
        raise DataError(f"'{place}' must be empty after an erasure; something writes there: stop it, and erase again")
    if not place.is_symlink():
        place.rmdir()
    return files


def _remove(path: Path) -> int:
    """Remove a file, or a folder with all in it; one that a link leads to, too. Returns how many files, but locks."""
    target = path.resolve()
    files = [target] if target.is_file() else _files(target)
    link = next((file for file in target.rglob("*") if file.is_symlink()), None)
    if link is not None:
        raise DataError(
            f"what lies below '{path}' must be no link; '{link}' leads to '{link.resolve()}': see what lies there, "
            "remove it if it was learnt from persons, remove the link, and erase again"
        )
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if path.is_symlink():
        path.unlink()
    return sum(file.name != NAME for file in files)
