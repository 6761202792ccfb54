"""Tables that a planner reads beside its task's: where their rows lie, columns by name and type, faults named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession

from jobs import source_rows, sources
from jobs.settings import Settings
from jobs.settings_sources import NamedSource
from jobs.source import Source
from training.errors import SettingsError


class Wanted(NamedTuple):
    """What a table must have.

    Attributes:
        always: its columns, with their types.
        if_any: those that it may lack.
        simulated: the table of the simulated shop that stands for it where the settings name no place; None: then it
            is not there.
    """

    always: Mapping[str, str]
    if_any: Mapping[str, str]
    simulated: str | None = None


class Given(NamedTuple):
    """A table as it was found.

    Attributes:
        source: where its rows lie.
        asked: the settings that name it.
        rows: our columns with their types (those of `Wanted.if_any` that the source lacks are null), `row` and `reason`
            (see `source_rows.typed`).
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


def given(settings: Settings, spark: SparkSession, section: str, wanted: Mapping[str, Wanted]) -> dict[str, Given]:
    """The tables by name; one that nobody names a place for only where the simulated shop has it.

    Args:
        settings: the pipeline's.
        spark: the session.
        section: of the settings that names the tables' places.
        wanted: by table.

    Raises:
        SettingsError: the settings name a column that is none of ours.
        DataError: a source is missing, empty or unreadable.
        SchemaError: it lacks a column.
        TableError: the simulated shop's is asked for, and was not made.
    """
    asked: dict[str, NamedSource] = {name: getattr(getattr(settings, section), name) for name in wanted}
    for name, source in asked.items():
        _refuse_strangers(f"{section}.{name}", source, wanted[name])
    return {
        name: _given(settings, spark, f"{section}.{name}", source, wanted[name])
        for name, source in asked.items()
        if source.name is not None or wanted[name].simulated is not None
    }


def _refuse_strangers(place: str, asked: NamedSource, wanted: Wanted) -> None:
    """Refuse a mapping of a column that is none of ours: one that may be missing would be taken for missing."""
    ours = [*wanted.always, *wanted.if_any]
    for part, named in (("columns", asked.columns), ("words", asked.words)):
        if strangers := sorted(named.keys() - set(ours)):
            raise SettingsError(
                f"{place}.{part} has the unknown name '{strangers[0]}'; it may name {', '.join(ours)}: correct it"
            )


def _given(settings: Settings, spark: SparkSession, place: str, asked: NamedSource, wanted: Wanted) -> Given:
    if asked.name is None:
        assert wanted.simulated is not None
        source = sources.simulated(settings, spark, wanted.simulated, asked)
    else:
        source = sources.find(place, asked, spark)
    return Given(source, asked, _typed(spark, source, asked, wanted))


def _typed(spark: SparkSession, source: Source, asked: NamedSource, wanted: Wanted) -> DataFrame:
    """The rows; a column of `if_any` is read where the settings map it, or the source has it."""
    mapped = {column: asked.columns[column] for column in wanted.if_any if column in asked.columns}
    named = _named(wanted.always, asked) | mapped
    raw = sources.read(spark, source, named)
    there = {column: kind for column, kind in wanted.if_any.items() if column in mapped or column in raw.rows.columns}
    named |= _named(there, asked)
    typed = source_rows.typed(raw.rows, asked, {**wanted.always, **there}, named, raw.malformed)
    lacking = [
        f"CAST(NULL AS {kind[:-1]}) AS {column}" for column, kind in wanted.if_any.items() if column not in there
    ]
    return typed.selectExpr("*", *lacking)


def _named(columns: Mapping[str, str], asked: NamedSource) -> dict[str, str]:
    return {column: asked.columns.get(column, column) for column in columns}
