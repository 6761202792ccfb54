"""What a training says while it runs: events for people and tuners, and a run record (JSON lines) for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.errors import ArtefactError, CheckpointError
from training.state.json_files import parse_json

RECORD = "record.jsonl"
Kind = Literal["start", "resume", "progress", "skipped", "checkpoint", "warning", "epoch", "end"]


class Pruned(Exception):  # noqa: N818  a decision, not an error
    """Raised by a `report` callback to stop a training early; `fit` raises it on every rank, at the same step."""

    together = True


@dataclass(frozen=True)
class Event:
    """Something worth saying. `report` gets it on rank 0 only.

    Attributes:
        kind: `progress` comes every few seconds, `epoch` after each epoch with its loss and the validation's metrics.
        step: optimizer steps done so far.
        epoch: number of the epoch that is under way, from 0; for `epoch`, the one that ended.
        message: one line for people.
        values: figures by name: loss, learning_rate, samples_per_s, wait_share, comm_share, seconds_left, metrics, and
            what loaders that count delivered (`training.state.progress.Meter`).
    """

    kind: Kind
    step: int
    epoch: int
    message: str
    values: Mapping[str, float] = field(default_factory=dict)


class Record:
    """The run record: one JSON object a line, an event each, appended as the training goes on.

    A resumed run first drops the lines that came after its checkpoint, so the record reads like an unbroken run's.

    Args:
        directory: where it lies.
        resumed_at: the step at which the training stands.
        say: gets a line where some of the record was damaged and is dropped.

    Raises:
        CheckpointError: the record cannot be read or written.
    """

    def __init__(self, directory: Path, *, resumed_at: int, say: Callable[[str], None]) -> None:
        self._path = directory / RECORD
        try:
            events, damaged = _lines(self._path)
            scratch = self._path.with_suffix(".partial")
            scratch.write_text("".join(json.dumps(line) + "\n" for line in events if line["step"] <= resumed_at))
            scratch.replace(self._path)
        except OSError as error:
            raise self._error(error) from error
        if damaged:
            say(f"{damaged} line(s) of the run record '{self._path}' were damaged, and are left out")

    def add(self, event: Event, time_s: float) -> None:
        """Append an event.

        Raises:
            CheckpointError: the line could not be written.
        """
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({**asdict(event), "time_s": round(time_s, 3)}) + "\n")
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"the run record '{self._path}' could not be written: {error}; the checkpoints there are whole. Make "
            "room there, or choose another checkpoint folder, and start again"
        )


def read_record(directory: Path | str) -> list[dict[str, Any]]:
    """Events of a run in order, as dicts (`Event`'s fields and `time_s`, Unix time); damaged lines are left out."""
    return _lines(Path(directory) / RECORD)[0]


@dataclass(frozen=True)
class _Line(Event):
    time_s: float = 0.0


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events, and how many lines are none; a torn last line is not counted, for a killed process leaves one."""
    events, damaged = [], 0
    whole, _, torn = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    for text in [*whole.splitlines(), torn]:
        try:
            parse_json(text, _Line, "a line of the run record")
            events.append(json.loads(text))
        except ArtefactError:
            damaged += text is not torn
    return events, damaged
