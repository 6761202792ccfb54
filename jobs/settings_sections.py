"""The sections of a pipeline's settings: what each holds, within which bounds, and what it means."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs.places import AttachmentName, FolderName, LocalFile, LocalFolder, SchemaName, TablesRoot
from jobs.settings_base import Moment, Section
from jobs.settings_sources import Kind
from training.settings import DeviceChoice, FitSettings


class SparkSettings(Section):
    """The session that a job starts when none is active (one machine); a cluster's own session is left as it is."""

    master: str = Field(
        "local[*]", description="Spark's master of one machine, or a Spark Connect server, sc://host:port"
    )
    driver_memory: str = Field("3g", description="of the JVM, with its unit: m or g")
    shuffle_partitions: int = Field(8, ge=1, le=1_000_000, description="partitions of a shuffle")


class TableSettings(Section):
    """Where the Delta tables lie."""

    root: TablesRoot = Field("out/tables", description="a folder or object-store URL; each table is a folder below it")
    catalogue: SchemaName | None = Field(
        None, description="a catalogue's schema in which each table has a name too, e.g. main.shop; default: in none"
    )
    quarantine_limit: float = Field(0.05, ge=0, le=1, description="share of bad rows past which a job stops")


class ShopSettings(Section):
    """The simulated shop (jobs/simulate.py): tastes are planted, so the right answers are known."""

    users: int = Field(2_000, ge=10, le=1_000_000_000, description="customers")
    items: int = Field(600, ge=20, le=100_000_000, description="items of the catalogue")
    days: int = Field(180, ge=30, le=36_500, description="days that the shop is open")
    orders_per_user: float = Field(12.0, gt=0, le=100_000, description="orders of a customer over all days, on average")
    tastes: int = Field(12, ge=2, le=10_000, description="number of latent tastes")
    start: Moment = Field(datetime(2025, 1, 1), description="the first day")
    seed: int = Field(0, ge=0, lt=2**63, description="decides everything that is drawn")

    @field_validator("tastes")
    @classmethod
    def _tastes(cls, tastes: int, info: ValidationInfo) -> int:
        items = info.data.get("items", tastes)  # none: it is wrong itself
        if tastes > items:
            raise ValueError(f"each taste needs an item, and there are {items}; set tastes to that at most")
        return tastes


class SimulateSettings(Section):
    """What the simulated shop has beside its order lines: see docs/simulated_shop.md."""

    scenes: tuple[
        Literal[
            "fraud",
            "demand",
            "impressions",
            "reviews",
            "messages",
            "items",
            "pictures",
            "graph",
            "ads",
            "pacing",
            "visits",
            "texts",
        ],
        ...,
    ] = Field((), max_length=100, description="scenes whose raw tables are made too")


def _purchases() -> dict[Kind, float]:
    return {"purchase": 1.0}


