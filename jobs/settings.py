"""A pipeline's settings: one YAML file, flags over it, checked once, every problem reported together.

    task: recommend
    tables: {root: out/tables}
    training: {epochs: 6, ranks: 2}

A flag is `section.key=value`, its value read as YAML: `training.epochs=3`, `evaluation.ks=[10,20]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator

from jobs.places import LocalFolder
from jobs.settings_ads import AdsSettings
from jobs.settings_base import Section
from jobs.settings_mapping import unmapped
from jobs.settings_problems import LONGEST, marks, problems
from jobs.settings_quality import QualitySettings
from jobs.settings_sections import (
    OWN,
    CompressSettings,
    ErasureSettings,
    EvaluationSettings,
    ExampleSettings,
    FeedbackSettings,
    ScoringSettings,
    ShopSettings,
    SimulateSettings,
    SparkSettings,
    TableSettings,
    TrainingSettings,
    TuningSettings,
)
from jobs.settings_sources import IngestSettings, TableSource
from jobs.settings_stock import StockSettings
from jobs.settings_stream import StreamSettings
from jobs.yaml_settings import cut, read_yaml, shown
from training.configs import CONFIGS
from training.errors import SettingsError

DEFAULT_TASK = "recommend"
EVENTS = "events"
YAML_MARKS = tuple("\"'[{&*!|>")  # that begin what is no plain text


class Settings(Section):
    """A whole pipeline."""

    task: str = Field(DEFAULT_TASK, description="the problem: a file of jobs/tasks")
    run_dir: LocalFolder = Field("out/run", description="checkpoints, bundle, study, record and report")
    spark: SparkSettings = SparkSettings()
    tables: TableSettings = TableSettings()
    shop: ShopSettings = ShopSettings()
    simulate: SimulateSettings = SimulateSettings()
    ingest: IngestSettings = IngestSettings()
    sources: dict[str, TableSource] = Field(
        default_factory=dict, description="where the tables of a task lie that reads others than events"
    )
    quality: QualitySettings = QualitySettings()
    examples: SerializeAsAny[ExampleSettings] = Field(default_factory=dict, validate_default=True)
    model: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="name, and its own settings; default: the task's"
    )
    options: SerializeAsAny[Section] = Field(
        default_factory=dict, validate_default=True, description="what only this task has"
    )
    training: TrainingSettings = TrainingSettings()
    tuning: TuningSettings = TuningSettings()
    evaluation: SerializeAsAny[EvaluationSettings] = Field(default_factory=dict, validate_default=True)
    compress: CompressSettings = CompressSettings()
    scoring: SerializeAsAny[ScoringSettings] = Field(default_factory=dict, validate_default=True)
    feedback: FeedbackSettings = FeedbackSettings()
    ads: AdsSettings = AdsSettings()
    stock: StockSettings = StockSettings()
    stream: StreamSettings = StreamSettings()
    erasure: ErasureSettings = ErasureSettings()

    @field_validator("task")
    @classmethod
    def _task(cls, task: str) -> str:
        from jobs.tasks import TASKS

        if task not in TASKS:
            raise ValueError(f"unknown task; known: {', '.join(sorted(TASKS))}")
        return task

    @field_validator("model")
    @classmethod
    def _model(cls, model: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = model.get("name", _default_model(info.data.get("task")))
        if not isinstance(name, str) or name not in CONFIGS:
            raise ValueError(f"name is {shown(name)}; known: {', '.join(sorted(CONFIGS))}")
        config = {key: value for key, value in model.items() if key != "name"}
        return {"name": name, **CONFIGS[name](**config).model_dump()}

    @field_validator(*OWN, mode="before")
    @classmethod
    def _own(cls, values: Any, info: ValidationInfo) -> Any:
        from jobs.tasks import TASKS

        name, task = str(info.field_name), info.data.get("task")  # none: it is wrong itself
        return TASKS[task].sections[name].model_validate(values) if task else OWN[name]()

    @field_validator("training")
    @classmethod
    def _metric(cls, training: TrainingSettings, info: ValidationInfo) -> TrainingSettings:
        from jobs.tasks import TASKS

        metric, task = training.metric, info.data.get("task")  # none: it is wrong itself
        known = ("loss", *TASKS[task].metrics) if task else (metric,)
        if metric not in known:
            raise ValueError(f"metric is {shown(metric)}; known: {', '.join(known)}")
        if metric == "loss" and training.metric_mode != "min":
            raise ValueError("metric_mode is 'max', and the best epoch by the loss has the least; set min")
        return training


def load_settings(path: str | Path | None = None, flags: list[str] | None = None) -> Settings:
    """Read a YAML file, lay flags over it, and check the whole.

    Args:
        path: the YAML file; None takes the defaults.
        flags: `section.key=value` strings.

    Raises:
        SettingsError: the file is missing or no YAML, or any key or value is wrong; all problems in one message.
    """
    values = _read_file(Path(path)) if path is not None else {}
    found = [problem for flag in flags or [] if (problem := _lay_over(values, flag))]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        given = values.get("model")
        model = {"name": _default_model(values.get("task", DEFAULT_TASK))} | (given if isinstance(given, dict) else {})
        found += problems(error, Settings, values | {"model": model}, _own_of(values))
    found += marks(values)
    if _reads_events(values):
        found += unmapped(values.get("ingest"))
    if found:
        where = f" in {path}" if path is not None else ""
        raise SettingsError(
            f"{len(found)} problem(s) with the settings{where}:\n" + "\n".join(f"  - {line}" for line in found)
        )
    return settings


def flags_of_file(path: str | Path) -> list[str]:
    """A YAML file's settings as `section.key=value`, for who lays others under them.

    Raises:
        SettingsError: the file is missing or no YAML, or a section of it has no keys.
    """
    flags = []
    for name, section in _read_file(Path(path)).items():
        if not isinstance(section, dict):
            raise SettingsError(f"settings file '{path}' must hold sections of keys; '{name}' has none")
        flags += [f"{name}.{key}={json.dumps(value, default=str)}" for key, value in section.items()]
    return flags


def _default_model(task: Any) -> str:
    """The model that a task takes; of one that is wrong itself, the first task's."""
    from jobs.tasks import TASKS

    return TASKS[task if isinstance(task, str) and task in TASKS else DEFAULT_TASK].model


