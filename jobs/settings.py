"""A pipeline's settings: one YAML file, flags over it, checked once, every problem reported together.

    task: recommend
    tables: {root: out/tables}
    training: {epochs: 6, ranks: 2}

A flag is `section.key=value`, its value read as YAML: `training.epochs=3`, `evaluation.ks=[10,20]`.
"""

from __future__ import annotations

import difflib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from training.device import DeviceChoice
from training.errors import SettingsError
from training.fit import FitSettings

DEFAULT_MODEL = "two_tower"


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SparkSettings(Section):
    """The session that a job starts when none is active (one machine); a cluster's own session is left as it is."""

    master: str = "local[*]"
    driver_memory: str = "3g"
    shuffle_partitions: int = Field(8, ge=1)


class TableSettings(Section):
    """Where the Delta tables lie."""

    root: str = Field("out/tables", description="a folder or object-store URL; each table is a folder below it")
    quarantine_limit: float = Field(0.05, ge=0, le=1, description="share of bad rows past which a job stops")


class ShopSettings(Section):
    """The simulated shop (jobs/simulate.py): tastes are planted, so the right answers are known."""

    users: int = Field(2_000, ge=10)
    items: int = Field(600, ge=20)
    days: int = Field(180, ge=30)
    orders_per_user: float = Field(12.0, gt=0)
    tastes: int = Field(12, ge=2, description="number of latent tastes")
    start: datetime = datetime(2025, 1, 1)
    seed: int = Field(0, ge=0)


class IngestSettings(Section):
    """Raw files to events, items and users. `columns` maps our names to the file's."""

    path: str | None = Field(None, description="file, folder or glob of the order lines; none: the simulated shop")
    format: Literal["csv", "json", "parquet", "delta"] = "csv"
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="order_id, item_id, user_id, time, quantity, price; optionally name, country, kind, arrival_time",
    )
    time_format: str = "yyyy-MM-dd HH:mm:ss"
    cancelled_prefix: str | None = Field(None, description="an order id that starts with this is a return")
    item_pattern: str | None = Field(None, description="a regular expression; other item ids are charges, not products")
    now: datetime | None = Field(None, description="rows later than this lie in the future; default: the clock")


class ExampleSettings(Section):
    """Events to examples: what is held out, and how much history an example carries."""

    test_from: datetime | None = Field(
        None, description="events from here on are held out; default: the last tenth of the time"
    )
    validation_days: int = Field(30, ge=1, description="days before test_from that tuning is judged on")
    max_history: int = Field(100, ge=1, le=10_000)
    recent_days: int = Field(30, ge=1, description="the window of an item's recent count")
    rows_per_file: int = Field(1_000_000, ge=1_000)
    rows_per_group: int = Field(
        50_000, ge=100, description="rows of a Parquet row group: the unit that training streams"
    )


