"""Who runs a trial: live drivers keep theirs, dead ones' are taken over once, by whatever clock."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from tuning import ownership
from tuning.objective import trial_id_of
from tuning.ownership import Watch, claimed, take_over
from tuning.storage import open_storage

LIVING, GONE = 1, 2**22 + 1  # process numbers; the second is above the kernel's limit


@pytest.fixture
def held(tmp_path: Path) -> tuple[BaseStorage, int]:
    """A storage with one trial under way, and its id there."""
    storage = open_storage(f"journal:{tmp_path}/study.log")
    optuna.create_study(study_name="s", storage=storage).ask()
    return storage, trial_id_of(storage, "s", 0)


def signed(held: tuple[BaseStorage, int], *, host: str | None = None, process: int = LIVING, sign: Any) -> FrozenTrial:
    storage, trial_id = held
    driver = {"host": host or socket.gethostname(), "process": process, "sign": "s"}
    storage.set_trial_user_attr(trial_id, "driver", driver)
    storage.set_trial_user_attr(trial_id, "driver_seen", sign)
    return storage.get_trial(trial_id)


def test_a_driver_that_is_gone_from_this_machine_is_dead_at_once(held: tuple[BaseStorage, int]) -> None:
    assert Watch().is_dead(signed(held, process=GONE, sign="a"))
    assert not Watch().is_dead(signed(held, process=LIVING, sign="a"))


def test_a_driver_that_signed_as_older_versions_did_is_known(held: tuple[BaseStorage, int]) -> None:
    storage, trial_id = held
    values = {"driver_host": socket.gethostname(), "driver_process": GONE, "driver": "s", "driver_seen": "s"}
    for name, value in values.items():
        storage.set_trial_user_attr(trial_id, name, value)
    assert Watch().is_dead(storage.get_trial(trial_id))
    storage.set_trial_user_attr(trial_id, "driver_process", LIVING)
    assert not Watch().is_dead(storage.get_trial(trial_id))


def test_who_reads_while_a_driver_signs_sees_the_one_before_or_this_one_whole(
    held: tuple[BaseStorage, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own host with the other's process would be a dead one."""
    storage, trial_id = held
    signed(held, host="elsewhere", process=GONE, sign="a")
    real, seen = storage.set_trial_user_attr, list[bool]()

    def write(*given: Any) -> None:
        real(*given)
        monkeypatch.setattr(ownership.os, "getpid", lambda: LIVING + 1)  # the reader is another process
        seen.append(Watch().is_dead(storage.get_trial(trial_id)))
        monkeypatch.undo()

    monkeypatch.setattr(storage, "set_trial_user_attr", write)
    with claimed(storage, trial_id):
        pass
    assert seen
    assert not any(seen)


def test_a_driver_elsewhere_is_judged_by_the_watchers_own_clock(
    held: tuple[BaseStorage, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "STALE_S", 0.05)
    watch = Watch()
    for sign in (time.time() - 10_000, time.time() + 10_000):  # its clock says nothing
        assert not watch.is_dead(signed(held, host="elsewhere", sign=sign))
        time.sleep(0.1)
    assert watch.is_dead(signed(held, host="elsewhere", sign=sign))


def test_a_driver_is_undecided_until_its_sign_changes(held: tuple[BaseStorage, int]) -> None:
    watch = Watch()
    for sign, undecided in (("a", True), ("a", True), ("b", False), ("b", False)):
        trial = signed(held, host="elsewhere", sign=sign)
        assert not watch.is_dead(trial)
        assert bool(watch.undecided([trial])) is undecided


def test_the_heart_beats_on_after_a_beat_that_failed(
    held: tuple[BaseStorage, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, trial_id = held
    monkeypatch.setattr(ownership, "BEAT_S", 0.01)
    real, beats = storage.set_trial_user_attr, []

    def fails_first(trial: int, key: str, value: Any) -> None:
        beats.append(value)
        if len(beats) == 1:
            raise ConnectionError("the database is away")
        real(trial, key, value)

    with claimed(storage, trial_id):
        first = storage.get_trial(trial_id).user_attrs.get("driver_seen")
        monkeypatch.setattr(storage, "set_trial_user_attr", fails_first)
        time.sleep(0.2)
    assert len(beats) > 1
    assert storage.get_trial(trial_id).user_attrs.get("driver_seen") != first


def test_of_drivers_that_find_a_trial_dead_together_one_takes_it_over(
    held: tuple[BaseStorage, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "SETTLE_S", 0.3)
    storages = [open_storage(f"journal:{tmp_path}/study.log") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda storage: take_over(storage, held[1]), storages))
    assert sum(taken) == 1


def test_a_driver_that_was_thought_dead_gives_no_sign_any_more(
    held: tuple[BaseStorage, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, trial_id = held
    monkeypatch.setattr(ownership, "BEAT_S", 0.01)
    monkeypatch.setattr(ownership, "SETTLE_S", 0.0)
    with claimed(storage, trial_id) as is_ours:
        assert is_ours()
        assert take_over(storage, trial_id)
        assert not is_ours()
        time.sleep(0.05)  # for a beat that was under way
        sign = storage.get_trial(trial_id).user_attrs.get("driver_seen")
        time.sleep(0.1)
        assert storage.get_trial(trial_id).user_attrs.get("driver_seen") == sign


def test_a_trial_that_has_ended_is_not_taken_over(
    held: tuple[BaseStorage, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "SETTLE_S", 0.0)
    held[0].set_trial_state_values(held[1], TrialState.COMPLETE, [1.0])
    assert not take_over(*held)
    assert held[0].get_trial(held[1]).state == TrialState.COMPLETE
