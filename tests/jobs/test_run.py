"""All stages one after the other: which, in which order, with what the study found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs import run
from jobs.settings import Settings, load_settings

ALL = ["ingest", "build_examples", "tune", "train", "evaluate", "score", "report"]


@pytest.mark.parametrize(("trials", "best", "tuned"), [(0, None, False), (2, None, False), (2, {"value": 0.5}, True)])
def test_stages_follow_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trials: int, best: Any, *, tuned: bool
) -> None:
    seen: dict[str, bool] = {}

    def stage(name: str) -> Any:
        def call(settings: Settings, _: Any) -> dict[str, Any]:
            seen[name] = settings.training.tuned
            return {"best": best, "path": "report.html"}

        return call

    for name in ALL:
        monkeypatch.setattr(getattr(run, name), "run", stage(name))
    monkeypatch.setattr(run.evaluate, "show", lambda _: None)
    monkeypatch.setattr(run, "latest_bundle", lambda _: "bundle")
    spark: Any = object()
    run.run(load_settings(None, [f"run_dir={tmp_path}", f"tuning.trials={trials}"]), spark)
    assert list(seen) == [name for name in ALL if trials or name != "tune"]
    assert {seen[name] for name in ("train", "evaluate", "score", "report")} == {tuned}
    assert not seen["build_examples"]
