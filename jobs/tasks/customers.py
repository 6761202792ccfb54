"""Customers: how likely each one orders again in the days to come, for how much, and on how many days.

That they do not order is churn. An example is a customer as of a moment before the cut: what they had ordered by then,
and what they ordered within the horizon. Moments are spaced evenly, and none is learnt from whose horizon is not over
at the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from jobs.settings_base import Section
from jobs.task import BY_ID, AnswerColumns, Demo, Headline, Task
from spark_udfs.order_day_names import FEATURES, OUTCOMES
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.settings import Settings
    from training.models.base import Model
    from training.tables.sharded import Tables
    from training.world import World

MODEL = "value_mlp"
SCORED = {  # the columns of customer_scores, and where each comes from
    "user_id": "the shop's id",
    "until": "moment + options.horizon_days: what is expected is expected until then",
    "p_buys": "the bundle: probability of an order",
    "churn": "1 - p_buys",
    "expected_spend": "the bundle: mean of what is bought less what is given back",
    "spend_low": "the bundle: nine in ten spend at least this, by its own distribution",
    "spend_high": "the bundle: nine in ten spend at most this, by its own distribution",
    "expected_order_days": "the bundle: mean number of days with an order",
    "recency_days": "lines: days since midnight of the last day with an order",
    "order_days": "lines: days with an order",
    "value": "lines: all that was bought, without what was given back",
    "segment": "order_days, recency_days and value: nearest centre of k-means on the build's customers",
    "favourites": "lines and items: categories that most was spent on; where that is equal, of most lines",
    "mean_price": "lines: what was bought over its pieces",
    "price_level": "mean_price: its tenth among all customers, 10 the highest",
    "weekday": "lines: weekday of most days with an order (UTC)",
    "hour": "lines: hour of most lines (UTC)",
}
SCORES = ("p_buys", "churn", "expected_spend", "spend_low", "spend_high", "expected_order_days")
METRICS = ("auc", "average_precision")
SHOWN = ("loss", *METRICS)
EVENTS = {
    "event_id": "string", "user_id": "string?", "item_id": "string", "kind": "string",
    "time": "timestamp", "arrival_time": "timestamp", "quantity": "bigint?", "price": "double?",
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
    segments: int = Field(6, ge=2, le=50, description="segments of customers that are alike, at most")
    favourites: int = Field(
        3, ge=1, le=100, description="categories that are named as a customer's favourites, at most"
    )
    drawn_rows: int = Field(
        200_000,
        ge=100,
        le=10_000_000,
        description="examples, or customers, drawn by hash, that segments and contenders are found on which are fitted "
        "in one task or on the driver",
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
            *(Column(name, Kind.LABEL) for name in OUTCOMES),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of customers on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task

    return fit_task(spec, world, make_model=_model, make_validation=validation, shown=SHOWN)


def _model(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
    from jobs.learning import model_of_rows
    from training.errors import SettingsError

    if spec["model"]["name"] != MODEL:
        raise SettingsError(
            f"model.name must be {MODEL}, which learns whether customers order, for how much and how often; got "
            f"'{spec['model']['name']}'; set model.name={MODEL}"
        )
    return model_of_rows(spec, columns, tables)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """AUC and average precision of who orders after the validation cut, counted on each rank and added up; None where
    none is asked."""
    from jobs.validation import validation_of_rows
    from training.metrics.probabilities import Binary

    metric = Binary()
    return validation_of_rows(
        spec,
        columns,
        world,
        width=metric.width,
        sums=lambda found, batch: metric.sums(found["p"].numpy(), cast("Tensor", batch["buys"]).numpy()),
        finish=lambda sums: {name: metric.finish(sums)[name] for name in METRICS},
    )


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How well customers are put in order, and how true the probabilities and the amounts are."""
    return Headline(
        judged={"AUC": "auc", "average precision": "average_precision"},
        beside={
            "log loss": "log_loss",
            "calibration error": "calibration_error",
            "predicted / actual": "predicted_to_actual",
            "spend Gini": "spend_gini",
            "spend bias": "spend_bias",
            "spend off by decile": "spend_decile_error",
            "spend in its interval": "spend_within",
            "of which it said": "spend_within_said",
            "order days MAE": "order_days_mae",
            "order days bias": "order_days_bias",
        },
        rows="customers",
        lower=("log_loss", "calibration_error", "spend_decile_error", "order_days_mae"),
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:  # noqa: ARG001
    """Customers stand by their ids."""
    return {name: {"user_id": BY_ID} for name in ("events", "users", "examples", "queries", "customer_scores")}


TASK = Task(
    name="customers",
    what="how likely each customer orders again in the days to come, for how much and how often",
    row="purchase",
    options=CustomersOptions,
    reads=lambda _: {"events": EVENTS, "items?": {"item_id": "string"}},
    asks=("queries",),
    kinds=lambda _: {},
    numbers=lambda _: (),
    key=("user_id", "time"),
    spread=1,
    schema=schema,
    model=MODEL,
    learn="jobs.tasks.customers:learn",
    metrics=METRICS,
    on_spark="jobs.tasks.customers_on_spark",
    headline=headline,
    answered=("key", "p", "amount", "amount_low", "amount_high", "count"),
    table="customer_scores",
    answer=tuple(SCORED),
    columns=AnswerColumns("user_id", ((),), SCORES, "p_buys"),
    persons=persons,
    scored=("items",),
    demo=Demo("customers_shop", "customers", "ingest.path"),
)
