"""The train job: same seed, same loss; a killed run goes on; what is finished is not run twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pyspark.sql import SparkSession

from cluster.errors import LaunchError
from jobs import learning, train, tune, watching
from jobs.checks import pipeline as doctor_checks
from jobs.learn_spec import LAUNCHER_KEYS, check_start, learn_spec, provenance, spec_identity
from jobs.ranks import start
from jobs.settings import Settings
from jobs.tasks import recommend
from jobs.trained import latest_bundle
from training import configs
from training.configs import TwoTowerConfig
from training.errors import BundleError, SettingsError, TableError
from training.fit import FitResult, FitSettings
from training.models import RetrievalModel
from training.schema import Column, Kind, Schema
from training.state.bundle import load_bundle
from training.state.items import open_items
from training.state.names import ITEMS
from training.state.publish import write_bundle
from training.watch.record import Event, read_record
from training.world import World
from tuning.objective import Channel, Pruning
from tuning.space import Space

from .small_shop import small_shop

FIT: dict[str, Any] = {"ranks": 2, "epochs": 2, "batch_size": 64, "checkpoint_every_steps": 2, "seed": 3}


def shop(spark: SparkSession, folder: Path, **fit: Any) -> Settings:
    """The small shop, with a run folder that has no bundle yet."""
    settings = small_shop(spark, folder, training={**FIT, **fit})
    return settings.model_copy(update={"run_dir": str(folder / "fresh")})


@pytest.fixture(scope="module")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any]]:
    """One training of two ranks, with a timeline: what others are held against."""
    settings = shop(spark, tmp_path_factory.mktemp("trained"), timeline=True)
    return settings, train.run(settings)


@pytest.mark.parametrize(
    ("launcher", "ranks", "opens"), [("barrier", 2, True), ("barrier", 1, False), ("local", 2, False)]
)
def test_ranks_in_sparks_tasks_get_a_session(
    monkeypatch: pytest.MonkeyPatch, launcher: str, ranks: int, opens: bool
) -> None:
    """Nobody has opened one where the job is a command of its own; and it need not be the active one."""
    done: list[str | None] = []
    monkeypatch.setattr("jobs.sessions.open_session", lambda *_: done.append("opened") or "the session")
    monkeypatch.setattr("jobs.ranks.launch", lambda *_, **given: done.append(given["spark"]) or {})
    monkeypatch.setattr(tune, "launch", lambda *_, **given: done.append(given["spark"]) or {})
    spec = {"training": {}, "model": Settings().model}
    monkeypatch.setattr("jobs.tune.learn_spec", lambda *_, **__: spec)
    monkeypatch.setattr(
        "jobs.tune.study_plan",
        lambda *_: SimpleNamespace(name="study", storage="journal:x", trials=1, space=SimpleNamespace(parameters=[])),
    )
    trial = SimpleNamespace(overrides={}, number=0, channel=SimpleNamespace(to_json=dict, study="study"))
    monkeypatch.setattr("jobs.tune.run_study", lambda _plan, start, *_: start(trial))
    monkeypatch.setattr("jobs.tune.summarise", lambda _: {})
    monkeypatch.setattr("jobs.tune._finish", lambda *_: {})
    settings = Settings(training={"launcher": launcher, "ranks": ranks})
    for job in (lambda: start(settings, {}, None), lambda: tune.run(settings)):
        job()
        assert done == (["opened", "the session"] if opens else [None])
        done.clear()


def test_horovod_spark_is_refused_on_spark_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.sessions.open_session", lambda *_: None)
    monkeypatch.setattr("cluster.spark_ranks.is_remote", lambda: True)
    settings = Settings(training={"launcher": "spark", "ranks": 2})
    with pytest.raises(LaunchError, match=r"spark needs a classic session, .* set training.launcher=barrier"):
        start(settings, {}, None)
    (found,) = doctor_checks.slots(settings, SimpleNamespace())  # type: ignore[arg-type]
    assert (found.level, found.remedy) == ("fail", "training.launcher=barrier")


def test_two_ranks_train_a_bundle_that_names_where_it_comes_from(trained: tuple[Settings, dict[str, Any]]) -> None:
    settings, summary = trained
    timeline = json.loads(Path(settings.run_dir, "timeline.json").read_text())
    assert any(str(event.get("name", "")).endswith("ALLGATHER") for event in timeline)
    bundle = load_bundle(latest_bundle(settings.run_dir))
    assert bundle.name == summary["bundle"]
    pinned = bundle.provenance["tables"]["examples"]
    assert pinned["uri"] == f"{settings.tables.root}/examples"
    assert pinned["splits"] == ["train", "validation"]
    assert bundle.provenance["settings"]["training"]["seed"] == 3
    items = open_items(bundle.attachment(ITEMS))
    assert items.numbers_of(["item 3", "new item"]).tolist()[1] == 0
    assert items.named(items.numbers_of(["item 3"])) == [("item 3", "the item 3")]
    epochs = [line for line in read_record(settings.run_dir) if line["kind"] == "epoch"]
    assert [line["values"]["loss"] for line in epochs] == [entry["loss"] for entry in summary["history"]]
    assert set(summary["history"][-1]) == {"epoch", "step", "loss"}  # nothing after the cut is looked at
    assert [line["values"]["loader_rows"] for line in epochs] == [summary["rows"]] * 2
    assert all(line["values"]["loader_bytes_per_s"] > 0 for line in epochs)
    assert [path.name for path in Path(settings.run_dir, "checkpoints").iterdir()] == [bundle.provenance["identity"]]


def test_the_same_seed_gives_the_same_loss_and_weights(
    spark: SparkSession, trained: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    first = trained[1]
    second = train.run(shop(spark, tmp_path / "again"))
    assert second["final_loss"] == first["final_loss"]
    weights, again = (load_bundle(summary["bundle_path"]) for summary in (first, second))
    assert again.tensor_names() == weights.tensor_names()
    assert all(torch.equal(again.tensor(name), weights.tensor(name)) for name in weights.tensor_names())


def test_sharded_tables_give_the_bundle_of_whole_ones(
    spark: SparkSession, trained: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    """Every table of the model in shards: the loss and the bundle's tensors of whole tables."""
    of_shards = train.run(shop(spark, tmp_path, shard_tables_above_mb=0))
    whole, sharded = (load_bundle(summary["bundle_path"]) for summary in (trained[1], of_shards))
    for found, expected in zip(of_shards["history"], trained[1]["history"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert sharded.tensor_names() == whole.tensor_names()
    for name in whole.tensor_names():
        torch.testing.assert_close(sharded.tensor(name), whole.tensor(name), atol=1e-4, rtol=1e-4, msg=name)
    assert isinstance(sharded.model(), RetrievalModel)


def test_what_is_finished_is_not_run_twice(spark: SparkSession, tmp_path: Path, monkeypatch: Any) -> None:
    settings = shop(spark, tmp_path, ranks=1)
    summary = train.run(settings)
    monkeypatch.setattr(train, "start", lambda *_: pytest.fail("it trained again"))
    assert train.run(settings) == summary | {"up_to_date": True}


@pytest.mark.parametrize("damage", ["torn", "gone", "no checkpoint"])
def test_a_damaged_bundle_is_made_again(
    trained: tuple[Settings, dict[str, Any]], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """Its record speaks of the training that made it, whoever makes it again; or says that this run trained nothing."""
    settings, summary = trained
    steps, ranks = summary["steps"], 1
    if damage == "no checkpoint":
        ranks = 2  # as many as then, for the same bits
        shutil.rmtree(Path(settings.run_dir) / "checkpoints")
    today = {"ranks": ranks, "restarts": 5, "timeline": False}
    weights = Path(summary["bundle_path"]) / "weights.safetensors"
    before, made = weights.read_bytes(), load_bundle(weights.parent).provenance
    if damage == "gone":
        shutil.rmtree(weights.parent)
    else:
        weights.write_bytes(before[:-1])
    again = train.run(settings.model_copy(update={"training": settings.training.model_copy(update=today)}))
    now = load_bundle(weights.parent).provenance
    if damage == "torn":
        assert now == made
    else:
        after = steps if damage == "gone" else 0
        assert now["trained"] == {"after_step": after, "to_step": steps}
        assert now["settings"]["training"]["restarts"] == 5
    assert "makes the bundle again" in "".join(capsys.readouterr())
    assert again["bundle"] == summary["bundle"]
    assert "up_to_date" not in again
    assert weights.read_bytes() == before
    assert train.run(settings)["up_to_date"]


def test_a_record_is_kept_only_for_the_steps_that_it_speaks_of() -> None:
    first = {"steps": 4, "provenance": {"ranks": 2}}
    spec = {"provenance": {"ranks": 1}, "first_made": first}

    def told(steps: int, resumed_at: int, **changes: Any) -> dict[str, Any]:
        return learning._provenance(spec | changes, {"threads": 3}, FitResult(steps, 1, 0.5, resumed_at=resumed_at))

    assert told(4, 4) == {"ranks": 2}
    for steps, resumed_at, more in ((8, 4, {}), (8, 8, {}), (4, 4, {"first_made": None}), (4, 0, {})):
        trained = {"after_step": resumed_at, "to_step": steps}
        assert told(steps, resumed_at, **more) == {"ranks": 1, "threads": 3, "trained": trained}


@pytest.mark.slow
def test_more_epochs_go_on_at_any_number_of_ranks_and_fewer_start_afresh(spark: SparkSession, tmp_path: Path) -> None:
    settings = shop(spark, tmp_path, ranks=1, epochs=1)
    checkpoints = Path(settings.run_dir, "checkpoints")

    def again(**changes: Any) -> dict[str, Any]:
        update = {"training": settings.training.model_copy(update=changes)}
        return train.run(settings.model_copy(update=update))

    one = again()
    two = again(epochs=2, ranks=2)
    assert two["history"][0] == one["history"][0], "the first epoch was trained again"
    assert two["steps"] == 2 * one["steps"]
    resumed = [line["step"] for line in read_record(settings.run_dir) if line["kind"] == "resume"]
    assert resumed == [one["steps"]]
    assert len(list(checkpoints.iterdir())) == 1
    assert again(epochs=1)["history"] == one["history"], "it must be the training of one epoch, not of two"
    assert again(seed=4)["history"] != one["history"]
    assert len(list(checkpoints.iterdir())) == 1, "what a replaced bundle went on from is of no more use"


def test_the_identity_is_what_decides_the_result() -> None:
    spec: dict[str, Any] = {
        "task": "recommend",
        "tables": {"examples": {"version": 1}},
        "schema": [],
        "model": {"name": "two_tower"},
        "training": FitSettings().model_dump(),
        "reader": {"workers": 2, "shuffle_rows": 100},
        "build": {"cuts": {"test": "2024-05-01T00:00:00+00:00"}},
        "ranks": 2,
    }

    def identity(**changes: Any) -> str:
        return spec_identity({**spec, **changes})

    def fit_with(**changes: Any) -> dict[str, Any]:
        return {"training": FitSettings(**changes).model_dump()}

    free = [fit_with(epochs=9), fit_with(keep_checkpoints=5), fit_with(early_stopping_patience=1)]
    free += [{"ranks": 4}, {"reader": {"workers": 9, "shuffle_rows": 100}}]
    assert {identity(**changes) for changes in free} == {identity()}
    decisive = [fit_with(seed=1), fit_with(batch_size=64), {"reader": {"workers": 2, "shuffle_rows": 99}}]
    # Another table at the same place begins at version 0 again.
    decisive += [{"tables": {"examples": {"version": 1, "id": "another"}}}]
    decisive += [{"tables": {"examples": {"version": 2}}}, {"model": {"name": "two_tower", "dim": 8}}]
    decisive += [{"build": {"cuts": {"test": "2024-05-02T00:00:00+00:00"}}}]  # what is old is told from there on
    assert len({identity(), *(identity(**changes) for changes in decisive)}) == 8


def test_a_later_field_changes_no_identity_no_study_and_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained or searched before a model or the settings had it is gone on with, and its bundle's name stays.

    The name is that of the version that knew no field but the first ones.
    """

    class LaterConfig(TwoTowerConfig):
        heads: int = 1

    class LaterSettings(FitSettings):
        momentum: float = 0.9

    schema = Schema((Column("user", Kind.ID, vocabulary="users", size=3),))

    def name(spec: dict[str, Any], **changes: Any) -> str:
        config = {key: value for key, value in spec["model"].items() if key != "name"}
        return write_bundle(
            tmp_path,
            **{"model_name": "two_tower", "config": config, "schema": schema, "tensors": {"w": torch.ones(2)}},
            **{"provenance": {}, "settings": spec["training"] | changes, "metrics": {"loss": 1.0}},
        ).name

    def plain() -> dict[str, Any]:
        return {
            "task": "recommend",
            "tables": {},
            "schema": [],
            "model": {"name": "two_tower", **configs.CONFIGS["two_tower"]().model_dump()},
            "training": tune.FitSettings().model_dump(),
            "reader": {"shuffle_rows": 100},
            "build": {"cuts": {"test": ""}},
            "ranks": 2,
        }

    def told() -> tuple[str, dict[str, Any], str]:
        spec = plain()
        return spec_identity(spec), tune._fixed(spec, Space(())), name(spec)

    before = told()
    assert before[2] == "two_tower-65ee18040ca1"
    assert {"model.dim", "training.seed", "training.epochs"} <= before[1].keys()
    used = {**plain(), "start_from": {"name": "two_tower-1"}, "reader": {"shuffle_rows": 100, "shuffle_mb": 2.0}}
    added = {"training.start_from": "two_tower-1", "training.shuffle_mb": 2.0}
    assert tune._fixed(used, Space(())) == before[1] | added
    monkeypatch.setitem(configs.CONFIGS, "two_tower", LaterConfig)
    for module in ("jobs.learn_spec", "jobs.tune", "training.state.publish"):
        monkeypatch.setattr(f"{module}.FitSettings", LaterSettings)
    assert told() == before
    spec = {"model": {"name": "two_tower"}, "training": LaterSettings().model_dump()}
    assert len({name(spec), name(spec, momentum=0.5), name(spec, matmul_precision="high")}) == 3


def test_a_killed_run_goes_on_and_ends_with_the_same_loss(spark: SparkSession, tmp_path: Path) -> None:
    unbroken = train.run(shop(spark, tmp_path / "unbroken", epochs=6))
    settings = shop(spark, tmp_path / "broken", epochs=6)
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "jobs.train", "--settings", str(file)]
    job = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    checkpoints = Path(settings.run_dir, "checkpoints")
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/step-*")) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait(30) == -signal.SIGKILL, "it ended before it could be killed"
    resumed = train.run(settings)
    assert resumed["final_loss"] == unbroken["final_loss"]
    assert [entry["loss"] for entry in resumed["history"]] == [entry["loss"] for entry in unbroken["history"]]
    assert any(line["kind"] == "resume" for line in read_record(settings.run_dir))


def test_examples_that_no_build_published_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tables" / "builds" / "_delta_log").mkdir(parents=True)
    for root in ("tables", "nowhere"):
        settings = Settings(**{"tables": {"root": str(tmp_path / root)}, "run_dir": str(tmp_path / "run")})
        with pytest.raises(TableError, match=rf"no build is published at .*{root}/builds; run `.*`$") as refused:
            train.run(settings)
        assert not re.search("kernel|Os|Write it first", str(refused.value))
    assert not (tmp_path / "run").exists()


def test_the_epoch_is_not_chosen_on_the_test_queries(tmp_path: Path) -> None:
    settings = Settings(**{"run_dir": str(tmp_path), "training": {"metric": "recall_at_20", "metric_mode": "max"}})
    with pytest.raises(SettingsError, match=r"must be 'loss' in the train job, got 'recall_at_20'"):
        train.run(settings)


def test_a_timeline_of_one_rank_is_refused(tmp_path: Path) -> None:
    settings = Settings(**{"run_dir": str(tmp_path), "training": {"timeline": True, "ranks": 1}})
    with pytest.raises(SettingsError, match=r"training.timeline .* needs training.ranks=2 or more; got 1"):
        train.run(settings)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:hidden@tracking.example",
        "postgresql://tracking.example/mlflow?user=me&password=hidden",
        "https://tracking.example/?ACCESS_TOKEN=hidden",
    ],
)
def test_a_password_in_the_tracking_uri_is_refused(uri: str, tmp_path: Path) -> None:
    settings = Settings(**{"run_dir": str(tmp_path), "training": {"mlflow": True, "mlflow_uri": uri}})
    with pytest.raises(SettingsError, match=r"got one for 'tracking\.example'") as caught:
        train.run(settings)
    assert "hidden" not in str(caught.value)


def test_a_tracking_uri_that_is_none_is_refused(tmp_path: Path) -> None:
    settings = Settings(**{"run_dir": str(tmp_path), "training": {"mlflow_uri": "http://me:hidden@[tracking"}})
    with pytest.raises(SettingsError, match=r"must be a URI, got 'http://me:\*\*\*@\[tracking': Invalid IPv6 URL"):
        train.run(settings)


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_any_rank_starts(
    trained: tuple[Settings, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = trained
    monkeypatch.setattr("jobs.ranks.launch", lambda *_, **__: pytest.fail("started"))
    odd = settings.model_copy(update={"training": settings.training.model_copy(update={"batch_size": 63})})
    for job in (train, tune):
        with pytest.raises(SettingsError, match=r"batch_size must be a multiple of ranks x accumulate = 2 x 1; got 63"):
            job.run(odd)


def test_the_places_of_spark_study_and_mlflow_are_not_in_the_bundle() -> None:
    settings = Settings(
        **{
            "spark": {"master": "sc://spark.example:443/;token=s3cret"},
            "tuning": {"storage": "postgresql://me:s3cret@database.example/studies", "trials": 3},
            "training": {"mlflow_uri": "https://s3cret.example", "seed": 9},
        }
    )
    decisive: dict[str, Any] = {key: {} for key in ("task", "tables", "schema", "training")}
    decisive |= {"build": {"cuts": {"test": ""}}, "model": settings.model, "reader": {"shuffle_rows": 1}}
    carried = provenance(settings, decisive)
    assert "s3cret" not in json.dumps(carried)
    again = Settings.model_validate(carried["settings"])
    assert (again.tuning.trials, again.tuning.storage) == (3, "")
    assert (again.training.seed, again.training.mlflow_uri) == (9, "")


def test_who_watches_is_no_part_of_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Settings(**{"run_dir": str(tmp_path), "training": {"tensorboard": True, "mlflow": True}})
    assert train.observation(watched, "1f") == {
        "tensorboard": str(tmp_path / "tensorboard" / "1f"),
        "mlflow": {"uri": "", "experiment": "recommend-two_tower", "name": "1f"},
    }
    assert train.observation(Settings(), "1f") == {"tensorboard": None, "mlflow": None}
    named = {name for name in Settings().training.model_dump() if name not in LAUNCHER_KEYS}
    assert named == set(FitSettings.model_fields)
    made: list[Any] = []
    monkeypatch.setattr("training.watch.observers.TensorBoard", lambda folder: made.append(folder))
    monkeypatch.setattr("training.watch.observers.Mlflow", lambda **told: made.append(told))
    spec = {
        "observe": train.observation(watched, "1f"),
        "training": {"epochs": 3},
        "model": {"name": "two_tower"},
        "reader": {"workers": 2},
        "tables": {"examples": {"uri": "s3://key:secret@bucket/t", "version": 7}},
        **{"task": "recommend", "ranks": 2, "device": "cpu", "checkpoint_dir": "c"},
    }
    second = World()
    second.rank = 1
    watching.observers_of(spec, second)
    assert made == []
    watching.observers_of(spec, World())
    assert made[0] == str(tmp_path / "tensorboard" / "1f")
    assert made[1]["params"]["training.epochs"] == 3
    assert made[1]["params"]["examples_version"] == 7
    assert "secret" not in str(made[1])


def test_a_run_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle in .*run.*millrace train"):
        latest_bundle(str(tmp_path / "run"))


def test_a_training_begins_with_another_bundles_weights(trained: tuple[Settings, dict[str, Any]]) -> None:
    """It is another training than one that begins with none, and its bundle says with whose it began."""
    settings, summary = trained
    started = with_training(settings, ranks=1, epochs=1, timeline=False, start_from=summary["bundle_path"])
    spec = learn_spec(started, splits=("train",), validate=False)
    assert spec["start_from"] == {"name": summary["bundle"], "path": summary["bundle_path"]}
    other = learn_spec(with_training(started, start_from=None), splits=("train",), validate=False)
    assert spec_identity(spec) != spec_identity(other)
    assert provenance(started, spec)["start_from"] == summary["bundle"]
    warm = recommend.learn(spec, World())
    assert warm["final_loss"] < summary["history"][0]["loss"], "of a first epoch from drawn weights"
    with pytest.raises(SettingsError, match=r"must be a bundle of model.name 'row_mlp'; '.*' is of 'two_tower'"):
        learn_spec(started.model_copy(update={"model": {"name": "row_mlp"}}), splits=("train",), validate=False)
    with pytest.raises(BundleError, match=r"a bundle is a folder with bundle.json; '/nowhere' has none"):
        learn_spec(with_training(started, start_from="/nowhere"), splits=("train",), validate=False)


MARCH, APRIL, MAY = (f"2025-0{month}-01T00:00:00+00:00" for month in (3, 4, 5))


@pytest.mark.parametrize(
    ("made", "cut", "words"),
    [
        (
            {"build": {"cuts": {"test": MAY}}},
            "test",
            r"behind the test cut, 2025-04-01.*; 'two_.*' was .* before 2025-05",
        ),
        (
            {"build": {"cuts": {"test": APRIL}}},
            "validation",
            "behind the validation cut, 2025-03-01.*has seen the answ",
        ),
        ({"build": {"numbers": {"items": {"ids": 7, "hash": "b"}}}}, "test", "same items by its numbers; those of 'tw"),
        ({"vocabularies": {"users": "v9"}}, "test", "same users by its numbers; those of 'two_.*made elsewhere, or an"),
        (
            {"build": {"inputs": {"options": {"weights_digest": "f0"}}}},
            "test",
            "digest is e1; .* made by f0: .* from none",
        ),
        ({"build": {"inputs": {"options": {"weights_digest": "e1"}}}}, "test", None),
        ({"build": {"cuts": {"test": APRIL}}, "vocabularies": {"users": "v1", "other": "v0"}}, "test", None),
        ({"build": {"cuts": {"test": MARCH}}}, "validation", None),
        (
            {
                "build": {"cuts": {"test": APRIL, "validation": MARCH}},
                "tables": {"examples": {"splits": ["train"]}},
            },
            "validation",
            None,
        ),
        ({"build": {"numbers": {"items": {"ids": 7, "hash": "a"}}}, "vocabularies": {"items": "v9"}}, "test", None),
        ({"build": {"numbers": {"items": {"ids": 5, "hash": "c"}}}, "vocabularies": {"items": "v2"}}, "test", None),
        ({}, "validation", None),
    ],
)
def test_a_bundle_to_start_from_has_seen_no_answer_and_means_the_same_ids(
    tmp_path: Path, made: dict[str, Any], cut: str, words: str | None
) -> None:
    """A cut at which it ended is none that it has seen behind; a vocabulary may have grown, in its own table."""
    bundle = write_bundle(
        tmp_path,
        **{"model_name": "two_tower", "config": {}, "schema": Schema((Column("user", Kind.ID, "users", 3),))},
        **{"tensors": {"w": torch.ones(2)}, "provenance": made, "settings": {}, "metrics": {}},
    )
    build = {"cuts": {"test": APRIL, "validation": MARCH}, "numbers": {"items": {"ids": 7, "hash": "a"}}}
    build |= {"inputs": {"options": {"weights_digest": "e1"}}}
    vocabularies = {"users": "v1", "items": "v2"}
    spec = {"start_from": {"name": bundle.name, "path": str(bundle.path)}, "build": build, "vocabularies": vocabularies}
    if words is None:
        check_start(spec, cut)
        return
    with pytest.raises(SettingsError, match=words):
        check_start(spec, cut)


def test_files_are_attached_and_other_files_make_another_bundle(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same weights: no step is done again."""
    limits = tmp_path / "limits.json"
    settings = shop(spark, tmp_path, ranks=1, epochs=1, shuffle_mb=0.01, attachments={"limits.json": str(limits)})
    with pytest.raises(SettingsError, match=r"training.attachments must be files; .*: limits.json '.*/limits.json'"):
        train.run(settings)
    limits.write_text("[1]")
    with pytest.raises(SettingsError, match=r"leave the names to Millrace that it attaches itself; got items.arrow"):
        train.run(with_training(settings, attachments={ITEMS: str(limits)}))
    first = train.run(settings)
    assert load_bundle(first["bundle_path"]).attachment("limits.json").read_text() == "[1]"
    assert train.run(settings)["up_to_date"]
    limits.write_text("[2]")
    second = train.run(settings)
    assert load_bundle(second["bundle_path"]).attachment("limits.json").read_text() == "[2]"
    spec = learn_spec(settings, splits=("train",), validate=False) | {"bundle_dir": str(tmp_path / "bundles")}
    limits.unlink()  # as it may not be there on the host of rank 0
    monkeypatch.setattr(learning, "_fitted", lambda *_: pytest.fail("it trained first"))
    with pytest.raises(
        BundleError, match=r"attachment 'limits.json' must be a file that can be read; .*: No such file"
    ):
        recommend.learn(spec, World())
    assert (second["bundle"] != first["bundle"], second["final_loss"]) == (True, first["final_loss"])


def with_training(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update={"training": settings.training.model_copy(update=values)})


@pytest.mark.parametrize(
    "report", [{"kind": "lines"}, Channel("sqlite://", "s", 0, "auc", Pruning("none", 1, 0)).to_json()]
)
def test_what_a_training_warns_of_is_shown_as_a_warning(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("jobs.console.warn", shown.append)
    tell = watching.reporter({"report": report}, ())
    tell(Event("warning", 0, 0, "training.precision is bf16"))
    tell(Event("checkpoint", 1, 0, "checkpoint at step 1"))
    assert shown == ["training.precision is bf16"]
