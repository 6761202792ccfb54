"""Clicks: how likely somebody who is shown an item clicks it, learned from lists that were shown.

An impression is an item at a place of a list. An example is an impression whose time to be clicked was over before the
cut, with what was known of its user and its item at its own moment. The place tells how many look so far down, not
whether the item attracts; the model takes the two apart (training/models/rows.py), and answers for the first place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.settings_base import Section
from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings
    from training.world import World

ENTITIES = {"user": "user_id", "item": "item_id"}  # of whom is told what was shown and clicked before
COUNTS = ("rows", "rows_1d", "rows_7d", "rows_30d", "labels", "clicks", "clicks_7d", "clicks_30d", "days_since",
          "days_since_click", "rate")  # fmt: skip
METRICS = ("auc", "average_precision")
SHOWN = ("loss", *METRICS)
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=100)]
HAS: dict[str, str] = {"position": "int?", "arrival_time": "timestamp?"}
OWN = (
    "list_id", "user_id", "item_id", "time", "arrival_time", "label", "position", "impression_id", "user", "item",
    "clicked", "clicked_lately", "item_clicked", "label_time", "weight", "split", "known_at", "piece", "fraud", "users",
    "items", "key", "unit", "labels_time", "after", "new_items", "new_users",
    *(f"{entity}_{name}" for entity in ENTITIES for name in COUNTS),
)  # fmt: skip


class ClickOptions(Section):
    """What only click has."""

    numbers: tuple[Name, ...] = Field((), max_length=500, description="columns of `impressions` that are numbers")
    ids: tuple[Name, ...] = Field(
        (), max_length=100, description="columns of `impressions` that the model learns a vector of, such as a device"
    )
    has: tuple[Literal["position", "arrival_time"], ...] = Field(
        ("position",),
        description="further columns of `impressions`; without position all count as shown at one place, without "
        "arrival_time an impression was there at once",
    )
    places: int = Field(50, ge=1, le=10_000, description="places of a list that differ; those below count as the last")
    window_minutes: float = Field(
        30, ge=0, le=525_600, description="minutes in which an impression is clicked, or is not; known only then"
    )
    heads: dict[Name, Annotated[float, Field(gt=0, le=525_600)]] = Field(
        {},
        max_length=8,
        description="further labels of an impression, learnt beside the click by a model of several: name -> minutes "
        "after it was shown in which it counts; the column NAME_time of `impressions` says when it happened, if it did",
    )
    max_history: int = Field(50, ge=1, le=1_000, description="clicks of a user that an example knows, the last ones")
    lately: int = Field(8, ge=1, le=1_000, description="of these, those that count once more as the latest")
    prior: float = Field(0.05, gt=0, lt=1, description="the click rate of who has no impression; counts as one of them")
    tree_rows: int = Field(
        200_000, ge=100, le=10_000_000, description="examples, drawn by hash, that the boosted trees learn from"
    )

    @field_validator("numbers", "ids")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted({name for name in names if name in OWN or names.count(name) > 1}):
            raise ValueError(f"names must differ from each other and from {', '.join(OWN)}; got {', '.join(taken)}")
        return names

    @model_validator(mode="after")
    def _own_columns(self) -> Self:
        times = {f"{name}_time" for name in self.heads}
        if taken := sorted((times | {*self.heads}) & {*OWN, *self.numbers, *self.ids} | times & {*self.heads}):
            raise ValueError(
                f"heads, and with _time behind them, must be no other columns' names; got {taken}; name them otherwise"
            )
        return self


def options_of(settings: Settings) -> ClickOptions:
    """The task's own settings."""
    assert isinstance(settings.options, ClickOptions)
    return settings.options


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Impressions; and lists to be put into order, as the task `recommend` writes them."""
    options = options_of(settings)
    shown: dict[str, str] = {
        "list_id": "string",
        "user_id": "string?",
        "item_id": "string",
        "time": "timestamp",
        "label": "boolean",
    }
    shown |= {name: kind for name, kind in HAS.items() if name in options.has}
    shown |= {f"{name}_time": "timestamp?" for name in options.heads}
    shown |= dict.fromkeys(options.ids, "string?") | dict.fromkeys(options.numbers, "double?")
    listed = {"user_id": "string", "item_id": "string", "rank": "int", "bundle": "string", "moment": "timestamp"}
    return {"impressions": shown, "candidates?": listed}


def kinds(settings: Settings) -> dict[str, str]:
    """Vocabularies of users, of items, and of each column of ids."""
    return {"users": "user_id", "items": "item_id"} | {name: name for name in options_of(settings).ids}


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included."""
    options = options_of(settings)
    places = [Column("position", Kind.POSITION, size=options.places + 1)] if "position" in options.has else []
    items = {"vocabulary": "items", "size": sizes["items"]}
    return Schema(
        (
            Column("user", Kind.ID, vocabulary="users", size=sizes["users"]),
            Column("item", Kind.ID, **items),  # type: ignore[arg-type]
            Column("clicked", Kind.IDS, **items),  # type: ignore[arg-type]
            Column("clicked_lately", Kind.IDS, **items),  # type: ignore[arg-type]
            Column("item_clicked", Kind.DENSE),
            *(Column(name, Kind.ID, vocabulary=name, size=sizes[name]) for name in options.ids),
            *(Column(f"{entity}_{name}", Kind.DENSE) for entity in ENTITIES for name in COUNTS),
            *(Column(name, Kind.DENSE, fill=0.0) for name in options.numbers),
            *places,
            *(Column(name, Kind.LABEL) for name in ("label", *options.heads)),
            Column("weight", Kind.WEIGHT),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of rows on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task, model_of_rows

    return fit_task(spec, world, make_model=model_of_rows, make_validation=validation, shown=SHOWN)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """AUC and average precision of the impressions held out, counted on each rank and added up, of clicks by these
    names and of heads by theirs; None where none is asked."""
    from jobs.validation import validation_of_probabilities

    return validation_of_probabilities(spec, columns, world, names=METRICS)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How true the probabilities are, and how well they rank."""
    return Headline(
        judged={"log loss": "log_loss", "AUC": "auc"},
        beside={
            "AUC within users": "gauc",
            "average precision": "average_precision",
            "calibration error": "calibration_error",
            "predicted / actual": "predicted_to_actual",
        },
        rows="impressions",
        lower=("log_loss", "calibration_error"),
    )


def numbers(settings: Settings) -> list[str]:
    """The items and the columns of ids, without those of persons: one that was erased changes no other's number."""
    held = {"user_id", *said_persons(settings, "impressions")}
    return [kind for kind, column in kinds(settings).items() if column not in held]


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns of `impressions` and `candidates` that the settings name; what is made of a user has that id."""
    held, listed = said_persons(settings, "impressions"), said_persons(settings, "candidates")
    if not held:
        return {}
    by_user = {"user_id": BY_ID} if "user_id" in held else {}
    further = [name for name in options_of(settings).ids if name in held]
    return {
        "impressions": dict.fromkeys(held, BY_ID),
        **({"candidates": dict.fromkeys(listed, BY_ID)} if listed else {}),
        **{name: {"impression_id": BY_LINE, **by_user} for name in ("examples", "queries")},
        "click_scores": by_user,
        **({"vocabulary_users": {"id": BY_ID}} if by_user else {}),
        **{f"vocabulary_{name}": {"id": BY_ID} for name in further},
    }


TASK = Task(
    name="click",
    what="how likely an item that is shown is clicked, and in which order a list should stand",
    row="impression",
    options=ClickOptions,
    reads=reads,
    asks=(),
    kinds=kinds,
    numbers=numbers,
    key=("impression_id",),
    spread=1,
    schema=schema,
    model="dlrm",
    learn="jobs.tasks.click:learn",
    metrics=METRICS,
    on_spark="jobs.tasks.click_on_spark",
    headline=headline,
    answered=("key", "p"),
    table="click_scores",
    answer=("user_id", "item_id", "rank", "p", "listed_rank", "listed_by"),
    columns=AnswerColumns("user_id", (("rank",), ("item_id",)), ("p",), "p"),
    persons=persons,
    demo=Demo("click_shop", "click", "sources.impressions.path"),
    simulated={"impressions": "impressions"},
    scored=("candidates",),
)
