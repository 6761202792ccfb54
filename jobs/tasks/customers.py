"""Customers: how likely each one orders again in the days to come; that they do not is churn.

An example is a customer as of a moment before the cut: what they had ordered by then, and whether they ordered within
the horizon. Moments are spaced evenly, and none is learnt from whose horizon is not over at the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.settings_base import Section
from jobs.task import BY_ID, Demo, Headline, Task
from spark_udfs.order_day_names import FEATURES
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings
    from training.world import World

METRICS = ("auc", "average_precision")
SHOWN = ("loss", *METRICS)
EVENTS = {
    "event_id": "string", "user_id": "string?", "kind": "string", "time": "timestamp", "arrival_time": "timestamp",
    "quantity": "bigint?", "price": "double?",
}  # fmt: skip


class CustomersOptions(Section):
    """What only customers has."""

    horizon_days: float = Field(
        30, gt=0, le=3_650, description="days from a moment on in which customers order, or not"
    )
    moments: int = Field(
        12, ge=2, le=200, description="moments as of which customers are learnt from, the newest ones; each is a row"
    )
    every_days: float = Field(14, gt=0, le=3_650, description="days from a moment to the next")
    reach_share: float = Field(0.1, gt=0, lt=1, description="share of customers that can be written to")
    tree_rows: int = Field(
        200_000, ge=100, le=10_000_000, description="examples, drawn by hash, that the boosted trees learn from"
    )


def options_of(settings: Settings) -> CustomersOptions:
    """The task's own settings."""
    assert isinstance(settings.options, CustomersOptions)
    return settings.options


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:  # noqa: ARG001
    """The examples' columns; there are no vocabularies."""
    return Schema(
        (
            *(Column(name, Kind.DENSE) for name in FEATURES),
            Column("buys", Kind.LABEL),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of rows on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task, model_of_rows

    return fit_task(spec, world, make_model=model_of_rows, make_validation=validation, shown=SHOWN)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """AUC and average precision of who orders after the validation cut, counted on each rank and added up; None where
    none is asked."""
    from jobs.validation import validation_of_probabilities

    return validation_of_probabilities(spec, columns, world, names=METRICS)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How well customers are put in order, and how true the probabilities are."""
    return Headline(
        judged={"AUC": "auc", "average precision": "average_precision"},
        beside={
            "log loss": "log_loss",
            "calibration error": "calibration_error",
            "predicted / actual": "predicted_to_actual",
        },
        rows="customers",
        lower=("log_loss", "calibration_error"),
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:  # noqa: ARG001
    """Customers stand by their ids."""
    return {name: {"user_id": BY_ID} for name in ("events", "users", "examples", "queries", "customer_scores")}


TASK = Task(
    name="customers",
    what="how likely each customer orders again in the days to come",
    row="purchase",
    options=CustomersOptions,
    reads=lambda _: {"events": EVENTS},
    asks=(),
    kinds=lambda _: {},
    numbers=lambda _: (),
    key=("user_id", "time"),
    spread=1,
    schema=schema,
    model="row_mlp",
    learn="jobs.tasks.customers:learn",
    metrics=METRICS,
    on_spark="jobs.tasks.customers_on_spark",
    headline=headline,
    answered=("key", "p"),
    table="customer_scores",
    answer=("user_id", "until", "p_buys", "churn", "recency_days", "order_days", "value"),
    persons=persons,
    demo=Demo("customers_shop", "customers", "ingest.path"),
)
