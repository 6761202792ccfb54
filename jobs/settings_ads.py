"""The section `ads`: where opportunities, budgets and what was spent lie, and how a day is auctioned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from jobs.settings_base import Moment, Section
from jobs.settings_sources import NamedSource

MINUTES = 1_440  # of a day


class AdsSettings(Section):
    """Bids and budgets of campaigns for a day: see docs/ads.md."""

    opportunities: NamedSource = Field(
        NamedSource(), description="scored opportunities of whole past days; without a place: the simulated shop's"
    )
    budgets: NamedSource = Field(
        NamedSource(), description="what each campaign may spend; without a place: the simulated shop's"
    )
    feedback: NamedSource = Field(
        NamedSource(), description="what was spent and won of the day so far; without a place: nothing was"
    )
    day: Moment | None = Field(
        None, description="the day that is planned, in UTC; default: the one after the last opportunity"
    )
    price_rule: Literal["second", "first"] = Field(
        "second", description="what the winner pays: the second highest bid, or the first, its own"
    )
    step_minutes: int = Field(
        30, ge=5, le=MINUTES, description="minutes of a step; a day has a whole number of them"
    )  # fmt: skip

    @field_validator("step_minutes")
    @classmethod
    def _whole(cls, minutes: int) -> int:
        if MINUTES % minutes:
            raise ValueError(f"a day of {MINUTES:,} minutes must be a whole number of steps; set 15, 30 or 60")
        return minutes

    @property
    def steps(self) -> int:
        """Of a day."""
        return MINUTES // self.step_minutes
