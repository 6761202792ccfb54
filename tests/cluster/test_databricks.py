"""The Databricks workflow: each task's command line, through the parser and the settings of the command itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs import main
from jobs.settings import Settings

BUNDLE = Path(main.__file__).parents[1] / "cluster" / "databricks" / "databricks.yml"
WORKFLOW: dict[str, Any] = yaml.safe_load(BUNDLE.read_text())
TASKS = {task["task_key"]: task for task in WORKFLOW["resources"]["jobs"]["millrace"]["tasks"]}


def command_line(task: dict[str, Any], variables: dict[str, str]) -> list[str]:
    """As Databricks fills it in; a variable that is not declared is a KeyError."""
    words = task["python_wheel_task"]["parameters"]
    return [re.sub(r"\$\{var\.(\w+)\}", lambda found: variables[found[1]], str(word)) for word in words]


@pytest.mark.parametrize("key", TASKS)
def test_each_task_reads_the_settings_and_the_raw_files(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text("training: {ranks: 2, epochs: 3}")
    variables = {name: str(value.get("default", "")) for name, value in WORKFLOW["variables"].items()}
    got: list[Settings] = []

    def run(settings: Settings) -> dict[str, Any]:
        got.append(settings)
        return {}

    monkeypatch.setattr(f"jobs.{key}.run", run)
    result = CliRunner().invoke(main.build_app(), command_line(TASKS[key], variables | {"settings": str(file)}))
    assert result.exit_code == 0, result.output
    (settings,) = got
    assert settings.training.epochs == 3
    assert settings.ingest.path == variables["raw"]
    assert (settings.tables.root, settings.run_dir) == (variables["root"], variables["run_dir"])
    assert settings.training.launcher == ("spark" if key == "train" else "local")


def test_a_task_waits_for_tasks_that_are_there() -> None:
    before: set[str] = set()
    for key, task in TASKS.items():
        assert {wanted["task_key"] for wanted in task.get("depends_on", [])} <= before, key
        before.add(key)
    entry = {
        (task["python_wheel_task"]["package_name"], task["python_wheel_task"]["entry_point"]) for task in TASKS.values()
    }
    assert entry == {("millrace", "millrace")}