def _reads_events(values: dict[str, Any]) -> bool:
    """Whether the task reads what `ingest` makes; another leaves that section alone."""
    from jobs.tasks import TASKS

    task = values.get("task", DEFAULT_TASK)
    return isinstance(task, str) and task in TASKS and EVENTS in TASKS[task].tables(Settings(task=task))


def _own_of(values: dict[str, Any]) -> Mapping[str, type[Section]]:
    """The classes of the sections that are the task's own, for what may be meant by a key."""
    from jobs.tasks import TASKS

    task = values.get("task", DEFAULT_TASK)
    return TASKS[task].sections if isinstance(task, str) and task in TASKS else OWN


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"settings file '{path}' does not exist; name a YAML file (jobs/pipelines/ holds examples)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"settings file '{path}' is not YAML: {error}") from error
    values = read_yaml(text, f"settings file '{path}'")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"settings file '{path}' must hold sections, e.g. 'training: {{epochs: 3}}'; it holds a "
            f"{type(values).__name__}"
        )
    return values


def _lay_over(values: dict[str, Any], flag: str) -> str | None:
    """Set one flag in place; returns what is wrong with it, if anything."""
    key, equals, text = flag.partition("=")
    if not equals or not key:
        return f"flag '{cut(flag)}': flags are section.key=value, e.g. training.epochs=3"
    if len(key) > LONGEST:
        return f"flag '{cut(flag)}': no setting has a name of {len(key):,} characters"
    try:
        # A flag has no comment: what follows a # is a part of it.
        is_plain = " #" in text and text.lstrip()[:1] not in YAML_MARKS
        value = text if is_plain else read_yaml(text, f"flag '{cut(flag)}'")
    except SettingsError as error:
        return f"{error}; a text is quoted: {key}='\"...\"'"
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            return f"flag '{cut(flag)}': '{section}' is a value, not a section"
        values = inner
    values[last] = value
    return None
