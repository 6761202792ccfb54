"""The study: best found, bad trials pruned, failures kept, killed and resumed as if unbroken."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.tuning import toy
from training.errors import TuningError
from training.state import lock
from training.state.lock import only_writer
from training.world import World
from tuning import ownership, study, turns
from tuning.objective import Pruning, learn_trial, trial_id_of
from tuning.ownership import Watch, take_over
from tuning.space import read_space
from tuning.storage import open_storage
from tuning.study import StudyPlan, TrialEnd, TrialJob, open_study, run_study
from tuning.summary import best_overrides, summarise
from tuning.turns import put_back_dead

ROOT = Path(__file__).resolve().parents[2]


def trial_spec(folder: Path, job: TrialJob) -> dict[str, Any]:
    spec = {"report": job.channel.to_json(), "checkpoint_dir": str(folder / str(job.number)), **job.overrides}
    return {"learn": "tests.tuning.toy:learn", "spec": json.loads(json.dumps(spec))}


def in_process(folder: Path) -> Callable[[TrialJob], Mapping[str, Any]]:
    return lambda job: learn_trial(trial_spec(folder, job), World())


def study_of(plan: StudyPlan) -> optuna.Study:
    return optuna.load_study(study_name=plan.name, storage=open_storage(plan.storage))


def test_an_epoch_whose_metric_nothing_decided_is_not_the_best() -> None:
    found = {"params": {}, "epochs": [float("nan"), 0.2, 0.5, 0.4], "value": 0.5, "number": 3}
    best = best_overrides({"best": found, "metric": "skill"})
    assert best is not None
    assert best["epochs"] == 3


def test_the_study_finds_what_was_planted(tmp_path: Path) -> None:
    plan = toy.plan(tmp_path, storage=f"journal:{tmp_path}/deep/study.log", trials=14)
    ends: list[TrialEnd] = []
    run_study(plan, in_process(tmp_path), ends.append)
    summary = summarise(plan)
    assert [end.number for end in ends] == list(range(14))
    assert summary["counts"] == {"complete": 14}
    assert summary["start"]["params"] == {"model.rate": 0.2, "model.width": 8}
    assert summary["start"]["number"] == 0
    assert summary["best"]["value"] > summary["start"]["value"] == pytest.approx(0.5)
    assert abs(summary["best"]["params"]["model.rate"] - 0.7) < 0.15
    assert summary["best"]["epochs"] == [
        pytest.approx(summary["best"]["value"] * (epoch + 1) / 3) for epoch in range(3)
    ]
    assert sum(summary["importances"].values()) == pytest.approx(1.0)
    assert [end.number for end in ends if end.best][-1] == summary["best"]["number"]
    best = best_overrides(summary)
    assert best is not None
    assert best["model"] == {key.split(".")[1]: value for key, value in summary["best"]["params"].items()}
    assert (best["training"], best["trial"], best["epochs"]) == ({}, summary["best"]["number"], 3)


@pytest.mark.parametrize("kind", ["median", "hyperband"])
def test_bad_trials_are_pruned_and_say_after_how_many_epochs(tmp_path: Path, kind: Any) -> None:
    plan = toy.plan(tmp_path, trials=14, kind=kind)
    run_study(plan, in_process(tmp_path), lambda _: None)
    summary = summarise(plan)
    pruned = [row for row in summary["trials"] if row["state"] == "pruned"]
    assert pruned
    assert all(0 < len(row["epochs"]) < 3 and row["value"] == max(row["epochs"]) for row in pruned)
    complete = [row["value"] for row in summary["trials"] if row["state"] == "complete"]
    assert summary["best"]["value"] == max(complete)


def test_warm_up_keeps_every_trial_for_its_epochs(tmp_path: Path) -> None:
    plan = toy.plan(tmp_path, trials=12, pruning=Pruning("median", 3, warmup=1))
    run_study(plan, in_process(tmp_path), lambda _: None)
    lengths = {len(row["epochs"]) for row in summarise(plan)["trials"]}
    assert lengths == {2, 3}


def test_a_finished_study_runs_nothing_more_and_a_larger_total_goes_on(tmp_path: Path) -> None:
    plan = toy.plan(tmp_path, trials=4)
    run_study(plan, in_process(tmp_path), lambda _: None)
    run_study(plan, lambda _: pytest.fail("a trial ran"), lambda _: None)
    run_study(replace(plan, trials=6), in_process(tmp_path), lambda _: None)
    unbroken = toy.plan(tmp_path / "unbroken", trials=6)
    run_study(unbroken, in_process(tmp_path / "unbroken"), lambda _: None)
    assert [row["params"] for row in summarise(plan)["trials"]] == [
        row["params"] for row in summarise(unbroken)["trials"]
    ]


def test_another_fingerprint_is_refused_with_what_changed(tmp_path: Path) -> None:
    plan = toy.plan(tmp_path, trials=1)
    run_study(plan, in_process(tmp_path), lambda _: None)
    other = replace(plan, fixed={"examples version": 4})
    message = r"(?s)study 'toy' in journal.*examples version: was 3, is now 4\nStart another with tuning\.study=NAME"
    with pytest.raises(TuningError, match=message):
        run_study(other, in_process(tmp_path), lambda _: None)
    narrower = replace(plan, space=read_space({"model": toy.Model()}, {"model.width": {"choices": [8]}}))
    with pytest.raises(TuningError, match=r"range of model\.width: was .*4, 8.*is now .*8"):
        run_study(narrower, in_process(tmp_path), lambda _: None)
    run_study(replace(other, name="toy2"), in_process(tmp_path), lambda _: None)


def test_a_failed_trial_is_kept_with_its_error_and_the_study_goes_on(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        if job.number == 1:
            raise MemoryError("1 GB too few")
        return in_process(tmp_path)(job)

    plan = toy.plan(tmp_path, trials=4)
    ends: list[TrialEnd] = []
    run_study(plan, run_trial, ends.append)
    summary = summarise(plan)
    assert summary["counts"] == {"complete": 3, "fail": 1}
    assert summary["trials"][1]["error"] == "MemoryError: 1 GB too few"
    assert summary["trials"][1]["value"] is None
    assert (ends[1].state, ends[1].error) == ("fail", "MemoryError: 1 GB too few")


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_a_driver_that_was_thought_dead_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool, late: bool
) -> None:
    """Another has taken its trial over, and ended it or queued it; `late`: after this one has looked a last time."""
    plan = toy.plan(tmp_path, trials=2)
    other, ends, said = open_storage(plan.storage), list[TrialEnd](), list[str]()
    monkeypatch.setattr(ownership, "SETTLE_S", 0.0)

    def lose(number: int) -> None:
        trial_id = trial_id_of(other, plan.name, number)
        assert take_over(other, trial_id)
        if ended:
            other.set_trial_state_values(trial_id, TrialState.RUNNING)
            other.set_trial_state_values(trial_id, TrialState.COMPLETE, [7.0])

    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        if job.number == 0 and not said and not late:
            lose(0)
        return in_process(tmp_path)(job)

    tell = study._tell

    def lost_before(*given: Any) -> TrialEnd:
        if given[1].number == 0 and not said:
            lose(0)
        return tell(*given)

    if late:
        monkeypatch.setattr(study, "_tell", lost_before)
    run_study(plan, run_trial, ends.append, said.append)
    assert len(said) == 1
    assert "study 'toy': trial 0 was taken over by another driver, which saw no sign of this one for 120 s" in said[0]
    assert [end.number for end in ends] == ([1] if ended else [0, 1])
    assert summarise(plan)["counts"] == {"complete": 2}
    assert (summarise(plan)["trials"][0]["value"] == 7.0) is ended


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StudyPlan, Callable[[], None]]]:
    """A study of two trials, the first under way with a driver that is stopped: its ranks train on, until let go."""
    for module, name, value in (
        (ownership, "STALE_S", 0.3),
        (study, "STALE_S", 0.3),
        (ownership, "SETTLE_S", 0.0),
        (turns, "STALE_S", 0.3),
        (turns, "LOOK_AGAIN_S", 0.05),
        (lock, "WAIT_S", 0.1),
    ):
        monkeypatch.setattr(module, name, value)
    plan = toy.plan(tmp_path, trials=2)
    storage = open_storage(plan.storage)
    trial_id = trial_id_of(storage, plan.name, open_study(plan, storage).ask().number)
    storage.set_trial_user_attr(trial_id, "driver", {"host": "elsewhere", "process": 1, "sign": "a"})
    with ExitStack() as held:
        held.enter_context(only_writer(tmp_path / "0", print))
        yield plan, held.close


def writing(folder: Path) -> Callable[[TrialJob], Mapping[str, Any]]:
    """Run a trial as its rank 0 does, which locks its folder."""

    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        with only_writer(folder / str(job.number), print):
            return in_process(folder)(job)

    return run_trial


def test_a_trial_whose_ranks_still_train_for_a_driver_that_was_stopped_is_put_off(
    stopped: tuple[StudyPlan, Callable[[], None]], tmp_path: Path
) -> None:
    """The second trial is run meanwhile; the first is neither failed nor lost."""
    (plan, let_go), ends, said = stopped, list[TrialEnd](), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if sum("is put off" in line for line in said) == 2:
            let_go()

    run_study(plan, writing(tmp_path), ends.append, say)
    assert [(end.number, end.state) for end in ends] == [(1, "complete"), (0, "complete")]
    put_off = [line for line in said if "is put off" in line]
    assert len(put_off) == 2
    assert "study 'toy': trial 0 is put off for 0 s: LockHeldError: one training at a time" in put_off[0]


def test_a_folder_that_is_held_for_ever_ends_the_driver_and_not_the_trial(
    stopped: tuple[StudyPlan, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PUT_OFF_AT_MOST", 2)
    plan, let_go = stopped
    words = r"trial 0 must have its folder to itself, and another process held it all 2 times .*its lock is held by"
    with pytest.raises(TuningError, match=words):
        run_study(plan, writing(tmp_path), lambda _: None, lambda _: None)
    let_go()
    run_study(plan, writing(tmp_path), lambda _: None, lambda _: None)
    assert summarise(plan)["counts"] == {"complete": 2}


def test_a_study_whose_first_trials_all_fail_stops_and_goes_on_when_the_cause_is_gone(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        raise OSError(f"disk full at trial {job.number}")

    plan = toy.plan(tmp_path, trials=6)
    with pytest.raises(TuningError, match=r"first 3 trials all failed.*trial 2 with .*OSError: disk full at trial 2"):
        run_study(plan, run_trial, lambda _: None)
    assert best_overrides(summarise(plan)) is None
    run_study(plan, in_process(tmp_path), lambda _: None)
    summary = summarise(plan)
    assert summary["counts"] == {"fail": 3, "complete": 3}
    assert summary["start"]["number"] == 3


def test_a_trial_without_a_finite_metric_fails(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        if job.number == 1:
            study = study_of(plan)
            trial_id = study.trials[1]._trial_id
            open_storage(plan.storage).set_trial_intermediate_value(trial_id, 1, float("nan"))
            return {}
        return {} if job.number == 2 else in_process(tmp_path)(job)

    plan = toy.plan(tmp_path, trials=3)
    run_study(plan, run_trial, lambda _: None)
    errors = [row["error"] for row in summarise(plan)["trials"]]
    assert errors == [
        None,
        "TuningError: the trial reported no finite recall_at_20; it reported [nan]",
        "TuningError: the trial reported no finite recall_at_20; it reported []",
    ]


DRIVER = """
import sys
from pathlib import Path
from tests.tuning import toy
from tests.tuning.test_study import trial_spec
from training.world import World
from tuning.objective import learn_trial
from tuning.study import run_study
folder = Path(sys.argv[1])
def run_trial(job):
    spec = trial_spec(folder, job)
    spec["spec"] |= {"die_in": 1, "die_at": 2}
    return learn_trial(spec, World())
