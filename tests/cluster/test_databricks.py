"""The Databricks workflow: its fields against Databricks' own, and each task's command line through its command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs import main
from jobs.settings import Settings

ROOT = Path(main.__file__).parents[1]
BUNDLE: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "databricks" / "databricks.yml").read_text())
JOB = BUNDLE["resources"]["jobs"]["millrace"]
TASKS = {task["task_key"]: task for task in JOB["tasks"]}


def variables(target: str = "cpu") -> dict[str, str]:
    return {name: value["default"] for name, value in BUNDLE["variables"].items()} | BUNDLE["targets"][target].get(
        "variables", {}
    )


def filled_in(value: Any, known: dict[str, str]) -> Any:
    """As the bundle fills it in; a variable that is not declared is a KeyError."""
    text = re.sub(r"\$\{var\.(\w+)\}", lambda found: known[found[1]], json.dumps(value))
    return json.loads(text)


@pytest.mark.parametrize("target", BUNDLE["targets"])
def test_databricks_knows_every_field(target: str) -> None:
    """Its SDK drops what it does not know, and refuses words that are none of a field's."""
    from databricks.sdk.service.jobs import JobSettings

    job = filled_in(JOB, variables(target))
    assert JobSettings.from_dict(job).as_dict() == job
    wrong = job | {"tasks": [job["tasks"][0] | {"python_wheel_tasks": {}}]}
    assert JobSettings.from_dict(wrong).as_dict() != wrong


def test_each_target_is_a_long_term_release_for_machine_learning() -> None:
    versions = {target: variables(target)["runtime"] for target in BUNDLE["targets"]}
    assert versions == {target: f"17.3.x-{target}-ml-scala2.13" for target in ("cpu", "gpu")}
    assert len({variables(target)["wheels"] for target in BUNDLE["targets"]}) == 2  # Horovods of the same name
    assert set(BUNDLE) == {"bundle", "variables", "targets", "resources"}
    used = set(re.findall(r"\$\{var\.(\w+)\}", json.dumps(JOB)))
    assert used == set(BUNDLE["variables"])


@pytest.mark.parametrize("key", TASKS)
def test_each_task_reads_the_settings_and_the_raw_files(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pipeline.yaml"
    columns = {name: name for name in ("order_id", "item_id", "user_id", "time", "quantity", "price")}
    file.write_text(f"training: {{ranks: 2, epochs: 3}}\ningest: {{columns: {json.dumps(columns)}}}\n")
    known = variables() | {"settings": str(file)}
    got: list[Settings] = []

    def run(settings: Settings) -> dict[str, Any]:
        got.append(settings)
        return {}

    monkeypatch.setattr(f"jobs.{key}.run", run)
    words = filled_in(TASKS[key]["python_wheel_task"]["parameters"], known)
    result = CliRunner().invoke(main.build_app(), words)
    assert result.exit_code == 0, result.output
    (settings,) = got
    assert settings.training.epochs == 3
    assert settings.ingest.path == known["raw"]
    assert (settings.tables.root, settings.run_dir) == (known["root"], known["run_dir"])
    assert settings.training.launcher == ("barrier" if key == "train" else "local")


def test_a_task_waits_for_tasks_that_are_there() -> None:
    before: set[str] = set()
    for key, task in TASKS.items():
        assert {wanted["task_key"] for wanted in task.get("depends_on", [])} <= before, key
        before.add(key)
    entry = {
        (task["python_wheel_task"]["package_name"], task["python_wheel_task"]["entry_point"]) for task in TASKS.values()
    }
    assert entry == {("millrace", "millrace")}


# A Python of 3.12 whose pip writes down what it is asked for; our own part runs in this test's Python.
PYTHON = """#!/bin/sh
case "$*" in
    -c*torch*) exit "${NO_TORCH:-0}" ;;
    -c*) echo 312 ;;
    "-m pip install"*) echo "$@" >>"$PLACE/asked" ;;
    *) exec "$REAL" "$@" ;;
esac
"""


def install(place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The init script, as it runs on a node."""
    python = place / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    own = {"PLACE": str(place), "REAL": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / "cluster" / "install_on_runtime.sh"), str(python), str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | own | variables)


def test_the_init_script_is_the_one_that_installs() -> None:
    cluster = JOB["job_clusters"][0]["new_cluster"]
    assert cluster["init_scripts"] == [{"volumes": {"destination": "${var.wheels}/install_on_runtime.sh"}}]
    assert cluster["spark_env_vars"] == {"MILLRACE_WHEELS": "${var.wheels}"}
    assert "MILLRACE_WHEELS" in (ROOT / "cluster" / "install_on_runtime.sh").read_text()
    assert all("libraries" not in task for task in TASKS.values())


def test_the_runtimes_own_packages_are_left_alone(tmp_path: Path) -> None:
    for wheel in ("millrace-0.1.0-py3-none-any", "horovod-0.28.1-cp312-cp312-linux_x86_64"):
        (tmp_path / f"{wheel}.whl").touch()
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    first, *rest = (tmp_path / "asked").read_text().splitlines()
    assert "--no-deps" in first
    for name in ("millrace-0.1.0-", "horovod-0.28.1-cp312-", "petastorm==0.12.1 six"):
        assert name in first
    assert rest == []  # nothing else is missing here
    assert re.search(r"installed beside .*numpy==\d.* pyarrow==\d.* torch==\d", done.stdout)


def test_a_wheel_for_another_python_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "millrace-0.1.0-py3-none-any.whl").touch()
    (tmp_path / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").touch()
    done = install(tmp_path)
    assert done.returncode == 1
    assert f"there is no horovod-*-cp312-*.whl in {tmp_path}. Build it on a node" in done.stderr
    assert not (tmp_path / "asked").exists()


def test_a_runtime_without_torch_is_told_to_get_the_one_that_horovod_was_built_against(tmp_path: Path) -> None:
    for wheel in ("millrace-0.1.0-py3-none-any", "horovod-0.28.1-cp312-cp312-linux_x86_64"):
        (tmp_path / f"{wheel}.whl").touch()
    done = install(tmp_path, NO_TORCH="1")
    assert done.returncode == 1
    assert f"{tmp_path}/python has no torch, and Horovod is compiled against one" in done.stderr
    assert not (tmp_path / "asked").exists()