class ExampleSettings(Section):
    """Lines to examples: what is held out, and how their files are laid out.

    Attributes:
        LATER: fields that came later: they are an input of a build only where they are not their default, so that what
            was built before stays.
        APART: fields that are no input of a build as they stand: what they mean is one.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()
    APART: ClassVar[frozenset[str]] = frozenset()

    test_from: Moment | None = Field(
        None, description="what happens from here on is held out; default: the last tenth of the time"
    )
    validation_days: int = Field(30, ge=1, le=36_500, description="days before test_from that tuning is judged on")
    rows_per_file: int = Field(1_000_000, ge=1_000, le=2**31 - 1, description="rows of a Parquet file, at most")
    rows_per_group: int = Field(
        50_000, ge=100, le=2**31 - 1, description="rows of a Parquet row group: the unit that training streams"
    )


class EventExamples(ExampleSettings):
    """Of a task whose lines are events."""

    APART: ClassVar[frozenset[str]] = frozenset({"weights"})

    weights: dict[Kind, Annotated[float, Field(gt=0, le=1_000_000)]] = Field(
        default_factory=_purchases,
        min_length=1,
        description="what an event is worth by its kind, in histories and targets alike, e.g. {purchase: 1, cart: 0.3, "
        "view: 0.1}; kinds without a weight are in neither, and lists are judged by the kind that weighs most",
    )

    @field_validator("weights")
    @classmethod
    def _teaching(cls, weights: dict[Kind, float]) -> dict[Kind, float]:
        if "question" in weights:
            raise ValueError("from events of the kind question nothing is learnt; leave it out")
        return weights


def weights_of(examples: ExampleSettings) -> dict[Kind, float]:
    """What an event is worth by its kind; nothing of a task whose lines are none."""
    return examples.weights if isinstance(examples, EventExamples) else {}


class TrainingSettings(FitSettings):
    """How a model is fitted, where, on how many ranks, and who watches."""

    tuned: bool = Field(False, description="train with the values that tune has found (best.json) over those set here")
    ranks: int = Field(2, ge=1, le=100_000, description="processes that train together")
    launcher: Literal["local", "spark", "barrier"] = Field(
        "local", description="local: this machine; spark, barrier: ranks beside Spark's tasks"
    )
    timeout_s: float = Field(3600, gt=0, le=10_000_000, description="seconds; a fit that takes longer is stopped")
    stall_s: float = Field(
        300, gt=0, le=10_000_000, description="seconds that ranks wait for one that does not come to a collective"
    )
    restarts: int = Field(1, ge=0, le=1_000, description="times a fit starts again from its checkpoint")
    reader_workers: int = Field(2, ge=1, le=1_000, description="threads of a rank that read and decode")
    shuffle_rows: int = Field(100_000, ge=1, le=2**31 - 1, description="rows, over all ranks, that are mixed at a time")
    shuffle_mb: float | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="MB that these rows take, over all ranks, at most: where rows are long",
    )
    start_from: LocalFolder | None = Field(
        None, description="a bundle's folder, of the same model: training begins with its weights; every rank reads it"
    )
    attachments: dict[AttachmentName, LocalFile] = Field(
        default_factory=dict,
        max_length=100,
        description="files that go with the bundle, by the names that they get there, e.g. {limits.json: out/l.json}",
    )
    cache_gb: float = Field(0, ge=0, le=1_000_000, description="GB of decoded rows that a rank keeps for later epochs")
    cache_dir: LocalFolder | None = Field(None, description="a folder on a local disk to keep them in; none: in memory")
    device: DeviceChoice = Field("auto", description="auto: GPUs where every rank has one to itself, else the CPU")
    timeline: bool = Field(False, description="Horovod's timeline of all collectives: run_dir/timeline.json")
    tensorboard: bool = Field(False, description="curves for TensorBoard in run_dir/tensorboard")
    mlflow: bool = Field(False, description="a run in MLflow")
    mlflow_uri: str = Field("", description="MLflow's tracking URI, without credentials; default: MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field("", description="the experiment's name; default: the task and the model")


class TuningSettings(Section):
    """The Optuna study over the training."""

    trials: int = Field(8, ge=0, le=1_000_000, description="trainings of the study in all; 0: no study")
    study: FolderName = Field(
        "", description="the study's name; another name starts afresh; default: the task and the model"
    )
    storage: str = Field("", description="an Optuna storage URL, or journal:PATH; default: SQLite beside the run")
    space: dict[str, dict[str, Any] | None] = Field(
        default_factory=dict,
        description="ranges over those of the fields, e.g. {model.dim: {choices: [32, 64]}}; null holds a field",
    )
    metric: str = Field("recall_at_20", description="of the validation, that the study makes as high as it can")
    epochs: int = Field(3, ge=1, le=1_000_000, description="epochs of a trial at most")
    pruner: Literal["median", "hyperband", "none"] = Field("median", description="which trials are given up early")
    pruner_warmup: int = Field(1, ge=0, le=1_000_000, description="epochs before a trial may be pruned")
    seed: int = Field(0, ge=0, lt=2**32, description="decides what the study proposes")


class EvaluationSettings(Section):
    """How answers to what is held out are judged."""

    bootstrap: int = Field(1_000, ge=100, le=1_000_000, description="resamples of what is judged, for the intervals")
    bundles: tuple[LocalFolder, ...] = Field(
        (), max_length=20, description="folders of further bundles, judged beside the latest one of run_dir"
    )


class CompressSettings(Section):
    """A smaller bundle of a bundle: see docs/compression.md."""

    method: Literal["int8", "int4", "none"] = Field(
        "int8", description="bits of a number of an embedding table; none: the trained bundle answers again"
    )
    bundle: LocalFolder | None = Field(None, description="a bundle's folder; default: the last trained one of run_dir")
    least_share: float = Field(
        0.99, gt=0, le=1, description="of the task's first metric, what a smaller bundle must keep to be taken"
    )
    publish: bool = Field(False, description="score and evaluate go by the smaller bundle from then on")


class ScoringSettings(Section):
    """What is answered as of a moment, and what must hold of it to be published.

    Attributes:
        LATER: fields that came later: they are an input of answers only where they are not their default, so that what
            was answered before stays.
        UNDECISIVE: fields that decide nothing of the answers beside the moment, which is an input of its own.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"since"})
    UNDECISIVE: ClassVar[frozenset[str]] = frozenset(
        {"moment", "buckets", "dry_run", "most_fallback", "most_drift", "least_coverage"}
    )

    moment: Moment | None = Field(
        None, description="all is answered by what was known then; default: just after the last line"
    )
    since: Moment | None = Field(
        None,
        description="only users with an event that happened or arrived since then are answered, others keep "
        "the answers of earlier moments; default: everybody",
    )
    buckets: int = Field(
        1,
        ge=1,
        le=10_000,
        description="parts that are answered one after the other: a job that was killed goes on with those missing",
    )
    dry_run: bool = Field(False, description="say what the score would take, and write nothing")
    most_fallback: float | None = Field(
        None, ge=0, le=1, description="share of answers that are not the model's past which nothing is published"
    )
    least_coverage: float | None = Field(
        None, ge=0, le=1, description="share of what is asked that must have an answer, else nothing is published"
    )
    most_drift: float | None = Field(
        None, ge=0, le=1, description="how far answers may move from those before, else nothing is published; 1: any"
    )

    def inputs(self) -> dict[str, Any]:
        """What of it decides answers as of a moment."""
        unused = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude={*self.UNDECISIVE, *unused})


class FeedbackSettings(Section):
    """What was shown against what then happened."""

    moment: Moment | None = Field(None, description="the moment of the recommendations; default: the latest scored")
    window_days: float = Field(14.0, gt=0, le=36_500, description="days after a showing that an outcome belongs to it")


class ErasureSettings(Section):
    """How long what persons were erased from may be read as it was before."""

    horizon_hours: float = Field(
        0, ge=0, le=876_000, description="hours that old versions of tables stay; 0: they are removed at once"
    )


# The sections that every task has with keys of its own (`Task.sections`), and what each holds for all.
OWN: dict[str, type[Section]] = {
    "options": Section,
    "examples": ExampleSettings,
    "evaluation": EvaluationSettings,
    "scoring": ScoringSettings,
}
