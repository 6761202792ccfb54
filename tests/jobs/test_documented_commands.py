"""What README and docs tell people to type is there: commands, their options, and the settings that flags name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from jobs.main import build_app
from jobs.settings import Settings
from jobs.tasks import TASKS
from training.configs import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
CODE = re.compile(r"`([^`\n]+)`|^    (\S.*)$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w.{])([a-z_]+)\.([a-z_]+)=")


def typed(page: Path) -> list[str]:
    """What stands as code on a page, a line each."""
    return [inline or line for inline, line in CODE.findall(page.read_text(encoding="utf-8").replace("\\\n", " "))]


def options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


def wrong(line: str) -> list[str]:
    """Commands and options in a line that nothing answers to."""
    found = []
    for name in re.findall(r"^millrace ([a-z][a-z_-]*)", line):
        known = options(COMMANDS[name]) if name in COMMANDS else None
        found += [f"millrace {name}"] if known is None else [o for o in asked_for(line) if o not in known]
    for name in re.findall(r"^python -m jobs\.([a-z_]+)", line):
        module = importlib.import_module(f"jobs.{name}")
        own = getattr(module, "command", None)
        command = COMMANDS[name.replace("_", "-")] if own is None else single(own)
        found += [option for option in asked_for(line) if option not in options(command)]
    return found


def single(function: Any) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return typer.main.get_command(app)


def asked_for(line: str) -> list[str]:
    return re.findall(r"(?<!\S)--[a-z][a-z-]*", line.partition(" #")[0])


def unknown_settings(text: str) -> list[str]:
    models = {"name"}.union(*(config.model_fields for config in CONFIGS.values()))
    found = []
    for section, key in FLAG.findall(text):
        field = Settings.model_fields.get(section)
        kind = field.annotation if field is not None else None
        of_tasks = [task.sections[section].model_fields for task in TASKS.values() if section in task.sections]
        names = models if section == "model" else set(kind.model_fields).union(*of_tasks) if is_section(kind) else None
        found += [f"{section}.{key}"] if names is not None and key not in names else []
    return found


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_options_and_settings_are_there(page: Path) -> None:
    lines = typed(page)
    assert [problem for line in lines for problem in wrong(line)] == []
    assert [problem for line in lines for problem in unknown_settings(line)] == []


def test_what_is_not_there_is_noticed() -> None:
    assert wrong("millrace trian --settings a.yaml") == ["millrace trian"]
    assert wrong("millrace train --setting a.yaml") == ["--setting"]
    assert wrong("python -m jobs.verify_epoch --table t --worlds 3") == ["--worlds"]
    assert unknown_settings("training.epoch=3 training.epochs=3 model.dims=1") == ["training.epoch", "model.dims"]


def test_the_workflow_of_databricks_runs_commands_that_are_there() -> None:
    bundle = yaml.safe_load((ROOT / "cluster" / "databricks" / "databricks.yml").read_text(encoding="utf-8"))
    for task in bundle["resources"]["jobs"]["millrace"]["tasks"]:
        name, *rest = task["python_wheel_task"]["parameters"]
        assert name in COMMANDS
        assert [option for option in asked_for(" ".join(rest)) if option not in options(COMMANDS[name])] == []
        assert unknown_settings(" ".join(rest)) == []
