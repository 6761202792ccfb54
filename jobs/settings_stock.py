"""The section `stock`: where stock lies, how often it is ordered, and what holds for series that say nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings_base import Moment, Section
from jobs.settings_sources import NamedSource


class StockSettings(Section):
    """Orders from forecasts: see docs/stock.md."""

    levels: NamedSource = Field(
        NamedSource(), description="what each series has in stock, and its terms; without a place: the simulated shop's"
    )
    on_order: NamedSource = Field(
        NamedSource(),
        description="what is on its way, and when it arrives; without a place: the simulated shop's beside its stock, "
        "else nothing",
    )
    moment: Moment | None = Field(
        None, description="as of which forecasts were scored; default: the newest ones of the bundle that answers"
    )
    review: int = Field(1, ge=1, le=1_000, description="periods from one order to the next")
    service: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="share of reviews without a piece short, where a series says neither that nor what a piece earns",
    )
    holding_rate: float = Field(
        0.005,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="of the unit cost, what a piece costs to hold for a period, where a series does not say",
    )
    unmet: Literal["lost", "waits"] = Field(
        "lost", description="what becomes of demand that finds no stock: it is lost, or waits for the next arrival"
    )
    correlation: float = Field(
        0.07,
        ge=0,
        lt=1,
        description="of the errors of a series' steps: 0 if each is off by itself, near 1 if all are off alike",
    )
    budget: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="unit costs of all orders together, at most; default: any"
    )
