"""Tables to what training and evaluation read: vocabularies, examples, and the side tables of the task.

    python -m jobs.build_examples --settings pipeline.yaml examples.test_from=2011-11-10

Time is split at two cuts: `test_from`, from which on everything is held out, and `validation_days` before it. What was
built together counts once the manifest (jobs/builds.py) names it. Running it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import build_cuts, build_tables, build_vocabularies, builds, moved_builds
from jobs.build_inputs import inputs_of, lines_of, pinned
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.ground import Ground
from jobs.growth import Growth, growth
from jobs.sessions import giving_back, in_utc, open_session, partitions_for, persisted, session_settings
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs import vocabularies
from spark_udfs.features import Cuts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.table_reads import Pin

JOB = "build_examples"


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Build everything that the tables which the task reads give at their newest versions.

    Returns:
        The manifest (see jobs/builds.py) and `up_to_date`.

    Raises:
        TableError: a table is missing or empty, or another writer at the same time.
        SchemaError: a table has other columns than it should.
        DataError: nothing lies before a cut, a vocabulary is damaged, or persons were erased meanwhile.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with step("build examples: opening the tables"):
        dealt = partitions_for(spark, _size(settings, tables))
    with session_settings(spark, dealt):
        return _build(settings, tables)


def _size(settings: Settings, tables: Tables) -> int:
    """Bytes of the tables that a build reads."""
    wanted = TASKS[settings.task].tables(settings)
    return sum(tables.size(name) for name, optional in wanted.items() if not optional or tables.exists(name))


def _build(settings: Settings, tables: Tables) -> builds.Manifest:
    task = TASKS[settings.task]
    with step("build examples: comparing with the build in force"):
        before, watch = builds.newest(tables), Watch(tables, JOB, "examples")
        pins = pinned(tables, task, settings)
        inputs = inputs_of(task, pins, settings)
        same, held = before.manifest is not None and before.manifest["inputs"] == inputs, None
        if same and before.manifest is not None and moved_builds.are_its_own(tables, before.manifest, pins):
            held = moved_builds.readable(tables, before.manifest)
    if same:
        if held is not None:
            return _held(tables, before, held)
        say(
            "examples are built again: tables that the build in force names were removed, changed or have lost files, "
            "or others lie there now"
        )
    grown = None
    if before.manifest is not None and not same and task.grows:
        with step("build examples: looking for what was added"):
            grown = task.anew(settings) or growth(tables, task, settings, before.manifest, pins, inputs)
    with ExitStack() as kept:
        return _made(settings, tables, Basis(pins, inputs, before, watch), grown, kept)


class Basis(NamedTuple):
    """What a build is made of and comes after.

    Attributes:
        pins: the tables that it reads.
        inputs: what decides its rows.
        before: the build in force.
        watch: on persons who are erased meanwhile.
    """

    pins: Mapping[str, Pin]
    inputs: dict[str, Any]
    before: builds.Newest
    watch: Watch


def _made(
    settings: Settings, tables: Tables, of: Basis, grown: Growth | str | None, kept: ExitStack
) -> builds.Manifest:
    task = TASKS[settings.task]
    with step("build examples: counting up to the cuts"):
        read = {name: tables.read(name, pin.version) for name, pin in of.pins.items()}
        lines = lines_of(tables, task, settings, read)
        split = _split(settings, tables, lines, grown, kept)
    if isinstance(split.grown, str):
        say(f"examples are built from all rows: {split.grown}")
    with step("appending to the vocabularies"):
        numbered = build_vocabularies.append_all(
            tables,
            task.kinds(settings),
            split.later,
            split.cuts,
            more=task.more_ids(read, settings, split.cuts.test),
            inputs=of.inputs,
            checked={} if of.before.manifest is None else of.before.manifest["versions"],
            kept=kept,
        )
        vocabulary = {name: each.rows for name, each in numbered.items()}
    ground = Ground(read | {"lines": lines} | vocabulary, settings, Path(settings.run_dir))
    with giving_back(tables.spark, ground.release):
        written = build_tables.write(
            tables, task, ground, split.cuts, split.counts["training_lines"], of.inputs, split.goes_on
        )
    with step("build examples: counting and publishing"):
        versions = {name: each.version for name, each in numbered.items()} | written
        manifest = {
            "versions": versions,
            "read": {name: pin.version for name, pin in of.pins.items()},
            "inputs": of.inputs,
            "ids": tables.ids((*of.pins, *versions)),
            **_told(settings, tables, split, ground, vocabulary, written["examples"]),
        }
        of.watch.before_publishing()
        builds.publish(tables, manifest, job=JOB, since=of.before.version)
    show_counts(f"Examples of {split.cuts.test:%Y-%m-%d}", manifest["counts"])
    return manifest | {"up_to_date": False}


class Split(NamedTuple):
    """Where time is split, and what of the lines is looked at.

    Attributes:
        cuts: where.
        span: the times of the first and of the last line, in microseconds.
        counts: of the lines before and after the cuts.
        later: the lines whose ids may be new.
        grown: what the build goes on from, or why it cannot; None: there is nothing to go on from.
    """

    cuts: Cuts
    span: list[int | None]
    counts: dict[str, int]
    later: DataFrame
    grown: Growth | str | None

    @property
    def goes_on(self) -> Growth | None:
        return self.grown if isinstance(self.grown, Growth) else None


def _split(settings: Settings, tables: Tables, lines: DataFrame, grown: Growth | str | None, kept: ExitStack) -> Split:
    task = TASKS[settings.task]
    kinds = task.kinds(settings)
    known = build_cuts.has_ids(kinds)
    if isinstance(grown, Growth):
        span = grown.span(grown.added.where(known))
        cuts = build_cuts.cuts_of(span, task, settings, tables)
        grown = grown.refused(cuts) or grown
    else:
        span = build_cuts.span_of(lines.where(known))
        cuts = build_cuts.cuts_of(span, task, settings, tables)
    if not isinstance(grown, Growth):
        return Split(cuts, span, build_cuts.count(lines, kinds, cuts), lines, grown)
    later = kept.enter_context(persisted(grown.in_between(lines, cuts)))
    return Split(cuts, span, grown.counted(later, cuts, kinds), later, grown)


def _told(
    settings: Settings, tables: Tables, split: Split, ground: Ground, vocabulary: Mapping[str, DataFrame], made: int
) -> builds.Manifest:
    """What the manifest tells of the build, beside what it is made of."""
    task, in_pieces = TASKS[settings.task], build_tables.pieces_of(split.cuts, split.goes_on)
    of_splits = in_pieces.of_splits(split.cuts)
    sizes = {name.removeprefix("vocabulary_"): rows.count() + 1 for name, rows in vocabulary.items()}
    return {
        "cuts": {"validation": split.cuts.validation.isoformat(), "test": split.cuts.test.isoformat()},
        "counts": split.counts | ground.counts | _examples_of(tables, split, made, of_splits),
        "pieces": of_splits,
        "starts": [start.isoformat() for start in in_pieces.starts],
        "span": split.span,
        "sides": builds.SIDES,
        "schema": task.schema(sizes, settings).to_json(),
        "numbers": {
            kind: vocabularies.digest(vocabulary[f"vocabulary_{kind}"], sizes[kind] - 1)
            for kind in task.numbers(settings)
        },
    }


def _examples_of(tables: Tables, split: Split, made: int, of_splits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many examples each split has; those that were written now are counted by the log, where it tells."""
    counts = builds.count_written(tables, made, of_splits)
    if counts is None:
        rows = tables.read("examples", made)
        counts = builds.count_examples(rows.where(split.goes_on.replaces()) if split.goes_on else rows, of_splits)
    return split.goes_on.with_stayed(counts) if split.goes_on else counts


def _held(tables: Tables, before: builds.Newest, held: builds.Manifest) -> builds.Manifest:
    """What was built is still there; where housekeeping has moved it, a new manifest says so."""
    for name in held["versions"]:
        tables.give_name(name)
    same = held == before.manifest
    if not same:
        builds.publish(tables, held, job=JOB, since=before.version)
    moved = "" if same else "; they lie in other files now"
    say(f"examples are up to date with the tables that they are made of and with the settings{moved}")
    return held | {"up_to_date": same}


if __name__ == "__main__":
    main_of(run)
