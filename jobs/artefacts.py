"""The JSON files of a run folder: what jobs leave for each other and for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from training.errors import ArtefactError
from training.state import json_files

BEST, TUNING, DOCTOR, REPLAY = "best.json", "tuning.json", "doctor.json", "replay.json"
EVALUATION, SCORE, FEEDBACK, STAGES, LATEST = (
    "evaluation.json",
    "score.json",
    "feedback.json",
    "stages.json",
    "latest.json",
)
COMPRESSION = "compression.json"
ADS = "ads.json"
STOCK = "stock.json"
STREAM = "stream.json"  # of the stream's own folder
ITEM_FILES = "baselines"  # a folder: what executors write of items, or of what looks like them, for all to map
ERASURE = "erasure.json"  # of one that has not ended; a certificate has the time in its name


class _Open(TypedDict):
    """A shape whose files hold more than is named here."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]


class Summary(_Open):
    """How a training ended."""

    steps: NotRequired[int]
    rows: NotRequired[int]
    history: NotRequired[list[dict[str, Any]]]


class Latest(_Open):
    """The bundle that the last training published, and what it was asked for."""

    bundle: str
    identity: Annotated[str, Field(pattern=r"^\w+$")]  # it names a folder that is removed
    summary: Summary
    ends: NotRequired[dict[str, Any]]
    compressed: NotRequired[str]
    epochs: NotRequired[int]


class Best(_Open):
    """The best trial's values by section."""

    model_name: str
    model: dict[str, Any]
    training: dict[str, Any]
    trial: int


class Trial(_Open):
    """One trial of a study."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    epochs: list[float]
    seconds: float
    is_start: bool


class Study(_Open):
    """All trials of a study."""

    metric: str
    counts: dict[str, int]
    trials: list[Trial]
    best: Trial | None
    start: Trial | None
    importances: dict[str, float]


class Evaluation(_Open):
    """What a bundle was worth."""

    bundle: str
    protocols: dict[str, dict[str, Any]]


class Scored(_Open):
    """What score wrote, with counts of the task's own."""

    table: str


class Feedback(_Open):
    """What became of what was shown."""

    shown: int
    ignored: int
    viewed: int
    purchased: int
    rounds: NotRequired[list[dict[str, Any]]]


class Stage(_Open):
    """How long a stage took."""

    stage: str
    seconds: float


class AdsPlan(_Open):
    """The plan of a day's bids."""

    day: str
    first_step: int
    campaigns: int


class Orders(_Open):
    """What was ordered as of a moment."""

    moment: str
    series: int


class Stream(_Open):
    """How far a stream is."""

    stream: str


class Erasure(_Open):
    """How far an erasure came."""

    ids: str
    started: str
    persons: int
    in_rows: int
    unclean: list[str]
    tables: dict[str, dict[str, int]]
    bundles: list[dict[str, str]]
    run_folder: dict[str, int]
    loops: list[str]


# What each file holds, and the command that makes it.
SHAPES: dict[str, tuple[Any, str]] = {
    BEST: (Best, "tune"),
    TUNING: (Study, "tune"),
    DOCTOR: (dict[str, Any], "doctor"),
    REPLAY: (dict[str, Any], "replay"),
    EVALUATION: (Evaluation, "evaluate"),
    SCORE: (Scored, "score"),
    FEEDBACK: (Feedback, "ingest-feedback"),
    STAGES: (list[Stage], "report"),
    LATEST: (Latest, "train"),
    ERASURE: (Erasure, "erase"),
    ADS: (AdsPlan, "plan-ads"),
    STOCK: (Orders, "plan-stock"),
    STREAM: (Stream, "stream"),
}


def write_json(run_dir: str | Path, name: str, value: Any) -> Path:
    """Write a value into the run folder, whole or not at all, with its checksum."""
    path = Path(run_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    json_files.write_json(path, json.loads(json.dumps(value, default=str)))
    return path


def read_json(run_dir: str | Path, name: str) -> Any | None:
    """The value of a run folder's file, without its checksum, or None if there is no such file.

    Raises:
        ArtefactError: it is no JSON, not what such a file holds, or was changed since it was written.
    """
    path = Path(run_dir) / name
    if not path.exists():
        return None
    shape, job = SHAPES[name]
    try:
        value: Any = json_files.read_json(path, shape)
    except ArtefactError as error:
        raise ArtefactError(f"{error}; remove it and run `millrace {job}` again") from error
    if isinstance(value, dict):
        value.pop(json_files.CHECKSUM, None)
    return value
