"""What an erasure removes from a run folder, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from jobs import store_files
from jobs.artefacts import write_json
from jobs.erasure import past as erasure_past
from jobs.erasure import runs as erasure_runs
from jobs.erasure.past import Past
from spark_udfs.occurrences import Finder
from training.errors import DataError, LockHeldError, TableError
from training.state.items import write_items
from training.state.lock import only_writer
from training.state.names import ITEMS

OF_LOOP = "loop/d/lists_shown/checkpoints"


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_only_the_places_of_a_run_folder_are_cleared(tmp_path: Path) -> None:
    ours = (
        "checkpoints/a/step-1/t",
        "trials/s-0/t",
        "baselines/near",
        "replay/r/t",
        "loop/d/lists_shown/checkpoints/a/t",
    )
    others = ("src/checkpoints/code.py", "bundles/b/bundle.json", "other/trials/t", "loop/d/bundles/b/bundle.json")
    for name in (*ours, *others):
        write(tmp_path / name)
    cache = write(tmp_path / "cache" / "1.arrow").parent
    removed = erasure_runs.clear(tmp_path, str(cache))
    assert removed == {"checkpoints": 2, "trials": 1, "baselines": 1, "replay": 1, "cached": 1}
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)
    assert not any((tmp_path / name).exists() for name in ("checkpoints", "replay", OF_LOOP))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("trials/s-0", "writer.lock"),
        ("checkpoints/a", "writer.lock"),
        ("loop/d/nothing_shown", "train.lock"),
        ("replay/..", "replay.lock"),
    ],
)
def test_a_folder_at_work_is_left_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    monkeypatch.setattr("training.state.lock.WAIT_S", 0.0)
    file = write(tmp_path / place.removesuffix("..") / "step")
    with only_writer(tmp_path / place, print, name=name), pytest.raises(LockHeldError, match="its lock is held by"):
        erasure_runs.clear(tmp_path, None)
    assert file.exists()


def test_links_are_followed_where_a_user_may_make_them(tmp_path: Path) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    for place in ("all/a/step", "one/step"):
        write(scratch / place)
    (run / "trials").mkdir(parents=True)
    (run / "checkpoints").symlink_to(scratch / "all")
    (run / "trials" / "s-0").symlink_to(scratch / "one")
    assert erasure_runs.clear(run, None)["checkpoints"] == 1
    assert [str(path.relative_to(scratch)) for path in scratch.rglob("*")] == ["all"]
    assert (run / "checkpoints").is_symlink()
    assert not (run / "trials").exists()


def test_a_link_that_is_deep_is_refused(tmp_path: Path) -> None:
    kept = write(tmp_path / "elsewhere" / "t")
    link = write(tmp_path / "run" / "checkpoints" / "a" / "t").with_name("link")
    link.symlink_to(kept)
    with pytest.raises(DataError, match=r"must be no link; '.*a/link' leads to '.*elsewhere/t'"):
        erasure_runs.clear(tmp_path / "run", None)
    assert kept.exists()


def test_a_removal_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "checkpoints" / "a" / "t")
    with monkeypatch.context() as patched:
        patched.setattr(erasure_runs, "_remove", lambda _: 0)
        with pytest.raises(DataError, match="checkpoints' must be empty after an erasure"):
            erasure_runs.clear(tmp_path, None)

    def denied(*args: object, **more: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(os, "unlink", denied)
    with pytest.raises(PermissionError):
        erasure_runs.clear(tmp_path, None)


def test_what_a_store_does_not_remove_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SimpleNamespace(delete=lambda *_: False, exists=lambda _: True)
    monkeypatch.setattr(store_files, "_open", lambda *_: ("place", store))
    with pytest.raises(TableError, match="'s3://b/t' must be gone, and cannot be removed"):
        store_files.remove(cast("Any", None), "s3://b/t")


def test_bundles_of_later_examples_have_learnt_nothing_of_those_who_were_gone(tmp_path: Path) -> None:
    pinned = {name: {"tables": {"examples": {"version": version}}} for name, version in (("old", 3), ("new", 4))}
    start = {"settings": {"training": {"start_from": str(tmp_path / "bundles" / "old")}}}
    for name, provenance in (*pinned.items(), ("warm", pinned["new"] | start), ("unknown", {})):
        column = {"name": "user", "vocabulary": "users", "size": 3}
        content = {"schema": [column], "provenance": provenance}
        write(tmp_path / "bundles" / name / "bundle.json", json.dumps(content))

    def listed(first: int | None, before: int | None, *kinds: str) -> list[str]:
        return [bundle["bundle"] for bundle in erasure_runs.bundles(tmp_path, "tables", first, before, kinds=kinds)]

    assert listed(2, 4, "users") == ["old", "unknown", "warm"]
    assert listed(2, None, "users") == ["new", "old", "unknown", "warm"]
    assert listed(3, None, "users") == listed(None, 4, "users") == []
    assert listed(3, None) == listed(3, None, "others") == ["new", "old", "unknown", "warm"], "lines have no index"


def test_a_run_folder_has_missed_what_it_has_no_certificate_of(tmp_path: Path) -> None:
    early = Past("a", "2025-01-01", "2025-01-02", 3, 5, 24.0)
    late = Past("b", "2025-02-01", "2025-02-02", None, None, 0.0)
    assert erasure_past.keep_old_examples([early, late])
    assert not erasure_past.keep_old_examples([early, late._replace(examples=6)])
    assert not erasure_past.keep_old_examples([])
    assert erasure_past.missed(tmp_path, [early, late]) == [early, late]
    write_json(tmp_path, "erasure-1.json", {"ids": "a", "started": "2025-01-01"})
    write(tmp_path / "erasure-torn.json", "{")
    assert erasure_past.missed(tmp_path, [early, late]) == [late]
    write_json(tmp_path, "erasure-2.json", {"ids": "c", "started": "2025-02-03"})
    assert erasure_past.missed(tmp_path, [early, late]) == []


def test_pages_go_where_they_name_a_person_or_all_of_them(tmp_path: Path) -> None:
    finder = Finder({"17850"}, {"user_id"})
    for name in ("report.html", "score.json", "loop/d/replay.json", "other/score.json"):
        write(tmp_path / name, "<summary>Customer 17850 <small>")
    write(tmp_path / "evaluation.json", '{"user_id": "17850"}')
    assert erasure_runs.remove_pages(tmp_path, finder, whole=False) == [
        str(tmp_path / name) for name in ("evaluation.json", "report.html")
    ]
    write(tmp_path / "report.html")
    assert len(erasure_runs.remove_pages(tmp_path, finder, whole=True)) == 3
    assert (tmp_path / "other" / "score.json").exists()


def test_what_is_attached_to_a_bundle_is_searched(tmp_path: Path) -> None:
    attached = write(tmp_path / "bundles" / "b" / "attachments" / "known.txt", "ann1@x.org\n")
    write(tmp_path / "bundles" / "b" / "weights.safetensors", "ann1@x.org")  # numbers alone, whatever they look like
    items = attached.with_name(ITEMS)
    rows = {"item": [1, 2], "id": ["a", "b"], "name": ["kit", "ann1@x.org"], "is_offered": [True, True]}
    write_items(items, pa.table({**rows, "is_sold": [True, True], "recent_customers": [1, 2]}))
    found = list(erasure_runs.naming(tmp_path, Finder(["ann1@x.org"], ["user_id"])))
    assert found == [(items, 1), (attached, 1)]