run_study(toy.plan(folder, storage=f"sqlite:///{folder}/study.db", trials=3), run_trial, lambda end: None)
"""


def test_a_killed_trial_goes_on_from_its_checkpoint_under_its_own_number(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    plan = toy.plan(tmp_path, storage=f"sqlite:///{tmp_path}/study.db", trials=3)
    before = study_of(plan).trials
    assert [trial.state for trial in before[1:]] == [TrialState.RUNNING]
    assert list(before[1].intermediate_values) == [1, 2]
    ran: list[int] = []
    run_study(plan, in_process(tmp_path), lambda end: ran.append(end.number))
    assert ran == [1, 2]
    after = summarise(plan)["trials"]
    assert after[1]["params"] == before[1].params
    processes = json.loads((tmp_path / "1" / "epochs.json").read_text())
    assert len(processes) == 3
    assert processes[0] == processes[1] != processes[2]  # the first two epochs were not run again
    unbroken = toy.plan(tmp_path / "unbroken", trials=3)
    run_study(unbroken, in_process(tmp_path / "unbroken"), lambda _: None)
    assert [row["epochs"] for row in after] == [row["epochs"] for row in summarise(unbroken)["trials"]]


TOGETHER = """
import sys, time
from pathlib import Path
from tests.tuning import toy
from tests.tuning.test_study import in_process
from tuning.study import run_study
folder = Path(sys.argv[1])
def run_trial(job):
    (folder / f"{sys.argv[2]}-{job.number}").touch()
    while len(list(folder.glob("[ab]-*"))) < 2:  # until both drivers have drawn one
        time.sleep(0.01)
    return in_process(folder)(job)
