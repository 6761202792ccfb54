"""The channel between the ranks and the study, and the storages it runs over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest

from training.errors import TuningError
from training.masking import masked
from training.watch.record import Event, Pruned
from training.world import World
from tuning.objective import Channel, Pruning, learn_trial, study_reporter
from tuning.storage import answering, is_local_file, open_storage


@pytest.fixture
def channel(tmp_path: Path) -> Channel:
    """Three finished trials, of 0.5 after one epoch and 0.7 after two, and one under way."""
    url = f"journal:{tmp_path}/study.log"
    study = optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    for _ in range(3):
        trial = study.ask()
        for epochs, value in ((1, 0.5), (2, 0.7), (3, 0.9)):
            trial.report(value, epochs)
        study.tell(trial, 0.9)
    study.ask()
    return Channel(url, "s", 3, "recall_at_20", Pruning("median", 3, warmup=0))


def test_a_channel_travels_as_json(channel: Channel) -> None:
    assert channel.to_json()["kind"] == "study"
    assert Channel.from_json(channel.to_json()) == channel


def test_a_trial_below_the_median_is_stopped(channel: Channel) -> None:
    report = study_reporter(channel.to_json())
    report(Event("epoch", 10, 0, "", {"recall_at_20": 0.5}))
    with pytest.raises(Pruned, match=r"trial 3 ends at recall_at_20 0\.1 after 2 epoch"):
        report(Event("epoch", 20, 1, "", {"recall_at_20": 0.1}))
    trial = optuna.load_study(study_name="s", storage=open_storage(channel.storage)).trials[3]
    assert trial.intermediate_values == {1: 0.5, 2: 0.1}
    assert trial.user_attrs == {"pruned_after_epochs": 2}


def test_the_last_epoch_is_never_pruned(channel: Channel) -> None:
    study_reporter(channel.to_json())(Event("epoch", 30, 2, "", {"recall_at_20": 0.0}))


def test_an_epoch_without_the_metric_is_an_error(channel: Channel) -> None:
    with pytest.raises(TuningError, match=r"tuning\.metric is 'recall_at_20', .* it gives: loss, ndcg_at_10"):
        study_reporter(channel.to_json())(Event("epoch", 1, 0, "", {"loss": 1.0, "ndcg_at_10": 0.1}))


def prune(spec: dict[str, Any], world: Any) -> dict[str, Any]:
    raise Pruned("enough")


def test_a_pruned_trial_is_a_result(channel: Channel) -> None:
    assert learn_trial({"learn": "tests.tuning.test_objective:prune", "spec": {}}, World()) == {"pruned": True}


@pytest.mark.parametrize("url", ["nonsense", "mysql+nodriver://u:secret@h/db", "sqlite:////proc/nowhere/study.db"])
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(url: str) -> None:
    with pytest.raises(TuningError, match=r"study storage '(nonsense|mysql|sqlite)") as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)


def test_drivers_that_make_a_new_study_together_all_open_it(tmp_path: Path) -> None:
    def opened(number: int) -> str:
        storage = open_storage(f"sqlite:///{tmp_path}/{number // 4}.db")
        return optuna.create_study(study_name="s", storage=storage, load_if_exists=True).study_name

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opened, range(24))) == {"s"}


def test_a_journals_torn_line_is_cut(tmp_path: Path) -> None:
    """What a full disk left of an entry; the next one was written onto it, and the study was lost."""
    url, path = f"journal:{tmp_path}/study.log", tmp_path / "study.log"
    optuna.create_study(study_name="s", storage=open_storage(url)).enqueue_trial({"x": 1})
    whole = path.read_bytes()
    for torn in (whole[-30:-10], b"x" * 200_000):
        path.write_bytes(whole + torn)
        assert len(optuna.load_study(study_name="s", storage=open_storage(url)).trials) == 1
        assert path.read_bytes() == whole
    path.write_bytes(whole + b"null\n")
    with pytest.raises(TuningError, match=r"cannot be opened \(a line of it is no entry of a journal"):
        open_storage(url)


def test_a_storage_that_stops_answering_is_one_error(tmp_path: Path) -> None:
    """Its disk is full, it became read-only, or something was written over it."""
    url, path = f"sqlite:///{tmp_path}/study.db", tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    path.write_bytes(b"no database" * 1_000)
    with (
        pytest.raises(TuningError, match=r"study.db' can no longer be read or written .* study goes on"),
        answering(url),
    ):
        study.ask()
    with pytest.raises(TuningError, match=r"study.db' cannot be opened \(.*file is not a database"):
        open_storage(url)


def test_passwords_are_masked() -> None:
    assert masked("postgresql://me:se:cr@et@host/db") == "postgresql://me:***@host/db"
    assert masked("sqlite:///a/b.db") == "sqlite:///a/b.db"
    for url in (
        "postgresql://h/db?user=me&password=S3CRET",
        "postgresql:/me:S3CRET@h",
        "me:S3CRET@h/d",
        "postgresql://S3CRET@h",
        "flag 'tuning.storag=postgresql://me:S3@CRET:S3CRET@h/db'",
        "abfss://c@a.dfs/x?se=1&sig=S3CRET",
    ):
        assert "S3CRET" not in masked(url)
    assert is_local_file("sqlite:///a")
    assert not is_local_file("journal:/a")
