"""Fraud: how likely a registration, a payment or any other case is one, when its label comes later or never.

A case names entities (a network address, a device, an e-mail domain). An example is a case whose label was known before
the cut, with what was known of its entities at its own moment; a model of rows learns the probability; validation
measures how well it ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.column_names import LONGEST, NAME, are_numbers, matching, ours_of
from jobs.settings_base import Section
from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.task_live import Live
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings
    from training.world import World

COUNTS = (
    "rows", "rows_1d", "rows_7d", "rows_30d", "labels", "frauds", "frauds_7d", "frauds_30d", "days_since",
    "days_since_fraud", "rate", "unseen",
)  # fmt: skip
MEAN_DAYS = (1, 7, 30)
CALENDAR = ("hour_sine", "hour_cosine", "weekend")
METRICS = ("average_precision", "auc")
SHOWN = ("loss", *METRICS)
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=LONGEST)]
MOST_ENTITIES, MOST_NUMBERS = 20, 500
MANY_ROWS, FEW_VALUES = 10, 3  # of a column of flags or classes
HAS: dict[str, str] = {"case_id": "string", "arrival_time": "timestamp?", "label_time": "timestamp?"}
OWN = ("case_id", "time", "arrival_time", "label", "label_time", "fraud", "weight", "split", "known_at", "piece")


class FraudOptions(Section):
    """What only fraud has."""

    entities: tuple[Name, ...] = Field(
        ("ip_address",),
        min_length=1,
        max_length=MOST_ENTITIES,
        description="columns of `cases` that many cases share; the first one is the main one",
    )
    numbers: tuple[Name, ...] = Field((), max_length=MOST_NUMBERS, description="columns of `cases` that are numbers")
    means: tuple[Name, ...] = Field(
        (),
        max_length=20,
        description="numbers whose means over an entity's cases of 1, 7 and 30 days are features too, e.g. [amount]",
    )
    calendar: bool = Field(
        False, description="whether the hour, as a point on a circle, and weekends are features (UTC)"
    )
    ids: tuple[Name, ...] = Field(
        (), max_length=100, description="columns of `cases` that the model learns a vector of, such as a country"
    )
    has: tuple[Literal["case_id", "arrival_time", "label_time"], ...] = Field(
        ("case_id",),
        description="further columns of `cases`; without case_id, what a case holds names it, without arrival_time it "
        "was there at once",
    )
    label_delay_days: float = Field(
        7, ge=0, le=3_650, description="days until a label is known; with label_time: at the latest"
    )
    prior: float = Field(
        0.05, gt=0, lt=1, description="the fraud rate of an entity without a known label; counts as one label"
    )
    alarm_share: float = Field(0.05, gt=0, lt=1, description="share of cases that can be looked at")
    tree_rows: int = Field(
        200_000, ge=100, le=10_000_000, description="examples, drawn by hash, that the boosted trees learn from"
    )

    @field_validator("entities", "numbers", "ids")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({*names} & {*OWN})
        if taken or len({*names}) < len(names):
            raise ValueError(f"names must differ from each other and from {', '.join(OWN)}")
        return names

    @model_validator(mode="after")
    def _means_of_numbers(self) -> Self:
        if strangers := [name for name in self.means if name not in self.numbers]:
            raise ValueError(f"means has '{strangers[0]}', which numbers has not; name it there too")
        return self


def guesses(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Numbers with fractions are amounts, and all else that is no id, time or label may be what cases share.

    As long as nobody knows which column is the time or the label, none is what cases share: it might be one of these.
    """
    named = {name: matching(name, list(columns)) for name in ("case_id", "time", "label", *HAS)}
    own = {name: columns[column] for name, column in ours_of(list(columns)).items() if column not in named.values()}
    rest = {name: said for name, said in own.items() if _may_be_asked(name)}
    numbers = [name for name, said in rest.items() if _are_amounts(said)]
    shared = [name for name, said in rest.items() if name not in numbers and not _are_classes(said)]
    entities = shared[:MOST_ENTITIES] if named["time"] and named["label"] else []
    guessed = {"entities": entities} if entities else {}
    means = [name for name in numbers[:MOST_NUMBERS] if re.search("amount|price|value", name)] or numbers
    has = [name for name in HAS if named[name]]
    return guessed | {"numbers": numbers[:MOST_NUMBERS], "means": means[:1], "has": has}


def _may_be_asked(name: str) -> bool:
    """Whether a column may be known of a case when it comes: not what tells of labels and times."""
    return name not in OWN and not re.search("fraud|label|class|time|date", name)


def _are_classes(said: Sequence[str]) -> bool:
    """Whether many rows say a few things alone, as those of flags and classes do."""
    texts = [text.strip() for text in said if text.strip()]
    return len(texts) >= MANY_ROWS and len({*texts}) <= FEW_VALUES


