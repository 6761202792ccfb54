"""What answers are made from: tables as the build in force names them, the moment, and what histories go on from."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs import builds, sources
from jobs.build_inputs import inputs_of, pinned
from jobs.console import say, step
from jobs.ground import Before, Ground
from jobs.growth import growth
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import Task
from spark_udfs import features
from training.errors import SettingsError, TableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame

    from jobs.table_reads import Pin


class Found(NamedTuple):
    """What is scored from.

    Attributes:
        build: the one in force.
        made_of: the tables that a build would be made of now.
        contents: of each table, what tells its rows from others that it has had.
        ids: of each table of ours, what tells it from another at the same place.
        read: rows by name, with the task's `lines`.
    """

    build: builds.Manifest
    made_of: Mapping[str, Pin]
    contents: Mapping[str, Any]
    ids: Mapping[str, str]
    read: dict[str, DataFrame]


def found_of(tables: Tables, task: Task, settings: Settings) -> Found:
    """The tables, as the build in force names them, and else at their newest versions."""
    made_of, build = pinned(tables, task, settings), builds.published(tables)
    builds.refuse_other_task(tables, build, task.name)
    built = build["versions"]
    pins = made_of | {name: tables.pin(name) for name in task.asks if name not in built and not name.endswith("?")}
    pins |= {name: tables.pin(name) for name in task.scored if tables.exists(name)}
    asks = [name.removesuffix("?") for name in task.asks]
    named = [*(f"vocabulary_{kind}" for kind in task.kinds(settings)), *(name for name in asks if name in built)]
    of_build = {name: built[name] for name in named}
    builds.refuse_others(tables, build, of_build)
    read = {name: tables.read(name, version) for name, version in of_build.items()}
    read |= {name: tables.read(name, pin.version) for name, pin in pins.items()}
    contents = {name: pin.content for name, pin in pins.items()} | of_build
    ids, lines = tables.ids(contents), {"lines": task.lines(read, settings)}
    beside = {place: sources.find(place, asked, tables.spark) for place, asked in task.beside(settings).items()}
    read |= {place: source.table for place, source in beside.items() if source.table is not None}
    of_others = {place: source.state for place, source in beside.items()}
    return Found(build, made_of, contents | of_others, ids, read | lines)


def moment_of(settings: Settings, task: Task, lines: DataFrame, tables: Tables) -> datetime | None:
    """The moment asked for, or a second after the last line that has all ids; None: nothing is known since
    `scoring.since`."""
    table, since = next(iter(task.tables(settings))), settings.scoring.since
    known = reduce(and_, (F.col(column).isNotNull() for column in task.kinds(settings).values()), F.lit(True))
    asked = None if settings.scoring.moment is None else features.utc(settings.scoring.moment)
    if since is not None:
        known = known & features.known_since(since) & (F.lit(True) if asked is None else features.known_before(asked))
    first, last = lines.where(known).agg(F.unix_micros(F.min("time")), F.unix_micros(F.max("time"))).collect()[0]
    if first is None and since is not None:
        return None
    if first is None:
        raise TableError(
            f"table '{table}' at {tables.path(table)} has no {task.row} with all ids; run `millrace ingest`"
        )
    moment = datetime.fromtimestamp(last // 1_000_000 + 1, tz=UTC) if asked is None else asked
    begins = datetime.fromtimestamp(first / 1e6, tz=UTC)
    if since is not None and moment <= features.utc(since):
        raise SettingsError(
            f"scoring.since must be before the moment, {moment.isoformat()}; it is {since}: what has happened before "
            "that and arrived later needs a scoring.moment after it"
        )
    if moment <= begins:
        raise TableError(
            f"table '{table}' at {tables.path(table)} has no {task.row} before scoring.moment {moment.isoformat()}; "
            f"the first is of {begins.isoformat()}"
        )
    return moment


def ground_of(tables: Tables, task: Task, settings: Settings, found: Found, moment: datetime, bundle: Path) -> Ground:
    """What the task's functions score from."""
    goes_on = None
    if task.grows:
        with step("score: comparing with the build in force"):
            goes_on = _before(tables, task, settings, found, moment)
    return Ground(found.read, settings, Path(settings.run_dir), bundle, cut=_cut(found.build), before=goes_on)


def _cut(build: builds.Manifest) -> datetime:
    """The cut before which all was known that a build knew."""
    return datetime.fromisoformat(build["cuts"]["test"])


def _before(tables: Tables, task: Task, settings: Settings, found: Found, moment: datetime) -> Before | None:
    """The build in force, where a build as of the moment could go on from it: then all of the lines that it knew is in
    its side tables.

    None where it cannot; it is said why.
    """
    if moment < _cut(found.build):
        say(f"histories are made of all lines: the build in force is as of {_cut(found.build):%Y-%m-%d %H:%M:%S}")
        return None
    grown = growth(tables, task, settings, found.build, found.made_of, inputs_of(task, found.made_of, settings))
    refused = grown if isinstance(grown, str) else grown.refused(grown.cuts)
    if refused is None and not isinstance(grown, str):
        return grown.before(tables)
    say(f"histories are made of all lines: {refused}")
    return None
