"""What a build reads: the tables at their versions, what decides the rows, and the task's lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.settings_sections import weights_of
from jobs.yaml_settings import shown
from spark_udfs import features
from training.errors import SettingsError, TableError
from training.identity import identity_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from jobs.table_reads import Pin
    from jobs.tables import Tables
    from jobs.task import Task


def pinned(tables: Tables, task: Task, settings: Settings) -> dict[str, Pin]:
    """The newest versions of the tables that a build reads, without those that may be missing and are.

    Raises:
        TableError: another one is missing.
    """
    return {
        name: tables.pin(name)
        for name, optional in task.tables(settings).items()
        if name not in task.scored and (not optional or tables.exists(name))
    }


def inputs_of(task: Task, pins: Mapping[str, Pin], settings: Settings) -> dict[str, Any]:
    """What decides the rows: the tables read, by the last change of their rows, and the settings.

    What came later is named only where it is used, so that what was built before stays.
    """
    examples = settings.examples
    first = set(type(examples).model_fields) - examples.LATER
    return {
        "task": task.name,
        **{
            name: pins[name].content if name in pins else None
            for name in task.tables(settings)
            if name not in task.scored
        },
        "settings": identity_of(examples, first, examples.APART) | worth(settings),
        **({"options": options} if (options := _deciding(task, settings)) else {}),
    }


def _deciding(task: Task, settings: Settings) -> dict[str, Any]:
    """What of the task's options decides the rows."""
    own = task.decides(settings)
    return settings.options.model_dump(mode="json") if own is None else dict(own)


def refuse_other_options(task: Task, now: Mapping[str, Any], build: Mapping[str, Any], whose: str) -> None:
    """See that what is asked is read as examples were that something was learnt from.

    Args:
        task: whose options they are.
        now: what is asked with, of `Task.decides`.
        build: the manifest of the examples.
        whose: what was learnt, or what holds the examples.

    Raises:
        SettingsError: one of `Task.learnt_with` that stands in `now` is another. An option that stands in one of both
            alone came later, and has its default in the other.
    """
    then = build.get("inputs", {}).get("options", {})
    for name in task.learnt_with:
        option = task.options.model_fields.get(name)
        usual = None if option is None else option.default
        if (option is not None or name in now) and now.get(name, usual) != then.get(name, usual):
            place = name if option is None else f"options.{name}"
            raise SettingsError(
                f"{place} must be what the examples of {whose} were made with, {shown(then.get(name, usual))}; it is "
                f"{shown(now.get(name, usual))}: set it back, or run `millrace build-examples` and `millrace train`"
            )


def worth(settings: Settings) -> dict[str, Any]:
    """`weights`, as an input of what is made of lines; nothing where purchases alone are lines."""
    weights = weights_of(settings.examples)
    is_usual = weights in ({}, features.PURCHASES)
    return {} if is_usual else {"weights": {str(kind): weights[kind] for kind in weights}}


def lines_of(tables: Tables, task: Task, settings: Settings, read: dict[str, DataFrame]) -> DataFrame:
    """The task's lines, of tables that have the columns which it reads, and rows."""
    for name, columns in task.reads(settings).items():
        table = name.removesuffix("?")
        if table in read:
            tables.require(read[table], table, {name: kind.removesuffix("?") for name, kind in columns.items()})
    first = next(iter(read))
    if read[first].isEmpty():
        raise TableError(f"table '{first}' at {tables.path(first)} is empty; run `millrace ingest` on a file with rows")
    return task.lines(read, settings)
