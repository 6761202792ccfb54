"""A trial that takes milliseconds: its metric is known, so pruning, resuming and the best trial can be foreseen."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from training.watch.record import Event
from tuning.objective import Pruning, study_reporter
from tuning.space import read_space
from tuning.study import StudyPlan

METRIC = "recall_at_20"
EPOCHS = 3


class Model(BaseModel):
    rate: float = Field(0.2, ge=0, le=1, json_schema_extra={"search": {"low": 0.0, "high": 1.0}})
    width: int = Field(8, json_schema_extra={"search": {"choices": [4, 8]}})


def metric(model: Mapping[str, Any], epoch: int) -> float:
    """Highest at rate 0.7 and width 8; grows with the epochs."""
    return float((1 - abs(model["rate"] - 0.7) - 0.1 * (model["width"] != 8)) * (epoch + 1) / EPOCHS)


def learn(spec: dict[str, Any], world: Any) -> dict[str, Any]:
    """Report EPOCHS epochs, keeping a checkpoint (who did each) as it goes; killed at `die_at` of trial `die_in`."""
    report = study_reporter(spec["report"])
    checkpoint = Path(spec["checkpoint_dir"]) / "epochs.json"
    done = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    for epoch in range(len(done), EPOCHS):
        if epoch == spec.get("die_at") and spec["report"]["trial"] == spec.get("die_in"):
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(os.getpid())
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(json.dumps(done))
        report(Event("progress", epoch * 10, epoch, "half-way"))
        if epoch == spec.get("silent_at"):
            continue
        report(Event("epoch", epoch * 10, epoch, "", {METRIC: metric(spec["model"], epoch), "loss": 1.0}))
    return {"history": [{"epoch": epoch, METRIC: metric(spec["model"], epoch)} for epoch in range(EPOCHS)]}


def plan(folder: Path, *, storage: str | None = None, trials: int = 6, kind: Any = "none", **changes: Any) -> StudyPlan:
    values: dict[str, Any] = {
        "name": "toy",
        "storage": storage or f"journal:{folder}/study.log",
        "space": read_space({"model": Model()}),
        "fixed": {"examples version": 3},
        "metric": METRIC,
        "trials": trials,
        "pruning": Pruning(kind, EPOCHS, warmup=0),
        "seed": 1,
    }
    return StudyPlan(**{**values, **changes})
