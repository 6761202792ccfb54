"""How long each stage took: a run folder's stages.json, written by the commands and by the demo, read by the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jobs.artefacts import STAGES, read_json, write_json
from jobs.console import CONSOLE, warn
from training.errors import ArtefactError

TIMED = (
    "simulate", "ingest", "build_examples", "tune", "train", "evaluate", "score", "ingest_feedback",
    "feedback", "report",
)  # fmt: skip


class Stages:
    """Runs stages in turn, says which, and keeps how long each took this time."""

    def __init__(self, run_dir: str) -> None:
        self.seconds: dict[str, float] = {}
        self._run_dir = run_dir

    def run(self, name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        CONSOLE.rule(f"[bold]{len(self.seconds) + 1}. {name}", align="left")
        started = time.perf_counter()
        summary = timed(self._run_dir, name, call)
        self.seconds[name] = time.perf_counter() - started
        return summary


def timed(run_dir: str, stage: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a job and, if it is one of TIMED, keep how long it took; with nothing to do the time before stays.

    Args:
        run_dir: the run folder.
        stage: the job's name.
        call: runs the job; `up_to_date` in what it returns says that it had nothing to do, `dry_run` that it only said
            what it would take.
    """
    if stage not in TIMED:
        return call()
    started = time.perf_counter()
    summary = call()
    seconds = time.perf_counter() - started
    if summary.get("dry_run"):
        return summary
    entries = _held(run_dir)
    if summary.get("up_to_date") and any(entry["stage"] == stage for entry in entries):
        return summary
    others = [entry for entry in entries if entry["stage"] != stage]
    write_json(run_dir, STAGES, [*others, {"stage": stage, "seconds": seconds}])
    return summary


def seconds_of(run_dir: str) -> dict[str, float]:
    """Of each stage, how long it took when it last had something to do."""
    return {entry["stage"]: entry["seconds"] for entry in _held(run_dir)}


def _held(run_dir: str) -> list[dict[str, Any]]:
    """The times so far; a file that is damaged must not fail a job that has ended well."""
    try:
        held = read_json(run_dir, STAGES)
    except ArtefactError as error:
        warn(f"{error}; the times of earlier stages are lost")
        return []
    return held or []
