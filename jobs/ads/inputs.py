"""Where opportunities, budgets and feedback lie, and their rows: columns by name and type, faults named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession

from jobs import source_rows, sources
from jobs.settings import Settings
from jobs.settings_sources import NamedSource
from jobs.source import Source
from training.errors import SettingsError

OPPORTUNITIES, BUDGETS, FEEDBACK = "opportunities", "budgets", "feedback"
ALWAYS: dict[str, dict[str, str]] = {
    OPPORTUNITIES: {
        "campaign_id": "string",
        "time": "timestamp",
        "probability": "double",
        "value": "double",
        "currency": "string",
    },
    BUDGETS: {"campaign_id": "string", "budget": "double", "currency": "string"},
    FEEDBACK: {"campaign_id": "string", "time": "timestamp", "spend": "double", "expected": "double"},
}
IF_ANY: dict[str, dict[str, str]] = {
    OPPORTUNITIES: {"price": "double?", "bid": "double?", "won": "boolean?"},
    BUDGETS: {"target": "double?"},
    FEEDBACK: {"actions": "double?", "opportunities": "double?"},
}
SIMULATED = {OPPORTUNITIES: "ad_opportunities", BUDGETS: "ad_budgets"}


class Given(NamedTuple):
    """A table as it was found.

    Attributes:
        source: where its rows lie.
        asked: the settings that name it.
        rows: our columns with their types (those of IF_ANY that the source lacks are null), `row` and `reason` (see
            `source_rows.typed`).
    """

    source: Source
    asked: NamedSource
    rows: DataFrame

    @property
    def inputs(self) -> dict[str, Any]:
        """What decides the rows."""
        return {
            "source": self.source.name,
            "state": self.source.state,
            "settings": self.asked.model_dump(mode="json", exclude={"path", "table"}),
        }


def given(settings: Settings, spark: SparkSession) -> dict[str, Given]:
    """The tables by name; feedback only where the settings name a place for it.

    Raises:
        SettingsError: the settings name a column that is none of ours.
        DataError: a source is missing, empty or unreadable.
        SchemaError: it lacks a column.
        TableError: the simulated shop's is asked for, and was not made.
    """
    asked: dict[str, NamedSource] = {name: getattr(settings.ads, name) for name in ALWAYS}
    for name, source in asked.items():
        _refuse_strangers(name, source)
    return {
        name: _given(settings, spark, name, source)
        for name, source in asked.items()
        if source.name is not None or name in SIMULATED
    }


def _refuse_strangers(name: str, asked: NamedSource) -> None:
    """Refuse a mapping of a column that is none of ours: one that may be missing would be taken for missing."""
    ours = [*ALWAYS[name], *IF_ANY[name]]
    for section, named in (("columns", asked.columns), ("words", asked.words)):
        if strangers := sorted(named.keys() - set(ours)):
            raise SettingsError(
                f"ads.{name}.{section} has the unknown name '{strangers[0]}'; it may name {', '.join(ours)}: correct it"
            )


def _given(settings: Settings, spark: SparkSession, name: str, asked: NamedSource) -> Given:
    if asked.name is None:
        source = sources.simulated(settings, spark, SIMULATED[name], asked)
    else:
        source = sources.find(f"ads.{name}", asked, spark)
    return Given(source, asked, _typed(spark, source, asked, name))


def _typed(spark: SparkSession, source: Source, asked: NamedSource, name: str) -> DataFrame:
    """The rows; a column of IF_ANY is read where the settings map it, or the source has it."""
    always, if_any = ALWAYS[name], IF_ANY[name]
    mapped = {column: asked.columns[column] for column in if_any if column in asked.columns}
    wanted = _named(always, asked) | mapped
    raw = sources.read(spark, source, wanted)
    there = {column: kind for column, kind in if_any.items() if column in mapped or column in raw.rows.columns}
    wanted |= _named(there, asked)
    typed = source_rows.typed(raw.rows, asked, always | there, wanted, raw.malformed)
    lacking = [f"CAST(NULL AS {kind[:-1]}) AS {column}" for column, kind in if_any.items() if column not in there]
    return typed.selectExpr("*", *lacking)


def _named(columns: Mapping[str, str], asked: NamedSource) -> dict[str, str]:
    return {column: asked.columns.get(column, column) for column in columns}