run_study(toy.plan(folder, storage=sys.argv[3].format(folder=folder), trials=5), run_trial, lambda end: None)
"""


@pytest.mark.parametrize("storage", ["sqlite:///{folder}/study.db", "journal:{folder}/study.log"])
def test_drivers_that_start_together_draw_different_trials(tmp_path: Path, storage: str) -> None:
    command = [sys.executable, "-c", TOGETHER, str(tmp_path)]
    drivers = [subprocess.Popen([*command, name, storage], cwd=ROOT) for name in "ab"]
    assert [driver.wait(60) for driver in drivers] == [0, 0]
    rows = summarise(toy.plan(tmp_path, storage=storage.format(folder=tmp_path), trials=5))["trials"]
    assert [row["number"] for row in rows if row["is_start"]] == [0]
    assert len(rows) in (5, 6)
    assert {row["state"] for row in rows} == {"complete"}
    assert len({row["params"]["model.rate"] for row in rows}) == len(rows)
    assert len(list(tmp_path.glob("[ab]-*"))) == len(rows)  # none ran twice


def test_a_trial_that_another_driver_took_up_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = toy.plan(tmp_path)
    storage = open_storage(plan.storage)
    study = open_study(plan, storage)
    ids = [trial_id_of(storage, plan.name, study.ask().number) for _ in range(2)]
    for trial_id in ids:
        storage.set_trial_user_attr(trial_id, "driver_host", socket.gethostname())
        storage.set_trial_user_attr(trial_id, "driver_process", 2**22 + 1)  # above the kernel's limit

    def take_over(storage: Any, trial_id: int) -> bool:
        storage.set_trial_user_attr(ids[1], "driver_process", 1)  # one that lives
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
        return True

    monkeypatch.setattr("tuning.turns.take_over", take_over)
    put_back_dead(study, storage, Watch())
    assert [trial.state for trial in study.trials] == [TrialState.WAITING, TrialState.RUNNING]


def test_an_interrupted_study_leaves_its_trial_to_the_next_call(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    plan = toy.plan(tmp_path, trials=2)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, run_trial, lambda _: None)
    run_study(plan, in_process(tmp_path), lambda _: None)
    assert [row["number"] for row in summarise(plan)["trials"]] == [0, 1]


def test_a_prune_decision_outlives_its_driver(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        in_process(tmp_path)(job)
        if job.number == 1:
            trial_id = study_of(plan).trials[1]._trial_id
            open_storage(plan.storage).set_trial_user_attr(trial_id, "pruned_after_epochs", 1)
            raise KeyboardInterrupt
        return {}

    plan = toy.plan(tmp_path, trials=2)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, run_trial, lambda _: None)
    run_study(plan, lambda _: pytest.fail("a pruned trial ran again"), lambda _: None)
    assert summarise(plan)["counts"] == {"complete": 1, "pruned": 1}


def test_an_epoch_that_was_kept_but_not_reported_is_filled_in(tmp_path: Path) -> None:
    def run_trial(job: TrialJob) -> Mapping[str, Any]:
        spec = trial_spec(tmp_path, job)
        return learn_trial({**spec, "spec": {**spec["spec"], "silent_at": 1}}, World())

    plan = toy.plan(tmp_path, trials=1)
    run_study(plan, run_trial, lambda _: None)
    assert summarise(plan)["trials"][0]["epochs"] == [pytest.approx(0.5 * (epoch + 1) / 3) for epoch in range(3)]
