"""Events to TensorBoard and MLflow: with the packages where they are installed, and with stand-ins that take notes."""

from __future__ import annotations

import sys
import threading
import time
import types
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import LaunchError, RankLostError
from cluster.launch import launch
from tests.training import tiny
from training.errors import ArtefactError, DataError, NonFiniteError, PreemptedError, SettingsError
from training.fit import FitSettings, fit
from training.watch import observers as observers_module
from training.watch.observers import Mlflow, Observers, TensorBoard, figures, refuse_password
from training.watch.record import Event, Pruned
from training.world import World

START = Event("start", 0, 0, "start")
PROGRESS = Event("progress", 4, 0, "", {"loss": 2.5, "learning_rate": 0.1, "seconds_left": float("nan")})
EPOCH = Event("epoch", 9, 0, "", {"epoch": 0, "step": 9, "loss": 2.0, "recall_at_20": 0.25})


def test_figures_are_what_makes_a_curve() -> None:
    found = [dict(figures(event)) for event in (START, PROGRESS, EPOCH)]
    assert found == [
        {},
        {"progress/loss": 2.5, "progress/learning_rate": 0.1},
        {"epoch/loss": 2.0, "epoch/recall_at_20": 0.25},
    ]


class _Notes:
    """An observer that remembers, and breaks on the kind of event named."""

    def __init__(self, breaks_on: str = "") -> None:
        self.kinds, self.closed, self._breaks_on = list[str](), list[Any](), breaks_on

    def __call__(self, event: Event) -> None:
        self.kinds.append(event.kind)
        if event.kind == self._breaks_on:
            raise ConnectionError("planted: no answer\nfrom there")

    def close(self, outcome: str, tags: Any) -> None:
        self.closed.append((outcome, dict(tags)))


def test_one_that_fails_is_dropped_aloud_and_the_training_goes_on() -> None:
    broken, whole, lines = _Notes("progress"), _Notes(), list[str]()
    settings = FitSettings(batch_size=24, report_every_s=0.0)
    with Observers([broken, whole], lines.append, World()) as observers:
        fit(tiny.TinyModel(), tiny.TinyLoader(tiny.rows(60), 24, World()), settings, world=World(), report=observers)
        observers.tags["bundle"] = "b-1"
    assert broken.kinds == ["start", "progress"]
    assert whole.kinds == ["start", "progress", "progress", "progress", "epoch", "end"]
    assert (broken.closed, whole.closed) == ([], [("FINISHED", {"bundle": "b-1"})])
    assert lines == [
        "_Notes failed and gets no more events; the training goes on (ConnectionError: planted: no answer)"
    ]


class _Slow(_Notes):
    """One whose server does not answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def __call__(self, event: Event) -> None:
        self.let_go.wait(30)
        super().__call__(event)


@pytest.mark.alone
def test_a_slow_one_keeps_nobody_waiting_and_what_is_left_out_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers_module, "EVENTS_HELD", 3)
    slow, lines = _Slow(), list[str]()
    with Observers([slow], lines.append, World()) as observers:
        started = time.monotonic()
        for _ in range(50):
            observers(PROGRESS)
        assert time.monotonic() - started < 1.0
        slow.let_go.set()
    assert lines == ["observers are 3 events behind; events are left out, the training goes on"]
    assert 3 <= len(slow.kinds) <= 4
    assert slow.closed == [("FINISHED", {})]


def test_one_that_never_answers_holds_the_end_up_no_longer_than_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers_module, "END_S", 0.1)
    slow, lines = _Slow(), list[str]()
    with Observers([slow], lines.append, World()) as observers:
        observers(START)
    slow.let_go.set()
    assert lines == ["observers did not take all events within 0.1 s; the training ends without them"]


class _Two(World):
    """Two ranks, whose meetings are noted."""

    size = 2

    def __init__(self) -> None:
        self.met = list[str]()

    def on_first(self, what: str, work: Any) -> Any:
        self.met.append(what)
        return super().on_first(what, work)


@pytest.mark.parametrize("error", [None, Pruned("p"), PreemptedError("p"), NonFiniteError("n"), DataError("d")])
def test_ranks_that_come_to_the_end_together_meet_there(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails alone cannot: it tells its error within the launcher's grace."""
    monkeypatch.setattr(observers_module, "ALONE_S", 0.1)
    alone, world, slow, lines = isinstance(error, DataError), _Two(), _Slow(), list[str]()
    if not alone:
        slow.let_go.set()
    with suppress(Exception), Observers([slow], lines.append, world) as observers:
        observers(START)
        if error is not None:
            raise error
    slow.let_go.set()
    assert world.met == ([] if alone else ["observers"])
    assert [line.partition(";")[0] for line in lines] == ["observers did not take all events within 0.1 s"] * alone


