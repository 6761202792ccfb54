"""Score: the bundle's answers as of a moment, to all that the task asks, into the task's table.

    python -m jobs.score --settings shop.yaml scoring.k=50

Rows name their bundle and moment; running it again with the same bundle, tables and moment changes nothing, other
tables replace that bundle's rows of that moment. With `scoring.since` only those are answered who have a line since
then: the newest answers of the others are those of earlier moments.
"""

from __future__ import annotations

import os
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import EnvironmentProblem
from cluster.session import TO_SCORE
from jobs import answers, builds
from jobs.artefacts import SCORE, read_json, write_json
from jobs.build_inputs import refuse_other_options, worth
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.publishing import Publication, refuse_unasked
from jobs.score_estimate import estimated
from jobs.score_ground import Found, found_of, ground_of, moment_of
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.settings_sections import EventExamples
from jobs.staged import Staged
from jobs.tables import Tables
from jobs.task import BY_ID, BY_LINE, Task
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs import features
from training.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession


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
            limit; or the options that decide how rows are read are others than the bundle's.
        EnvironmentProblem: buckets are asked for, and the session is one of Spark Connect; or run_dir is read-only.
        DataError: the answers are not whole, or further from what was expected than the settings allow; or persons were
            erased meanwhile.
    """
    task = TASKS[settings.task]
    _refuse(settings, task)
    bundle = latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with step("score: opening the tables"):
        watch = _watch(tables, task, settings)
        found = found_of(tables, task, settings)
    with step("score: comparing the vocabularies with the bundle's"):
        builds.refuse_other_numbers(tables, found.build["versions"], bundle)
        refuse_other_options(task, task.decides(settings) or {}, builds.build_of(bundle), f"bundle '{bundle.name}'")
    with step("score: looking for the first and the last moment"):
        moment = moment_of(settings, task, found.read["lines"], tables)
    said: dict[str, Any] = {"task": task.name, "table": task.table, "bundle": bundle.name}
    if moment is None:
        say(f"no line since scoring.since {settings.scoring.since}: nobody is scored, and what was scored stays")
        return said | {"rows": 0, "up_to_date": True}
    inputs = _inputs(settings, bundle.name, moment, found) | watch.inputs
    buckets, dry = settings.scoring.buckets, settings.scoring.dry_run
    staged = Staged(tables, task, inputs, buckets) if buckets > 1 and not dry else None
    publication = Publication(tables, task, settings.scoring, bundle.name, moment, inputs, watch, staged)
    return _answered(settings, publication, found, bundle, said)


def _refuse(settings: Settings, task: Task) -> None:
    if settings.scoring.since is not None and not task.since:
        raise SettingsError(
            f"scoring.since must be left out where the task is {task.name}: all that it asks is answered"
        )
    refuse_unasked(settings.scoring, task)
    if Path(settings.run_dir).is_dir() and not os.access(settings.run_dir, os.W_OK):
        raise EnvironmentProblem(
            f"run_dir '{settings.run_dir}' cannot be written to, and {SCORE} says there what was scored; let it be "
            "written to, or copy it to another place and set run_dir"
        )


def _answered(
    settings: Settings, publication: Publication, found: Found, bundle: Path, said: dict[str, Any]
) -> dict[str, Any]:
    """Answer, unless all is answered; what `run` returns."""
    tables, task, moment, since = publication.tables, publication.task, publication.moment, settings.scoring.since
    said |= {"moment": moment.isoformat()} | ({} if since is None else {"since": features.utc(since).isoformat()})
    with step("score: comparing with what is there"):
        held = _held(settings, publication)
    if held is not None and not settings.scoring.dry_run:
        say(f"{task.table} of {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S} are up to date")
        publication.clear()  # of a score that was killed over it
        return held | {"up_to_date": True}
    if since is not None and not settings.scoring.dry_run:
        answers.keep_more(tables, task, bundle.name, moment, since)
    ground = ground_of(tables, task, settings, found, moment, bundle)
    with (
        giving_back(tables.spark, ground.release),
        step(f"scoring with {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S}"),
    ):
        scored = task.spark().score(ground, moment)
        answers.refuse_another(tables, task, scored.more)
        estimate = estimated(tables, task, scored, bundle, timed=settings.scoring.dry_run)
        if settings.scoring.dry_run:
            say("scoring.dry_run: nothing was written")
            return said | {"estimate": estimate, "dry_run": True, "up_to_date": False}
        version, measured = publication.publish(scored)
        counts = scored.counts(tables.read(task.table, version).where(answers.mine(bundle.name, moment)))
    if since is not None:
        say(f"those without a line since {since} have answers of earlier moments, or none")
    return _told(
        settings, publication, said | {"version": version} | counts | measured | {"estimate": estimate}, counts
    )


def _held(settings: Settings, publication: Publication) -> dict[str, Any] | None:
    """What was said of these very answers, if they are there."""
    before: dict[str, Any] | None = read_json(settings.run_dir, SCORE)
    if before is None or before.get("inputs") != publication.inputs:
        return None
    there = publication.tables.up_to_date(publication.task.table, answers.JOB, publication.inputs)
    return before if there else None


def _told(
    settings: Settings, publication: Publication, summary: dict[str, Any], counts: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what was done, and keep it."""
    inputs, title = publication.inputs, publication.task.table.replace("_", " ").capitalize()
    write_json(settings.run_dir, SCORE, summary | {"inputs": inputs})
    publication.clear()
    show_counts(title, {**counts, **_shares(summary)})
    return summary | {"inputs": inputs, "up_to_date": False}


def _shares(measured: Mapping[str, Any]) -> dict[str, float]:
    return {name: measured[name] for name in ("coverage", "fallback_share", "drift") if name in measured}


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


if __name__ == "__main__":
    main_of(run)
