"""The JSON files of a run folder: what jobs leave for each other and for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.errors import DataError

BEST, TUNING, DOCTOR, REPLAY = "best.json", "tuning.json", "doctor.json", "replay.json"
EVALUATION, SCORE, FEEDBACK, STAGES, LATEST = (
    "evaluation.json",
    "score.json",
    "feedback.json",
    "stages.json",
    "latest.json",
)
MADE_BY = {
    BEST: "tune",
    TUNING: "tune",
    DOCTOR: "doctor",
    REPLAY: "replay",
    EVALUATION: "evaluate",
    SCORE: "score",
    FEEDBACK: "ingest-feedback",
    STAGES: "demo",
    LATEST: "train",
}


def write_json(run_dir: str | Path, name: str, value: Any) -> Path:
    """Write a value into the run folder, under another name first, so that no reader sees half of it."""
    path = Path(run_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    scratch.replace(path)
    return path


def read_json(run_dir: str | Path, name: str) -> Any | None:
    """The value of a run folder's file, or None if there is no such file.

    Raises:
        DataError: the file is not JSON.
    """
    path = Path(run_dir) / name
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} must be JSON: {error}; remove it and run `millrace {MADE_BY[name]}` again") from error