@pytest.mark.parametrize(
    ("end", "close_s", "said", "outcome"),
    [
        ("together", 1.0, "rank . of 2 failed: asked to end", "KILLED"),
        pytest.param("well", 6.0, "", "FINISHED", marks=pytest.mark.slow),
        pytest.param("alone", 60.0, "rank 0 of 2 failed: the real error", None, marks=pytest.mark.slow),
    ],
)
def test_ranks_wait_for_the_observers_and_lose_nobody(
    end: str, close_s: float, said: str, outcome: str | None, tmp_path: Path
) -> None:
    """Though their server takes longer than ranks may keep each other waiting."""
    closed = tmp_path / "closed"
    spec = {"end": end, "close_s": close_s, "closed": str(closed)}
    failed = nullcontext() if end == "well" else pytest.raises(LaunchError, match=f"^{said}")
    with failed as caught:
        launch("tests.training.watched:watched", spec, ranks=2, stall_s=4.0, timeout_s=100)
    assert caught is None or not isinstance(caught.value, RankLostError)
    assert (closed.read_text() if closed.exists() else None) == outcome


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"run_id": 7}'])
def test_a_damaged_note_of_the_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=_Client, entities=None))
    (tmp_path / "mlflow.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"mlflow\.json"):
        Mlflow(uri="", experiment="e", name="n", params={}, folder=str(tmp_path))


@pytest.mark.parametrize(("error", "outcome"), [(Pruned("p"), "KILLED"), (ZeroDivisionError(), "FAILED")])
def test_how_it_ended_is_passed_on(error: Exception, outcome: str) -> None:
    notes = _Notes()
    with pytest.raises(type(error)), Observers([notes], print, World()):
        raise error
    assert notes.closed == [(outcome, {})]


@pytest.mark.parametrize("extra", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if extra == "tensorboard" else extra, None)
    with pytest.raises(SettingsError, match=rf"training\.{extra} is set, .*pip install 'millrace\[{extra}\]'"):
        _ = TensorBoard("x") if extra == "tensorboard" else Mlflow(uri="", experiment="e", name="n", params={})


def test_a_password_is_refused_and_not_repeated() -> None:
    refuse_password("https://mlflow.shop.example/a@b")
    with pytest.raises(SettingsError, match=r"got one for 'mlflow\.shop\.example:5000'") as caught:
        refuse_password("https://me:hidden@mlflow.shop.example:5000/x")
    assert "hidden" not in str(caught.value)


class _Writer:
    made: list[_Writer] = []  # noqa: RUF012

    def __init__(self, folder: str, **options: Any) -> None:
        self.folder, self.options, self.scalars, self.closed = folder, options, list[Any](), False
        self.made.append(self)

    def add_scalar(self, *scalar: Any) -> None:
        self.scalars.append(scalar)

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_scalars_and_forgets_what_a_resume_undid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=_Writer))
    for first in (START, Event("resume", 6, 0, "")):
        board = TensorBoard("curves")
        for event in (first, PROGRESS, EPOCH):
            board(event)
        board.close("FINISHED", {})
    fresh, resumed = _Writer.made
    assert (fresh.folder, fresh.options, resumed.options) == ("curves", {}, {"purge_step": 7})
    assert fresh.scalars[:2] == [("progress/loss", 2.5, 4), ("progress/learning_rate", 0.1, 4)]
    assert fresh.scalars[2:] == [("epoch/loss", 2.0, 9), ("epoch/recall_at_20", 0.25, 9)]
    assert fresh.closed