class TrainingSettings(FitSettings):
    """How a model is fitted, where, on how many ranks, and who watches."""

    tuned: bool = Field(False, description="train with the values that tune has found (best.json) over those set here")
    ranks: int = Field(2, ge=1)
    launcher: Literal["local", "spark", "barrier"] = "local"
    timeout_s: float = Field(3600, gt=0, description="a fit that takes longer is stopped and named")
    restarts: int = Field(1, ge=0, description="times a fit is started again from its checkpoint after a rank is lost")
    reader_workers: int = Field(2, ge=1)
    shuffle_rows: int = Field(100_000, ge=1, description="rows, over all ranks, that are mixed at a time")
    cache_gb: float = Field(0, ge=0, description="what a rank may keep of decoded rows for later epochs; 0: nothing")
    cache_dir: str | None = Field(None, description="a folder on a local disk to keep them in; none: in memory")
    device: DeviceChoice = Field("auto", description="auto: GPUs where every rank has one to itself, else the CPU")
    timeline: bool = Field(False, description="Horovod's timeline of all collectives: run_dir/timeline.json")
    tensorboard: bool = Field(False, description="curves for TensorBoard in run_dir/tensorboard")
    mlflow: bool = Field(False, description="a run in MLflow")
    mlflow_uri: str = Field("", description="MLflow's tracking URI, without credentials; default: MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("", description="the experiment's name; default: the task and the model")


class TuningSettings(Section):
    """The Optuna study over the training."""

    trials: int = Field(8, ge=0)
    study: str = Field("", description="the study's name; another name starts afresh; default: the task and the model")
    storage: str = Field("", description="an Optuna storage URL, or journal:PATH; default: SQLite beside the run")
    space: dict[str, dict[str, Any] | None] = Field(
        default_factory=dict,
        description="ranges over those of the fields, e.g. {model.dim: {choices: [32, 64]}}; null holds a field",
    )
    metric: str = "recall_at_20"
    epochs: int = Field(3, ge=1, description="epochs of a trial at most")
    pruner: Literal["median", "hyperband", "none"] = "median"
    pruner_warmup: int = Field(1, ge=0, description="epochs before a trial may be pruned")
    seed: int = Field(0, ge=0)


class EvaluationSettings(Section):
    """Full ranking over the catalogue, against baselines on the same split."""

    ks: tuple[int, ...] = (5, 10, 20, 50)
    bootstrap: int = Field(1_000, ge=100, description="resamples of users for the intervals")
    baselines: tuple[Literal["popularity", "recent_popularity", "item_item", "als"], ...] = (
        "popularity",
        "recent_popularity",
        "item_item",
        "als",
    )
    als_rank: int = Field(64, ge=1)
    als_iterations: int = Field(15, ge=1)
    als_alpha: float = Field(1.0, gt=0)
    als_regularisation: float = Field(0.1, ge=0)

    @field_validator("ks")
    @classmethod
    def _ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or min(ks) < 1:
            raise ValueError("needs at least one K, each at least 1")
        return tuple(sorted(set(ks)))


class ScoringSettings(Section):
    """Top-K for every user."""

    k: int = Field(20, ge=1)
    exclude_seen: bool = Field(True, description="leave out what the user has bought")
    cold_users: Literal["recent_popularity", "skip"] = "recent_popularity"
    moment: datetime | None = Field(None, description="histories are as of then; default: just after the last event")


class FeedbackSettings(Section):
    """What was shown against what then happened."""

    moment: datetime | None = Field(None, description="the moment of the recommendations; default: the latest scored")
    window_days: float = Field(14.0, gt=0, description="an outcome this long after a showing still belongs to it")


class Settings(Section):
    """A whole pipeline."""

    task: str = "recommend"
    run_dir: str = Field("out/run", description="checkpoints, bundle, study, record and report")
    spark: SparkSettings = SparkSettings()
    tables: TableSettings = TableSettings()
    shop: ShopSettings = ShopSettings()
    ingest: IngestSettings = IngestSettings()
    examples: ExampleSettings = ExampleSettings()
    model: dict[str, Any] = Field(default_factory=lambda: {"name": DEFAULT_MODEL}, validate_default=True)
    training: TrainingSettings = TrainingSettings()
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    scoring: ScoringSettings = ScoringSettings()
    feedback: FeedbackSettings = FeedbackSettings()

    @field_validator("task")
    @classmethod
    def _task(cls, task: str) -> str:
        from jobs.tasks import TASKS

        if task not in TASKS:
            raise ValueError(f"unknown task; known: {', '.join(sorted(TASKS))}")
        return task

    @field_validator("model")
    @classmethod
    def _model(cls, model: dict[str, Any]) -> dict[str, Any]:
        from training.models import MODELS

        name = model.get("name", DEFAULT_MODEL)
        if name not in MODELS:
            raise ValueError(f"model.name is {name!r}; known: {', '.join(sorted(MODELS))}")
        config = {key: value for key, value in model.items() if key != "name"}
        return {"name": name, **MODELS[name].Config(**config).model_dump()}


def load_settings(path: str | Path | None = None, flags: list[str] | None = None) -> Settings:
    """Read a YAML file, lay flags over it, and check the whole.

    Args:
        path: the YAML file; None takes the defaults.
        flags: `section.key=value` strings.

    Raises:
        SettingsError: the file is missing or no YAML, or any key or value is wrong; all problems in one message.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    problems = [problem for flag in flags or [] if (problem := _lay_over(values, flag))]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        model = values["model"].get("name", DEFAULT_MODEL) if isinstance(values.get("model"), dict) else DEFAULT_MODEL
        problems += [_explain(item, model) for item in error.errors()]
    if problems:
        where = f" in {path}" if path is not None else ""
        raise SettingsError(
            f"{len(problems)} problem(s) with the settings{where}:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(f"settings file '{path}' does not exist; name a YAML file (jobs/pipelines/ holds examples)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file '{path}' is not YAML: {error}") from error
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
        return f"flag '{flag}': flags are section.key=value, e.g. training.epochs=3"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"flag '{flag}': the value is not YAML; quote it, e.g. {key}='\"...\"'"
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            return f"flag '{flag}': '{section}' is a value, not a section"
        values = inner
    values[last] = value
    return None


def _explain(item: Any, model: str) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key (value {item['input']!r}); {_did_you_mean(item['loc'], model)}"
    return f"{place}: {item['msg']} (value {item['input']!r})"


def _did_you_mean(location: tuple[str | int, ...], model: str) -> str:
    from training.models import MODELS

    section: Any = Settings
    for part in location[:-1]:
        section = MODELS[model].Config if part == "model" else section.model_fields[part].annotation
    known = sorted(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
