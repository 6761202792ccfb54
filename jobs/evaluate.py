"""Evaluate: the latest bundle against what it must beat, on what the cut holds out.

    python -m jobs.evaluate --settings shop.yaml evaluation.ks=[10,20]

The task says what is asked (its slices), who else answers, and how answers are judged. Values come with 95 % bootstrap
intervals, and ours less each other's with those of the pairs. `evaluation.bundles` names further bundles that answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import builds
from jobs.artefacts import EVALUATION, read_json, write_json
from jobs.build_inputs import refuse_other_options, worth
from jobs.command import main_of
from jobs.console import say, show_table, step
from jobs.erasure.erased import Watch
from jobs.ground import Answer, Ground
from jobs.headlines import hardest
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS, Headline, Task
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs.scoring import bundle_schema
from training.errors import BundleError, TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JOB = "evaluate"
BUNDLE = re.compile(r".+-[0-9a-f]{12}")  # as none of the other contenders is called


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Judge the latest bundle and the other contenders; write evaluation.json into the run folder.

    Returns:
        What evaluation.json holds: `protocols`, by slice: what, users (rows that were judged), models, differences;
        `headline`; what the task has people look at; and `up_to_date` where it was there.

    Raises:
        BundleError: no bundle, or one of another schema or trained on other items.
        TableError: a table is missing, or the cut holds out nothing to judge.
        SettingsError: the options that decide how rows are read are others than a bundle's.
        DataError: persons were erased meanwhile: what it would write may name them.
    """
    task, bundle = TASKS[settings.task], latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root)
    with step("evaluate: opening the tables"):
        watch, bundles = Watch(tables, JOB, "builds"), _bundles(settings, bundle)
        build = build_for(task, tables, bundles)
    _refuse_other_options(task, settings, build, bundles)
    cut, versions = cut_of(build), build["versions"]
    same = versions | {name: build["inputs"].get(name) for name in task.tables(settings)}
    asked = settings.evaluation.model_dump(mode="json", exclude={"bundles"})
    inputs: dict[str, Any] = {"task": task.name, "bundle": bundle.name, "tables": same, "evaluation": asked}
    inputs |= {"bundles": list(bundles)[1:]} if len(bundles) > 1 else {}
    inputs |= {"options": settings.options.model_dump(mode="json"), **worth(settings)}
    inputs |= {"ids": build["ids"]} if "ids" in build else {}  # versions alone do not tell tables that were made anew
    before = read_json(settings.run_dir, EVALUATION)
    if before is not None and before.get("inputs") == inputs:
        say(f"evaluate: up to date; {bundle.name} was judged on these tables")
        return dict(before) | {"up_to_date": True}
    with step("evaluate: pinning what it reads"):
        ground = ground_of(task, tables, settings, build, bundle)
    with giving_back(spark, ground.release):
        result = _evaluated(task, ground, cut, bundles)
    result = {"table": tables.path("examples"), "version": versions["examples"], "bundle": bundle.name} | result
    result |= {"test_from": cut.isoformat(), "inputs": inputs}
    with step("evaluate: looking for who was erased"):
        watch.before_publishing()
    write_json(settings.run_dir, EVALUATION, result)
    show(result)
    return result


def build_for(task: Task, tables: Tables, bundles: Mapping[str, Path]) -> builds.Manifest:
    """The build in force, on which bundles can be judged.

    Raises:
        BundleError: one has seen the answers, or means other ids by its numbers.
        TableError: no build is published, or it is of another task or of other tables than lie there.
    """
    build = builds.published(tables)
    builds.refuse_other_task(tables, build, task.name)
    builds.refuse_others(tables, build, (*build["versions"], *build["read"]))
    for one in bundles.values():
        _refuse_a_bundle_that_knows_the_answers(one, cut_of(build))
        builds.refuse_other_numbers(tables, build["versions"], one)
    return build


def cut_of(build: builds.Manifest) -> datetime:
    """The moment from which on all is held out."""
    return datetime.fromisoformat(build["cuts"]["test"])


def ground_of(task: Task, tables: Tables, settings: Settings, build: builds.Manifest, bundle: Path) -> Ground:
    """What a build names, pinned, for the judgement of a bundle."""
    versions = build["versions"] | builds.versions_read(tables, build)
    read = {name: tables.read(name, at) for name, at in versions.items()}
    return Ground(read | {"lines": task.lines(read, settings)}, settings, Path(settings.run_dir), bundle)


def _bundles(settings: Settings, bundle: Path) -> dict[str, Path]:
    """Those that answer, by the names that they are judged under: ours first.

    Raises:
        BundleError: one of those beside it is not there, or is ours, or stands twice.
    """
    beside = [Path(folder) for folder in settings.evaluation.bundles]
    for one in beside:
        bundle_schema(str(one))
    names = [bundle.name, *(one.name for one in beside)]
    if odd := [name for name in names if not BUNDLE.fullmatch(name)]:
        raise BundleError(f"evaluation.bundles must name folders of bundles, as in 'dlrm-3f9c0a1b22d4'; got {odd}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise BundleError(
            f"evaluation.bundles must name other bundles than the latest of run_dir, '{bundle.name}', each once; "
            f"{', '.join(repeated)} would answer twice"
        )
    return {OURS: bundle} | {one.name: one for one in beside}


