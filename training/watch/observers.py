"""Trainings watched from outside: events to TensorBoard and to MLflow, from rank 0.

    with Observers([TensorBoard("out/run/tensorboard")], print, world) as observers:
        fit(..., report=observers)

Both packages are optional extras, imported only where one is asked for.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

from training.errors import PeerLostError, PreemptedError, SettingsError
from training.masking import SECRET, masked
from training.preemption import Notice
from training.state.json_files import read_json, write_json
from training.watch.record import Event, Pruned

if TYPE_CHECKING:
    from training.world import World

Outcome = Literal["FINISHED", "FAILED", "KILLED"]
EVENTS_HELD = 1_000  # that wait for the observers at most
END_S = 30.0  # for the observers to take what waits, when the training is over
ALONE_S = 2.0  # the same where this rank failed alone: less than the launcher's grace for a rank that has to say why
_RUN = "mlflow.json"  # beside the checkpoints: which MLflow run a training that goes on belongs to
_PARAMS_AT_ONCE = 100  # MLflow takes no more


class Observer(Protocol):
    """Gets every event, and at the end how it went and what came of it."""

    def __call__(self, event: Event) -> None: ...
    def close(self, outcome: Outcome, tags: Mapping[str, str]) -> None: ...


class Observers:
    """Several observers as one `report`. What they do must neither stop nor slow a training.

    They get their events in a thread, so that a slow server keeps no rank waiting. One that fails is dropped, aloud;
    where EVENTS_HELD events wait, further ones are left out, said once.

    At the end what waits has END_S, while the ranks meet: it counts as no hang, and nobody is taken for lost who waits
    for it. All ranks enter and leave it, those too that nobody watches. A rank that fails alone keeps the others
    waiting where it cannot meet them, so there what waits has ALONE_S, and then the error is told.

    Args:
        observers: may be none.
        say: gets a line when one is dropped, or events are left out.
        world: the ranks.
    """

    def __init__(self, observers: Sequence[Observer], say: Callable[[str], None], world: World) -> None:
        self._observers, self._say, self._world = list(observers), say, world
        self._waiting: queue.Queue[Callable[[Observer], None] | None] = queue.Queue(EVENTS_HELD)
        self._thread = threading.Thread(target=self._pass_on, name="observers", daemon=True)
        self._left_out = 0
        self.tags: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        if not self._observers:
            return
        try:
            self._waiting.put_nowait(lambda observer: observer(event))
        except queue.Full:
            self._left_out += 1
            if self._left_out == 1:
                self._say(f"observers are {EVENTS_HELD} events behind; events are left out, the training goes on")

    def _pass_on(self) -> None:
        while (call := self._waiting.get()) is not None:
            self._each(call)

    def _each(self, call: Callable[[Observer], None]) -> None:
        for observer in list(self._observers):
            try:
                call(observer)
            except Exception as error:  # whatever a server, a disk or a library may raise
                self._observers.remove(observer)
                why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
                self._say(f"{type(observer).__name__} failed and gets no more events; the training goes on ({why})")

    def __enter__(self) -> Observers:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome: Outcome = (
            "FINISHED" if kind is None else "KILLED" if issubclass(kind, Pruned | PreemptedError) else "FAILED"
        )
        alone = error is not None and self._world.size > 1 and not getattr(error, "together", False)
        with Notice():  # a launcher that stops the ranks asks first: the observers hear of the end nevertheless
            if alone:
                self._drain(outcome, ALONE_S)
            else:
                with suppress(PeerLostError):  # what the training came to is told; the world's end says it again
                    self._world.on_first("observers", lambda: self._drain(outcome, END_S))

    def _drain(self, outcome: Outcome, seconds: float) -> None:
        """Tell the observers the outcome after what waits, and wait for them that long."""
        deadline = time.monotonic() + seconds
        for last in (lambda observer: observer.close(outcome, self.tags), None):
            with suppress(queue.Full):  # said below
                self._waiting.put(last, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say(f"observers did not take all events within {seconds:g} s; the training ends without them")


def figures(event: Event) -> Iterator[tuple[str, float]]:
    """Names and values worth a curve: `progress/loss`, `epoch/recall_at_20`; numbers that are none are left out."""
    for name, value in event.values.items():
        if event.kind in ("progress", "epoch") and name not in ("epoch", "step") and math.isfinite(value):
            yield f"{event.kind}/{name}", float(value)


class TensorBoard:
    """Scalars by step, as TensorBoard's event files.

    Args:
        folder: where they go; a training that goes on adds to them, without what came after its checkpoint.

    Raises:
        SettingsError: the package is not installed.
    """

    def __init__(self, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard", error) from error
        self._make, self._folder = SummaryWriter, folder
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if self._writer is None:
            purge = {"purge_step": event.step + 1} if event.kind == "resume" else {}
            self._writer = self._make(self._folder, **purge)
        for name, value in figures(event):
            self._writer.add_scalar(name, value, event.step)

    def close(self, outcome: Outcome, tags: Mapping[str, str]) -> None:  # noqa: ARG002  it has no place for them
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class _Run:
    """mlflow.json."""

    run_id: str
    checksum: str | None = None


class Mlflow:
    """A run in MLflow: params, metrics by step, and tags. The server is first asked for something at the first event.

    Credentials come from MLflow's own variables (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or _TOKEN) and are
    neither asked for nor written down here.

    Args:
        uri: the tracking server or database; "" takes MLFLOW_TRACKING_URI.
        experiment: its name; made where there is none.
        name: of the run.
        params: what was set, flat.
        folder: the checkpoints', if there is one: a training that goes on there goes on in the same run.

    Raises:
        SettingsError: the package is not installed, or the URI holds a password.
        ArtefactError: mlflow.json beside the checkpoints is damaged; remove it to go on in a new run.
    """

    def __init__(
        self, *, uri: str, experiment: str, name: str, params: Mapping[str, Any], folder: str | None = None
    ) -> None:
        refuse_password(uri)
        try:
            from mlflow import MlflowClient, entities
        except ImportError as error:
            raise missing("mlflow", error) from error
        self._entities, self._connect = entities, partial(MlflowClient, tracking_uri=uri or None)
        self._experiment, self._name, self._params = experiment, name, params
        self._note = Path(folder) / _RUN if folder else None
        self._client: Any = None
        self.run_id = read_json(self._note, _Run).run_id if self._note and self._note.exists() else ""

    def _open(self) -> None:
        """Take up the run, or make one, before anything is written to it."""
        if self._client is not None:
            return
        self._client = self._connect()
        if self.run_id:
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._begin()

    def _begin(self) -> None:
        found = self._client.get_experiment_by_name(self._experiment)
        home = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self.run_id = self._client.create_run(home, run_name=self._name).info.run_id
        held = [self._entities.Param(key, str(value)) for key, value in self._params.items()]
        for start in range(0, len(held), _PARAMS_AT_ONCE):
            self._client.log_batch(self.run_id, params=held[start : start + _PARAMS_AT_ONCE])
        if self._note:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._note, {"run_id": self.run_id})

    def __call__(self, event: Event) -> None:
        self._open()
        now_ms = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now_ms, event.step) for name, value in figures(event)]
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)

    def close(self, outcome: Outcome, tags: Mapping[str, str]) -> None:
        self._open()
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)
        self._client.set_terminated(self.run_id, outcome)


def refuse_password(uri: str) -> None:
    """Keep secrets out of settings: files that people pass on, and command lines that others see.

    Raises:
        SettingsError: it is no URI, or has one, before its host or as a parameter; the message does not repeat it.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SettingsError(f"training.mlflow_uri must be a URI, got '{masked(uri)}': {error}; correct it") from None
    place = parts.netloc
    if "@" in place or any(SECRET.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise SettingsError(
            "training.mlflow_uri must hold no user, password or token; got one for "
            f"'{place.rpartition('@')[2] or parts.path}'; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )


def missing(extra: str, error: ImportError) -> SettingsError:
    """What to install."""
    return SettingsError(
        f"training.{extra} is set, and its package cannot be imported ({error}); "
        f"install it with: pip install 'millrace[{extra}]', or set training.{extra}=false"
    )
