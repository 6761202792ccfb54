"""Demand: how much of each series (a product, or a product in a branch) is sold in each of the next periods.

An example is a series at an origin: what was sold in the periods before it, and what in the next ones. A model learns
quantiles of each step, so that an order can weigh what is too few against what is too many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from jobs.settings_base import Section
from jobs.task import BY_ID, AnswerColumns, Demo, Headline, Task, said_persons
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings
    from training.models.base import Model
    from training.tables.sharded import Tables
    from training.world import World

STATISTICS, YEAR, WEEKDAYS = 7, 2, 7  # numbers of a row's columns: spark_udfs/panel.py
METRICS = ("skill",)
SHOWN = ("loss", *METRICS)


class DemandOptions(Section):
    """What only demand has."""

    period: Literal["day", "week"] = Field("week", description="what sales are added up by; a week begins on Monday")
    horizon: int = Field(8, ge=1, le=1_000, description="periods that are forecast")
    lags: int = Field(26, ge=1, le=10_000, description="periods before the origin that a row carries")
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_length=1,
        max_length=99,
        description="levels that are forecast, ascending, .5 among them",
    )
    origins: int = Field(104, ge=1, le=100_000, description="newest origins of a series that are learned from")
    ids: bool = Field(False, description="a vector of each series as input; with few periods it learns them by heart")
    yearly: bool = Field(False, description="the place in the year as input; wants two years of sales or more")

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if 0.5 not in levels or any(high <= low for low, high in pairwise(levels)):
            raise ValueError("quantiles must ascend, with 0.5 among them, e.g. [0.1, 0.5, 0.9]")
        return levels


def options_of(settings: Settings) -> DemandOptions:
    """The task's own settings."""
    assert isinstance(settings.options, DemandOptions)
    return settings.options


def reads(settings: Settings) -> dict[str, dict[str, str]]:  # noqa: ARG001
    """Sales: how much of a series was sold at a time. A line of 0 says that it was on sale; less than 0 came back."""
    return {"sales": {"series_id": "string", "time": "timestamp", "quantity": "double"}}


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts the series' indices, the unknown 0 included."""
    options = options_of(settings)
    return Schema(
        (
            *([Column("series", Kind.ID, vocabulary="series", size=sizes["series"])] if options.ids else []),
            Column("lags", Kind.DENSE, length=options.lags),
            Column("statistics", Kind.DENSE, length=STATISTICS),
            Column("calendar", Kind.DENSE, length=YEAR + WEEKDAYS * (options.period == "day")),
            Column("scale", Kind.DENSE, length=options.horizon),
            Column("target", Kind.LABEL, length=options.horizon),
            Column("known", Kind.WEIGHT, length=options.horizon),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of quantiles on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task

    return fit_task(spec, world, make_model=_model, make_validation=validation, shown=SHOWN)


def _model(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
    from jobs.learning import model_of_rows
    from training.errors import SettingsError

    levels = spec["build"]["inputs"]["options"]["quantiles"]
    if list(spec["model"].get("levels", ())) != list(levels):
        raise SettingsError(
            f"model.levels must be options.quantiles, {list(levels)}, of a model of quantiles; got "
            f"{spec['model'].get('levels')} of {spec['model']['name']}; set model.name=quantile_mlp and both the same"
        )
    return model_of_rows(spec, columns, tables)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """`skill`, 1 - WQL: of the quantiles of what followed the validation cut, 0 where nothing at all is forecast; None
    where none is asked."""
    import numpy as np

    from jobs.validation import validation_of_rows
    from training.metrics.quantities import Quantiles

    metric = Quantiles(spec["build"]["inputs"]["options"]["quantiles"])
    return validation_of_rows(
        spec,
        columns,
        world,
        width=metric.width,
        sums=lambda found, batch: metric.sums(
            found["quantiles"].numpy(), *(np.asarray(batch[name]) for name in ("target", "known"))
        ),
        finish=lambda sums: {"skill": 1 - metric.finish(sums)["wql"]},
    )


def headline(settings: Settings) -> Headline:
    """The weighted quantile loss and the error, and whether the forecast leans."""
    levels = options_of(settings).quantiles
    width = round(100 * (levels[-1] - levels[0]))
    return Headline(
        judged={"WQL": "wql", "MAE": "mae"},
        beside={
            "MAE of mean": "mae_of_mean",
            "MASE": "mase",
            "WAPE": "wape",
            "bias": "bias",
            f"in {width} % interval": f"coverage_{width}",
        },
        rows="series",
        lower=("wql", "mae"),
    )


def numbers(settings: Settings) -> tuple[str, ...]:
    """The series, where the model has a vector of each, unless they are persons: these may lose their names."""
    return ("series",) if options_of(settings).ids and "series_id" not in said_persons(settings, "sales") else ()


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns of `sales` that the settings name; only a series that is a person goes further than sums."""
    held = said_persons(settings, "sales")
    of_series = {
        "queries": {"series_id": BY_ID},
        "forecasts": {"series_id": BY_ID},
        "orders": {"series_id": BY_ID},
        "order_problems": {"series_id": BY_ID},
        "examples": {"series": "vocabulary_series"},
        "vocabulary_series": {"id": BY_ID},
    }
    return {"sales": dict.fromkeys(held, BY_ID), **(of_series if "series_id" in held else {})}


TASK = Task(
    name="demand",
    what="how much of each series is sold in each of the next periods, as quantiles",
    row="sale",
    options=DemandOptions,
    reads=reads,
    asks=(),
    kinds=lambda _: {"series": "series_id"},
    numbers=numbers,
    key=("series", "time", "known_at"),
    spread=2,
    schema=schema,
    model="quantile_mlp",
    learn="jobs.tasks.demand:learn",
    metrics=METRICS,
    on_spark="jobs.tasks.demand_on_spark",
    headline=headline,
    answered=("series", "quantiles", "mean"),
    table="forecasts",
    answer=("series_id", "series", "step", "period", "quantiles", "mean"),
    columns=AnswerColumns("series_id", (("step",),), ("quantiles", "mean"), "mean"),
    persons=persons,
    suits={"head": "negative_binomial"},
    demo=Demo("demand_shop", "demand", "sources.sales.path"),
    simulated={"sales": "product_days"},
)