def _are_amounts(said: Sequence[str]) -> bool:
    return are_numbers(said) and any(set(text) & {*".,eE"} for text in said)


def options_of(settings: Settings) -> FraudOptions:
    """The task's own settings."""
    assert isinstance(settings.options, FraudOptions)
    return settings.options


def known_of_entities(options: FraudOptions) -> list[str]:
    """The features of what was known of entities."""
    means = [f"{number}_mean_{days}d" for number in options.means for days in MEAN_DAYS]
    return [f"{entity}_{name}" for entity in options.entities for name in (*COUNTS, *means)]


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Cases; a label that is null is not known."""
    options = options_of(settings)
    cases: dict[str, str] = {name: kind for name, kind in HAS.items() if name in options.has}
    cases |= {"time": "timestamp", "label": "boolean?"}
    texts = dict.fromkeys((*options.entities, *options.ids), "string?")
    return {"cases": cases | texts | dict.fromkeys(options.numbers, "double?")}


def kinds(settings: Settings) -> dict[str, str]:
    """A vocabulary for each column of ids."""
    return {name: name for name in options_of(settings).ids}


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included."""
    options = options_of(settings)
    return Schema(
        (
            *(Column(name, Kind.ID, vocabulary=name, size=sizes[name]) for name in options.ids),
            *(Column(name, Kind.DENSE) for name in known_of_entities(options)),
            *(Column(name, Kind.DENSE, fill=0.0) for name in options.numbers),
            *(Column(name, Kind.DENSE) for name in CALENDAR if options.calendar),
            Column("label", Kind.LABEL),
            Column("weight", Kind.WEIGHT),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of rows on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task, model_of_rows

    return fit_task(spec, world, make_model=model_of_rows, make_validation=validation, shown=SHOWN)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """Average precision and AUC of the cases held out, counted on each rank and added up; None where none is asked."""
    from jobs.validation import validation_of_probabilities

    return validation_of_probabilities(spec, columns, world, names=METRICS)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """Average precision and AUC, and what an investigator gets."""
    return Headline(
        judged={"average precision": "average_precision", "AUC": "auc"},
        beside={
            "recall at 1 % false alarms": "recall_at_1_percent_false_alarms",
            "precision at budget": "precision_at_budget",
            "log loss": "log_loss",
            "calibration error": "calibration_error",
            "predicted / actual": "predicted_to_actual",
        },
        rows="cases",
        lower=("log_loss", "calibration_error"),
    )


def numbers(settings: Settings) -> list[str]:
    """The columns of ids, without those of persons: one that was erased changes no other's number."""
    held = said_persons(settings, "cases")
    return [name for name in kinds(settings) if name not in held]


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns of `cases` that the settings name; what is made of cases has no id but the case's."""
    held = said_persons(settings, "cases")
    if not held:
        return {}
    return {
        "cases": dict.fromkeys(held, BY_ID),
        **{name: {"case_id": BY_LINE} for name in ("examples", "queries", "fraud_scores", "fraud_live_waiting")},
        "fraud_live": {"case_id": BY_LINE, **dict.fromkeys(held, BY_ID)},
        **{f"fraud_live_{name}": {"entity": BY_ID} for name in ("facts", "sums")},
        **{f"vocabulary_{name}": {"id": BY_ID} for name in kinds(settings) if name in held},
    }


TASK = Task(
    name="fraud",
    what="how likely a case is fraud, from what was known of its entities at its moment",
    row="case",
    options=FraudOptions,
    reads=reads,
    asks=(),
    kinds=kinds,
    numbers=numbers,
    key=("case_id",),
    spread=1,
    schema=schema,
    model="row_mlp",
    learn="jobs.tasks.fraud:learn",
    metrics=METRICS,
    on_spark="jobs.tasks.fraud_on_spark",
    headline=headline,
    answered=("key", "p"),
    table="fraud_scores",
    answer=("case_id", "time", "p", "alarm", "reasons"),
    columns=AnswerColumns("case_id", ((),), ("p",), "p"),
    persons=persons,
    demo=Demo("fraud_shop", "fraud", "sources.cases.path"),
    simulated={"cases": "payments"},
    training={"ranks": 2, "epochs": 20, "batch_size": 256},  # frauds are few, and a network needs many steps for them
    guesses=guesses,
    live=Live(
        follows="cases",
        key="case_id",
        table="fraud_live",
        answer={"p": "double", "alarm": "boolean", "reasons": "array<string>"},
        on_stream="jobs.tasks.fraud_live",
        later=("label", "label_time"),
    ),
)