def _refuse_a_bundle_that_knows_the_answers(bundle: Path, cut: datetime) -> None:
    """A bundle that was trained with a later cut has seen what it is asked for."""
    trained_to = builds.build_of(bundle).get("cuts", {}).get("test")
    if trained_to is not None and datetime.fromisoformat(trained_to) > cut:
        raise BundleError(
            f"bundle '{bundle.name}' was trained on events up to {trained_to}, the test split begins at "
            f"{cut.isoformat()}: it has seen the answers. Run `millrace train` on these examples"
        )


def _refuse_other_options(task: Task, settings: Settings, build: builds.Manifest, bundles: Mapping[str, Path]) -> None:
    refuse_other_options(task, settings.options.model_dump(mode="json"), build, "the build in force")
    for one in bundles.values():
        refuse_other_options(task, build["inputs"].get("options", {}), builds.build_of(one), f"bundle '{one.name}'")


def _evaluated(task: Task, ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Any]:
    """Every slice's rows through every contender, judged; and what people look at."""
    protocols, held = judged(task, ground, cut, bundles)
    return {"protocols": protocols, "headline": asdict(task.headline(ground.settings))} | task.spark().looks(
        ground, held
    )


def judged(
    task: Task, ground: Ground, cut: datetime, bundles: Mapping[str, Path], *, alone: bool = False
) -> tuple[dict[str, Any], dict[str, tuple[DataFrame, DataFrame]]]:
    """By slice, what evaluation.json has of it; and its rows with all answers to them.

    Args:
        task: the one that judges.
        ground: from `ground_of`.
        cut: what lies behind it is asked.
        bundles: they answer; OURS first.
        alone: nobody else does.

    Raises:
        TableError: a slice has nothing to judge.
    """
    protocols: dict[str, Any] = {}
    held: dict[str, tuple[DataFrame, DataFrame]] = {}
    contenders: Mapping[str, Answer] = {}
    for name, asked in task.spark().slices(ground, cut).items():
        rows = ground.keep(f"asked {name}", partial(_given, asked.rows))
        with step(f"evaluate: looking for what is asked in {name}"):
            nothing = rows.isEmpty()
        if nothing:
            raise TableError(
                f"table 'examples' at {ground.settings.tables.root} leaves nothing to judge after the cut "
                f"({cut.isoformat()}): {asked.what}; set examples.test_from to an earlier moment and run "
                "`millrace build-examples`"
            )
        contenders = contenders or _contenders(task, ground, cut, bundles, alone=alone)
        answers = _answers(task, ground, name, rows, contenders)
        with step(f"evaluate: judge {name}"):
            protocols[name] = {"what": asked.what} | task.spark().judge(ground, rows, answers, list(contenders))
        held[name] = (rows, answers)
    return protocols, held


def _contenders(
    task: Task, ground: Ground, cut: datetime, bundles: Mapping[str, Path], *, alone: bool
) -> Mapping[str, Answer]:
    found = task.spark().contenders(ground, cut, bundles)
    return {name: answer for name, answer in found.items() if name in bundles} if alone else found


def _given(rows: DataFrame) -> DataFrame:
    return rows


def _answers(task: Task, ground: Ground, name: str, rows: DataFrame, contenders: Mapping[str, Answer]) -> DataFrame:
    """What each contender answers to the rows of a slice: `model`, and the task's columns of an answer."""
    answers: list[DataFrame] = []
    for contender, answer in contenders.items():
        with step(f"evaluate: {name} by {contender}"):
            given = answer(rows, name).select(F.lit(contender).alias("model"), *task.answered)
            answers.append(ground.keep(f"{name} by {contender}", partial(_given, given)))
            given.count()
    return reduce(lambda first, second: first.unionByName(second), answers)


def show(result: Mapping[str, Any]) -> None:
    """A table per slice, and the comparisons in which ours fares worst; a star: ours differs beyond chance.

    Args:
        result: what `run` returns.
    """
    headline = Headline(**result["headline"])
    for protocol in result["protocols"].values():
        rows = []
        for name, metrics in protocol["models"].items():
            differences = protocol["differences"].get(name, {})
            judged = [_cell(metrics[key], differences.get(key)) for key in headline.judged.values()]
            beside = [f"{metrics[key]['value']:.3f}" if key in metrics else "-" for key in headline.beside.values()]
            rows.append((name, *judged, *beside))
        say(f"{protocol['what']}: {protocol['users']:,} {headline.rows}{headline.note}; 95 % intervals; * ours differs")
        show_table("", ("", *headline.judged, *headline.beside), rows)
        leads = [lead for key in headline.judged.values() if (lead := hardest(protocol, key, headline.lower))]
        if leads:
            say("hardest comparisons: " + "; ".join(lead.words() for lead in leads))


def _cell(metric: Mapping[str, float], difference: Mapping[str, float] | None) -> str:
    star = "*" if difference and (difference["low"] > 0 or difference["high"] < 0) else ""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]{star}"


if __name__ == "__main__":
    main_of(run)
