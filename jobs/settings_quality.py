"""The section `quality`: what is held against what came before, and what then follows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings_base import Section
from jobs.settings_sources import Text

Check = Literal[
    "rows", "day", "fresh", "outcomes", "keys", "nulls", "flag", "range", "mean", "shift", "category", "length",
    "distinct", "leak",
]  # fmt: skip


class QualitySettings(Section):
    """What ingest holds a batch against before it writes it, and what follows: see docs/quality.md."""

    gate: Literal["off", "warn", "stop"] = Field(
        "off", description="of a batch that differs from good ones: off, nobody looks; warn, it is told; stop, nothing "
        "of it is written"
    )  # fmt: skip
    only_warn: tuple[Check, ...] = Field((), max_length=14, description="what is told and stops no batch, e.g. [fresh]")
    override: dict[Text, Text] = Field(
        default_factory=dict,
        max_length=1_000,
        description="why a batch is written all the same, by its name, e.g. {4f2a9c0d1e7b: prices are in cents from "
        "now on}; it is recorded",
    )
    against: int = Field(28, ge=1, le=365, description="good batches, the latest ones, that a batch is held against")
    sigmas: float = Field(
        5, ge=2, le=100, description="standard deviations that chance, and how good batches differ, account for"
    )
    least_share: float = Field(0.02, gt=0, le=1, description="a share of the rows that moves by less is no finding")
    least_shift: float = Field(
        0.1, gt=0, le=100, description="population stability index, below which a distribution has not moved"
    )
    least_factor: float = Field(1.5, gt=1, le=1_000, description="rows of a day that change by less are no finding")
    keys: dict[str, tuple[Text, ...]] = Field(
        default_factory=dict,
        max_length=1_000,
        description="columns that tell a table's rows apart, e.g. {cases: [case_id]}; default: all that the task reads",
    )
    labels: dict[str, Text] = Field(
        default_factory=dict,
        max_length=1_000,
        description="a table's column that is to be foretold, e.g. {cases: label}: told is which other one has come to "
        "say it",
    )
