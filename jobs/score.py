"""Score: the bundle's answers as of a moment, to all that the task asks, into the task's table.

    python -m jobs.score --settings shop.yaml scoring.k=50

Rows name their bundle and moment; running it again with the same bundle, tables and moment changes nothing, other
tables replace that bundle's rows of that moment. With `scoring.since` only those are answered who have a line since
then: the newest answers of the others are those of earlier moments.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import answers, builds, sources
from jobs.artefacts import SCORE, read_json, write_json
from jobs.build_inputs import inputs_of, pinned, worth
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.growth import growth
from jobs.publishing import Publication, refuse_unasked
from jobs.score_estimate import estimated
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.settings_sections import EventExamples
from jobs.staged import Staged
from jobs.tables import Tables
from jobs.task import BY_ID, BY_LINE, Before, Ground, Task
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs import features
from training.errors import SettingsError, TableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import DataFrame, SparkSession

    from jobs.table_reads import Pin


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Answer with the latest bundle, all that the task asks.

    Returns:
        task, table, bundle, moment, version, up_to_date, the task's counts, what was measured of the answers
        (`Publication.publish`), what it was estimated to take (`estimated`), and `since` where only those since a time
        were answered; without moment and version where there was nobody. Of a dry run the estimate, and `dry_run`.

    Raises:
        BundleError: no bundle, or one that cannot answer such queries, or was trained on other items.
        TableError: a table is missing, nothing lies before the moment, or more was answered as of it before.
        SettingsError: the task answers to no `scoring.since`, or the moment lies before it; or it has no fallbacks to
            limit.
        EnvironmentProblem: buckets are asked for, and the session is one of Spark Connect.
        DataError: the answers are not whole, or further from what was expected than the settings allow; or persons were
            erased meanwhile.
    """
    task, since = TASKS[settings.task], settings.scoring.since
    if since is not None and not task.since:
        raise SettingsError(
            f"scoring.since must be left out where the task is {task.name}: all that it asks is answered"
        )
    refuse_unasked(settings.scoring, task)
    bundle = latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with step("score: opening the tables"):
        watch = _watch(tables, task, settings)
        found = _found(tables, task, settings)
    with step("score: comparing the vocabularies with the bundle's"):
        builds.refuse_other_numbers(tables, found.build["versions"], bundle)
    with step("score: looking for the first and the last moment"):
        moment = _moment(settings, task, found.read["lines"], tables)
    if moment is None:
        say(f"no line since scoring.since {since}: nobody is scored, and what was scored stays")
        return {"task": task.name, "table": task.table, "bundle": bundle.name, "rows": 0, "up_to_date": True}
    said: dict[str, Any] = {"task": task.name, "table": task.table, "bundle": bundle.name, "moment": moment.isoformat()}
    if since is not None:
        said["since"] = features.utc(since).isoformat()
    inputs = _inputs(settings, bundle.name, moment, found) | watch.inputs
    buckets = settings.scoring.buckets
    dry = settings.scoring.dry_run
    staged = Staged(tables, task, inputs, buckets) if buckets > 1 and not dry else None
    publication = Publication(tables, task, settings.scoring, bundle.name, moment, inputs, watch, staged)
    before: dict[str, Any] | None = read_json(settings.run_dir, SCORE)
    with step("score: comparing with what is there"):
        held = (
            before is not None and before.get("inputs") == inputs and tables.up_to_date(task.table, answers.JOB, inputs)
        )
    if before is not None and held and not dry:
        say(f"{task.table} of {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S} are up to date")
        publication.clear()  # of a score that was killed over it
        return before | {"up_to_date": True}
    if since is not None and not dry:
        answers.keep_more(tables, task, bundle.name, moment, since)
    goes_on = None
    if task.grows:
        with step("score: comparing with the build in force"):
            goes_on = _before(tables, task, settings, found, moment)
    cut = _cut(found.build)
    ground = Ground(found.read, settings, Path(settings.run_dir), bundle, cut=cut, before=goes_on)
    with (
        giving_back(spark, ground.release),
        step(f"scoring with {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S}"),
    ):
        scored = task.spark().score(ground, moment)
        answers.refuse_another(tables, task, scored.more)
        estimate = estimated(tables, task, scored, bundle, timed=dry)
        if dry:
            say("scoring.dry_run: nothing was written")
            return said | {"estimate": estimate, "dry_run": True, "up_to_date": False}
        version, measured = publication.publish(scored)
        counts = scored.counts(tables.read(task.table, version).where(answers.mine(bundle.name, moment)))
    if since is not None:
        say(f"those without a line since {since} have answers of earlier moments, or none")
    summary = said | {"version": version} | counts | measured | {"estimate": estimate}
    write_json(settings.run_dir, SCORE, summary | {"inputs": inputs})
    publication.clear()
    show_counts(task.table.replace("_", " ").capitalize(), counts | _shares(measured))
    return summary | {"inputs": inputs, "up_to_date": False}


def _shares(measured: Mapping[str, Any]) -> dict[str, float]:
    return {name: measured[name] for name in ("coverage", "fallback_share", "drift") if name in measured}


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


def _found(tables: Tables, task: Task, settings: Settings) -> Found:
    """The tables, as the build in force names them, and else at their newest versions."""
    made_of, build = pinned(tables, task, settings), builds.published(tables)
    builds.refuse_other_task(tables, build, task.name)
    built = build["versions"]
    pins = made_of | {name: tables.pin(name) for name in task.asks if name not in built}
    pins |= {name: tables.pin(name) for name in task.scored if tables.exists(name)}
    named = [*(f"vocabulary_{kind}" for kind in task.kinds(settings)), *(name for name in task.asks if name in built)]
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


def _watch(tables: Tables, task: Task, settings: Settings) -> Watch:
    """An eye on persons who are erased meanwhile."""
    marks = task.persons(settings).get(task.table, {})
    by_id = [column for column, how in marks.items() if how == BY_ID]
    take_out = partial(answers.take_out, tables, task) if BY_LINE in marks.values() else None
    return Watch(tables, answers.JOB, task.table, by_id, take_out)


def _inputs(settings: Settings, bundle: str, moment: datetime, found: Found) -> dict[str, Any]:
    """What decides the answers."""
    return {
        "bundle": bundle,
        "moment": moment.isoformat(),
        "tables": dict(found.contents),
        "ids": dict(found.ids),
        "scoring": settings.scoring.inputs(),
        **settings.examples.model_dump(mode="json", exclude=set(EventExamples.model_fields)),
        "options": settings.options.model_dump(mode="json"),
        **worth(settings),
    }


def _moment(settings: Settings, task: Task, lines: DataFrame, tables: Tables) -> datetime | None:
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


if __name__ == "__main__":
    main_of(run)
