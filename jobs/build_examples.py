"""Tables to what training and evaluation read: vocabularies, examples, and the side tables of the task.

    python -m jobs.build_examples --settings pipeline.yaml examples.test_from=2011-11-10

Time is split at two cuts: `test_from`, from which on everything is held out, and `validation_days` before it. What was
built together counts once the manifest (jobs/builds.py) names it. Running it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import build_cuts, build_tables, build_vocabularies, builds, moved_builds
from jobs.build_inputs import inputs_of, lines_of, pinned
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.ground import Ground
from jobs.growth import Growth, growth
from jobs.sessions import giving_back, in_utc, open_session, partitions_for, session_settings
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from spark_udfs import features, vocabularies
from spark_udfs.features import Cuts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

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
    with step("build examples: counting up to the cuts"):
        read = {name: tables.read(name, pin.version) for name, pin in pins.items()}
        lines = lines_of(tables, task, settings, read)
        split = _split(settings, tables, lines, grown)
    if isinstance(split.grown, str):
        say(f"examples are built from all rows: {split.grown}")
    with step("appending to the vocabularies"):
        checked = {} if before.manifest is None else before.manifest["versions"]
        numbered = build_vocabularies.append_all(
            tables,
            task.kinds(settings),
            split.later,
            split.cuts,
            more=task.more_ids(read, settings, split.cuts.test),
            inputs=inputs,
            checked=checked,
        )
        vocabulary = {name: tables.read(name, version) for name, version in numbered.items()}
    ground = Ground(read | {"lines": lines} | vocabulary, settings, Path(settings.run_dir))
    with giving_back(tables.spark, ground.release):
        written = build_tables.write(
            tables, task, ground, split.cuts, split.counts["training_lines"], inputs, split.goes_on
        )
    with step("build examples: counting and publishing"):
        versions = numbered | written
        manifest = {
            "versions": versions,
            "read": {name: pin.version for name, pin in pins.items()},
            "inputs": inputs,
            "ids": tables.ids((*pins, *versions)),
            **_told(settings, split, ground, vocabulary, tables.read("examples", written["examples"])),
        }
        watch.before_publishing()
        builds.publish(tables, manifest, job=JOB, since=before.version)
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


def _split(settings: Settings, tables: Tables, lines: DataFrame, grown: Growth | str | None) -> Split:
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
    later = lines.where(features.known_since(grown.cuts.test))
    return Split(cuts, span, grown.counted(build_cuts.count(later, kinds, cuts)), later, grown)


def _told(
    settings: Settings, split: Split, ground: Ground, vocabulary: Mapping[str, DataFrame], made: DataFrame
) -> builds.Manifest:
    """What the manifest tells of the build, beside what it is made of."""
    task, in_pieces = TASKS[settings.task], build_tables.pieces_of(split.cuts, split.goes_on)
    of_splits = in_pieces.of_splits(split.cuts)
    count = builds.count_examples if split.goes_on is None else split.goes_on.count_examples
    sizes = {name.removeprefix("vocabulary_"): rows.count() + 1 for name, rows in vocabulary.items()}
    return {
        "cuts": {"validation": split.cuts.validation.isoformat(), "test": split.cuts.test.isoformat()},
        "counts": split.counts | ground.counts | count(made, of_splits),
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