class _Client:
    """Notes of what an MLflow server would be told."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012

    def __init__(self, tracking_uri: str | None) -> None:
        self.calls.append(("uri", tracking_uri))

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return f"id of {name}"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.calls.append(("run", experiment, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.calls.append(("batch", run_id, [m[:2] + m[3:] for m in metrics], list(params)))

    def update_run(self, run_id: str, status: str) -> None:
        self.calls.append(("again", run_id, status))

    def set_tag(self, *tag: str) -> None:
        self.calls.append(("tag", *tag))

    def set_terminated(self, *end: str) -> None:
        self.calls.append(("end", *end))


def test_mlflow_gets_one_run_even_of_a_training_that_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entities = types.SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=_Client, entities=entities))
    monkeypatch.setattr(_Client, "calls", [])
    params = {f"p{number}": number for number in range(150)}
    told = {"uri": "", "experiment": "shop", "name": "n", "params": params, "folder": str(tmp_path / "new")}
    first = Mlflow(**told)  # type: ignore[arg-type]
    first(PROGRESS)
    second = Mlflow(**told)  # type: ignore[arg-type]
    second(EPOCH)
    second.close("FINISHED", {"bundle": "b-1"})
    calls = _Client.calls
    assert calls[:2] == [("uri", None), ("run", "id of shop", "n")]
    assert [len(call[3]) for call in calls[2:4]] == [100, 50]
    assert calls[2][3][1] == ("p1", "1")
    assert calls[4] == ("batch", "r1", [("progress/loss", 2.5, 4), ("progress/learning_rate", 0.1, 4)], [])
    assert calls[5:7] == [("uri", None), ("again", "r1", "RUNNING")]
    assert calls[7] == ("batch", "r1", [("epoch/loss", 2.0, 9), ("epoch/recall_at_20", 0.25, 9)], [])
    assert calls[8:] == [("tag", "r1", "bundle", "b-1"), ("end", "r1", "FINISHED")]


def test_a_server_that_is_down_at_the_start_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it asked in the training's own thread."""
    asked_in, lines = list[str](), list[str]()

    def down(*_: object) -> None:
        asked_in.append(threading.current_thread().name)
        raise ConnectionError("planted: no route")

    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=_Client, entities=None))
    monkeypatch.setattr(_Client, "get_experiment_by_name", down)
    board = Mlflow(uri="", experiment="e", name="n", params={})
    with Observers([board], lines.append, World()) as observers:
        observers(START)
        observers(PROGRESS)
    assert asked_in == ["observers"]
    assert lines == ["Mlflow failed and gets no more events; the training goes on (ConnectionError: planted: no route)"]


def test_the_real_tensorboard_reads_them_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(str(tmp_path))
    for event in (START, PROGRESS, EPOCH):
        board(event)
    board.close("FINISHED", {})
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(scalar.step, scalar.value) for scalar in found.Scalars("epoch/recall_at_20")] == [(9, 0.25)]


def test_the_real_mlflow_reads_them_back(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = Mlflow(uri=uri, experiment="shop", name="n", params={"training.epochs": 3}, folder=str(tmp_path))
    for event in (START, PROGRESS, EPOCH):
        run(event)
    run.close("FINISHED", {"bundle": "b-1"})
    found = mlflow.MlflowClient(tracking_uri=uri).get_run(run.run_id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"training.epochs": "3"})
    assert found.data.metrics["epoch/recall_at_20"] == 0.25
    assert found.data.tags["bundle"] == "b-1"
