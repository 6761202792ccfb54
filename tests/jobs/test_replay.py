"""Replay: the same bits from the same record, and a plain answer where that cannot be."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable, write_deltalake

from jobs import builds, replay, train
from jobs.artefacts import REPLAY, read_json
from jobs.settings import Settings, load_settings
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs import pieces
from training.data.snapshot import open_snapshot
from training.errors import BundleError, CheckpointError, SnapshotError, TableError, TrainingError, UnreadableError
from training.schema import Schema
from training.state.bundle import load_bundle
from training.state.lock import only_writer
from training.state.publish import write_bundle
from training.world import World

DRIFT: dict[str, float] = {"loss": 0.0, "weights": 0.0}


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Stands for a task's: loss and weights are a function of the seed and the pinned rows; goes on as `fit` does."""
    schema, place = Schema.from_json(spec["schema"]), spec["tables"]["examples"]
    Path(spec["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
    (Path(spec["checkpoint_dir"]) / "record.jsonl").touch()
    checkpoint = Path(spec["checkpoint_dir"]) / "step-000000001"
    if not checkpoint.exists():
        checkpoint.write_text(json.dumps(DRIFT))
    drift = json.loads(checkpoint.read_text())
    snapshot = open_snapshot(place["uri"], place["version"], columns=schema.names, partitions=place["partitions"])
    drawn = torch.randn(4, generator=torch.Generator().manual_seed(spec["training"]["seed"] + snapshot.rows))
    bundle = write_bundle(
        spec["bundle_dir"],
        model_name="two_tower",
        config={key: value for key, value in spec["model"].items() if key != "name"},
        schema=schema,
        tensors={"w": drawn + drift["weights"]},
        provenance=spec["provenance"] | {"examples_fingerprint": snapshot.fingerprint},
        settings=spec["training"],
        metrics={"loss": float(drawn.sum()) + drift["loss"]},
    )
    summary = {"steps": 1, "epochs": 1, "rows": snapshot.rows, "history": [], "loader": {"rows": snapshot.rows}}
    return {**summary, "final_loss": float(drawn.sum()), "bundle": bundle.name, "bundle_path": str(bundle.path)}


def in_this_process(
    settings: Settings, spec: dict[str, Any], spark: None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Stands for the launch."""
    return learn(spec, World())


def write_tables(root: Path) -> pa.Table:
    """Examples, queries and catalogue with as little in them as a snapshot needs; returns the examples."""
    schema = TASKS["recommend"].schema({"users": 5, "items": 7})
    rows = {name: pa.array([1, 2]) for name in schema.names} | {"piece": pa.array([pieces.FIRST, "2024-01-01"])}
    versions = {"examples": 0, "catalogue": 0, "queries": 0}
    build = {key: {} for key in builds.FIELDS} | {"versions": versions, "schema": schema.to_json()}
    build |= {"cuts": {"test": "2024-02-01T00:00:00+00:00"}}
    build |= {"pieces": {"train": [pieces.FIRST], "validation": ["2024-01-01"]}}
    write_deltalake(root / "builds", pa.table({"manifest": [json.dumps(build)]}))
    write_deltalake(root / "examples", pa.table(rows), partition_by=["piece"])
    for name in ("catalogue", "queries"):
        write_deltalake(root / name, pa.table({"item": [1], "split": ["test"]}), partition_by=["split"])
    return pa.table(rows)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run folder with a bundle of version 0 of the examples, whose newest version is 1."""
    monkeypatch.setitem(
        TASKS, "recommend", dataclasses.replace(TASKS["recommend"], learn="tests.jobs.test_replay:learn")
    )
    monkeypatch.setattr(train, "start", in_this_process)
    monkeypatch.setattr(replay, "start", in_this_process)
    rows = write_tables(tmp_path / "tables")
    flags = [f"tables.root={tmp_path}/tables", f"run_dir={tmp_path}/run", "training.ranks=1", "training.seed=7"]
    settings = load_settings(None, flags)
    train.run(settings)
    write_deltalake(tmp_path / "tables" / "examples", rows, mode="append")
    return settings


def test_a_training_removes_what_killed_ones_left_beside_the_bundles(trained: Settings) -> None:
    bundle = latest_bundle(trained.run_dir)
    left = bundle.with_name(".partial-0123456789ab-replaced")
    bundle.rename(left)
    assert train.run(trained)["bundle"] == bundle.name
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_examples_that_were_made_anew_are_not_the_builds_own(trained: Settings) -> None:
    """As by a build that was killed, after the table was removed: its version 0 has another build's rows."""
    root = trained.tables.root
    build = builds.published_at(root) | {"ids": {"examples": "the first one's"}}
    write_deltalake(f"{root}/builds", pa.table({"manifest": [json.dumps(build)]}), mode="overwrite")
    with pytest.raises(TableError, match=r"'examples' at .* must be the one .* \(the first one's\), and is another \("):
        train.run(trained)


def test_a_bundle_that_cannot_be_read_just_now_is_not_made_again(
    trained: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("training.state.files.sha256", lost)
    monkeypatch.setattr(train, "start", lambda *_, **__: pytest.fail("it trained again"))
    with pytest.raises(UnreadableError, match=r"must be readable; .*: Input/output error\. See that the disk"):
        train.run(trained)


def examples_of(settings: Settings) -> DeltaTable:
    return DeltaTable(f"{settings.tables.root}/examples")


def test_a_replay_of_the_pinned_version_gives_the_same_bits(trained: Settings) -> None:
    before = latest_bundle(trained.run_dir)
    other_seed = load_settings(None, [f"run_dir={trained.run_dir}", "training.seed=8", "tables.root=elsewhere"])
    result = replay.run(other_seed)  # the bundle's settings count, not today's
    assert result["bundle"] == before.name
    assert result["loss"]["then"] == result["loss"]["now"]
    assert result["weights"]["then"] == result["weights"]["now"]
    assert result["versions"] == {}
    assert read_json(trained.run_dir, REPLAY) == result
    assert latest_bundle(trained.run_dir) == before
    assert not (Path(trained.run_dir) / "replay").exists()


def test_a_replay_has_the_threads_of_the_bundle(trained: Settings) -> None:
    bundle = load_bundle(latest_bundle(trained.run_dir))
    recorded = dataclasses.replace(bundle, provenance={**bundle.provenance, "threads": 3})
    assert replay.threads_of(recorded) == {"OMP_NUM_THREADS": "3"}
    assert replay.threads_of(bundle) == {}  # of an older version


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_another_result_is_an_error_with_both(trained: Settings, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setitem(DRIFT, what, 0.5)
    message = (
        r"'two_tower-[0-9a-f]{12}' had loss .*, now .*; weights [0-9a-f]{16}, now .* no package of the record changed"
    )
    with pytest.raises(TrainingError, match=message):
        replay.run(trained)


def test_a_changed_package_is_the_first_suspect(trained: Settings) -> None:
    bundle = load_bundle(latest_bundle(trained.run_dir))
    held = dict(bundle.provenance["versions"])
    other = dataclasses.replace(bundle, metrics={"loss": 1e9})
    with pytest.raises(TrainingError, match=r"Look first at torch was .*, is 9\.9"):
        replay.compare(bundle, other, held | {"torch": "9.9"})


def test_a_vacuumed_version_is_named(trained: Settings) -> None:
    table = examples_of(trained)
    table.delete()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    message = (
        r"was trained on version 0 of table 'examples', .*/examples, which cannot be read any more: .*before VACUUM"
    )
    with pytest.raises(SnapshotError, match=message):
        replay.run(trained)


def test_another_table_at_the_same_place_is_noticed(trained: Settings) -> None:
    bundle = load_bundle(latest_bundle(trained.run_dir))
    provenance = {**bundle.provenance, "examples_fingerprint": "0123456789abcdef"}
    with pytest.raises(
        TableError, match=r"fingerprint 0123456789abcdef; version 0 of .*: another table lies there now"
    ):
        replay.check_tables(dataclasses.replace(bundle, provenance=provenance))


def test_settings_of_another_version_of_millrace(trained: Settings) -> None:
    bundle = load_bundle(latest_bundle(trained.run_dir))
    held = {**bundle.provenance["settings"], "shape": "round"}
    strange = dataclasses.replace(bundle, provenance={**bundle.provenance, "settings": held})
    with pytest.raises(BundleError, match=r"(?s)carries settings that this version .*round.* wrote it: "):
        replay.settings_of(strange, trained)


def test_what_was_attached_need_not_be_there_any_more(trained: Settings) -> None:
    bundle = load_bundle(latest_bundle(trained.run_dir))
    held = {**bundle.provenance["settings"]}
    held["training"] = {**held["training"], "attachments": {"limits.json": "/gone/limits.json"}}
    then = dataclasses.replace(bundle, provenance={**bundle.provenance, "settings": held})
    spec = replay._spec(then, replay.settings_of(then, trained), Path("out"))
    assert (spec["attachments"], spec["attaches"]) == ({}, [])


def test_a_replay_goes_on_from_nothing(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One differed and left its checkpoint; the cause was removed."""
    with monkeypatch.context() as patched:
        patched.setitem(DRIFT, "weights", 0.5)
        with pytest.raises(TrainingError, match="must give the same bits"):
            replay.run(trained)
    assert list((Path(trained.run_dir) / "replay").rglob("step-*"))
    assert replay.run(trained)["versions"] == {}
    assert not (Path(trained.run_dir) / "replay").exists()


def test_of_two_replays_at_once_the_second_is_refused(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.state.lock.WAIT_S", 0.2)
    run_dir = Path(trained.run_dir)
    of_the_first = run_dir / "replay" / "of_the_first"
    with only_writer(run_dir, print, name=replay.LOCK):
        of_the_first.mkdir(parents=True)
        message = r"one replay at a time may write into run folder '.*run'; its lock is held by .*"
        with pytest.raises(CheckpointError, match=message):
            replay.run(trained)
        assert of_the_first.exists()
    assert replay.run(trained)["versions"] == {}


def test_a_replay_that_waits_for_another_takes_its_turn(trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first removes when it has ended holds no lock."""
    begun = threading.Event()

    def slow(
        settings: Settings, spec: dict[str, Any], spark: None, env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        begun.set()
        time.sleep(0.5)
        return in_this_process(settings, spec, spark, env)

    monkeypatch.setattr(replay, "start", slow)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(replay.run, trained)
        assert begun.wait(30)
        other = pool.submit(replay.run, trained)
        assert one.result(60) == other.result(60)


def test_there_is_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="run `millrace train` first"):
        replay.run(load_settings(None, [f"run_dir={tmp_path}"]))
