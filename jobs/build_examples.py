"""Tables to what training and evaluation read: vocabularies, examples, and the side tables of the task.

    python -m jobs.build_examples --settings pipeline.yaml examples.test_from=2011-11-10

Time is split at two cuts: `test_from`, from which on everything is held out, and `validation_days` before it. What was
built together counts once the manifest (jobs/builds.py) names it. Running it twice changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from operator import and_
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import builds
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.growth import Growth, growth, table_ids
from jobs.sessions import giving_back, in_utc, open_session, partitions_for, persisted, session_settings
from jobs.settings import Settings
from jobs.settings_sections import ExampleSettings
from jobs.table_reads import Pin
from jobs.tables import Tables
from jobs.task import Ground, Task
from jobs.tasks import TASKS
from spark_udfs import features, pieces, vocabularies
from spark_udfs.features import Cuts
from spark_udfs.pieces import Pieces
from training.errors import DataError, TableError

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
        same = before.manifest is not None and before.manifest["inputs"] == inputs
        held = builds.readable(tables, before.manifest) if same and before.manifest is not None else None
    if same:
        if held is not None:
            return _held(tables, before, held)
        say("examples are built again: versions that the build in force names have lost files, and rows have changed")
    kinds = task.kinds(settings)
    grown = None
    if before.manifest is not None and not same and task.grows:
        with step("build examples: looking for what was added"):
            grown = growth(tables, task, settings, before.manifest, pins, inputs)
    with step("build examples: counting up to the cuts"):
        read = {name: tables.read(name, pin.version) for name, pin in pins.items()}
        lines = _lines(tables, task, settings, read)
        known = lines.where(_known(kinds))
        span = grown.span(grown.added.where(_known(kinds))) if isinstance(grown, Growth) else _span(known)
        cuts = _cuts(span, task, settings, tables)
        if isinstance(grown, Growth):
            grown = grown.refused(cuts) or grown
        goes_on = grown if isinstance(grown, Growth) else None
        later = lines if goes_on is None else lines.where(features.known_since(goes_on.cuts.test))
        counts = _count(later, kinds, cuts)
        if goes_on is not None:
            counts = goes_on.counted(counts)
    if isinstance(grown, str):
        say(f"examples are built from all rows: {grown}")
    with step("appending to the vocabularies"):
        checked = {} if before.manifest is None else before.manifest["versions"]
        vocabulary = {
            kind: _vocabulary(tables, kinds, kind, later, cuts, inputs, checked.get(f"vocabulary_{kind}"))
            for kind in kinds
        }
        numbered = {
            f"vocabulary_{kind}": tables.read(f"vocabulary_{kind}", version) for kind, version in vocabulary.items()
        }
    ground = Ground(read | {"lines": lines} | numbered, settings, Path(settings.run_dir))
    with giving_back(tables.spark, ground.release):
        written = _write(tables, task, ground, cuts, counts, inputs, goes_on)
    with step("build examples: counting and publishing"):
        counts |= ground.counts
        sizes = {kind: numbered[f"vocabulary_{kind}"].count() + 1 for kind in kinds}
        in_pieces = _pieces(cuts, goes_on)
        of_splits = in_pieces.of_splits(cuts)
        made = tables.read("examples", written["examples"])
        counts |= builds.count_examples(made, of_splits) if goes_on is None else goes_on.count_examples(made, of_splits)
        manifest = {
            "versions": {f"vocabulary_{kind}": version for kind, version in vocabulary.items()} | written,
            "read": {name: pin.version for name, pin in pins.items()},
            "inputs": inputs,
            "cuts": {"validation": cuts.validation.isoformat(), "test": cuts.test.isoformat()},
            "counts": counts,
            "pieces": of_splits,
            "starts": [start.isoformat() for start in in_pieces.starts],
            "span": span,
            "ids": table_ids(tables, task),
            "sides": builds.SIDES,
            "schema": task.schema(sizes, settings).to_json(),
            "numbers": {
                kind: vocabularies.digest(numbered[f"vocabulary_{kind}"], sizes[kind] - 1)
                for kind in task.numbers(settings)
            },
        }
        watch.before_publishing()
        builds.publish(tables, manifest, job=JOB, since=before.version)
    show_counts(f"Examples of {cuts.test:%Y-%m-%d}", counts)
    return manifest | {"up_to_date": False}


def pinned(tables: Tables, task: Task, settings: Settings) -> dict[str, Pin]:
    """The newest versions of the tables that a task reads, without those that may be missing and are.

    Raises:
        TableError: another one is missing.
    """
    return {
        name: tables.pin(name)
        for name, optional in task.tables(settings).items()
        if not optional or tables.exists(name)
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


def inputs_of(task: Task, pins: Mapping[str, Pin], settings: Settings) -> dict[str, Any]:
    """What decides the rows: the tables read, by the last change of their rows, and the settings.

    What came later is named only where it is used, so that what was built before stays.
    """
    return {
        "task": task.name,
        **{name: pins[name].content if name in pins else None for name in task.tables(settings)},
        "settings": settings.examples.model_dump(mode="json", exclude={"weights"}) | worth(settings),
        **({"options": options} if (options := settings.options.model_dump(mode="json")) else {}),
    }


def worth(settings: Settings) -> dict[str, Any]:
    """`weights`, as an input of what is made of lines; nothing where purchases alone are lines."""
    weights = settings.examples.weights
    return {} if weights == features.PURCHASES else {"weights": {str(kind): weights[kind] for kind in weights}}


def _lines(tables: Tables, task: Task, settings: Settings, read: dict[str, DataFrame]) -> DataFrame:
    """The task's lines, of tables that have the columns which it reads, and rows."""
    for name, columns in task.reads(settings).items():
        table = name.removesuffix("?")
        if table in read:
            tables.require(read[table], table, {name: kind.removesuffix("?") for name, kind in columns.items()})
    first = next(iter(read))
    if read[first].isEmpty():
        raise TableError(f"table '{first}' at {tables.path(first)} is empty; run `millrace ingest` on a file with rows")
    return task.lines(read, settings)


def _known(kinds: Mapping[str, str]) -> Column:
    """Whether a line has all ids."""
    return reduce(and_, (F.col(column).isNotNull() for column in kinds.values()), F.lit(True))


def _span(lines: DataFrame) -> list[int | None]:
    """The times of the first and of the last line, in microseconds."""
    first, last = lines.agg(F.min(F.unix_micros("time")), F.max(F.unix_micros("time"))).collect()[0]
    return [first, last]


def _pieces(cuts: Cuts, goes_on: Growth | None) -> Pieces:
    return Pieces((cuts.validation,)) if goes_on is None else goes_on.pieces(cuts)


def _cuts(span: list[int | None], task: Task, settings: Settings, tables: Tables) -> Cuts:
    examples = settings.examples
    first, last = span
    if first is None or last is None:
        ids, table = " and ".join(task.kinds(settings).values()), next(iter(task.tables(settings)))
        raise DataError(
            f"no {task.row} in table '{table}' at {tables.path(table)} has {ids}; map them to the source's columns and "
            "run `millrace ingest` again"
        )
    if examples.test_from is not None:
        test = features.utc(examples.test_from)
    else:
        tenth = datetime.fromtimestamp((last - (last - first) / 10) / 1e6, tz=UTC)
        test = tenth.replace(hour=0, minute=0, second=0, microsecond=0)
    validation = test - timedelta(days=examples.validation_days)
    begins = datetime.fromtimestamp(first / 1e6, tz=UTC)
    if validation <= begins:
        raise DataError(
            f"training needs {task.row}s before {validation:%Y-%m-%d} (examples.test_from {test:%Y-%m-%d} less "
            f"validation_days {examples.validation_days}), the first one is of {begins:%Y-%m-%d}; "
            "move test_from or shorten the validation"
        )
    return Cuts(validation=validation, test=test)


def _count(lines: DataFrame, kinds: Mapping[str, str], cuts: Cuts) -> dict[str, int]:
    """Lines and distinct ids known before the test cut, and what is held out."""
    has_ids, before = _known(kinds), features.known_before(cuts.test)
    known = F.coalesce(has_ids & before, F.lit(False))
    row = lines.agg(
        F.count_if(known).alias("training_lines"),
        *(F.countDistinct(F.when(known, F.col(column))).alias(f"training_{kind}") for kind, column in kinds.items()),
        F.count_if(has_ids & (F.col("time") >= F.lit(cuts.test))).alias("held_out_lines"),
    )
    return {name: int(value) for name, value in row.collect()[0].asDict().items()}


def _vocabulary(
    tables: Tables,
    kinds: Mapping[str, str],
    kind: str,
    lines: DataFrame,
    cuts: Cuts,
    inputs: dict[str, Any],
    checked: int | None,
) -> int:
    """Append the ids that lines with all ids before the test cut have; returns the vocabulary's version.

    A build was made with the version `checked`: it is not looked into again.
    """
    name = f"vocabulary_{kind}"
    known = lines.where(features.known_before(cuts.test) & _known(kinds))
    held, version = tables.spark.createDataFrame([], vocabularies.SCHEMA), -1
    if tables.exists(name):
        version = tables.version(name)
        held = tables.read(name, version)
    made = version
    with ExitStack() as kept:  # so that lines and vocabulary are read once
        ids = kept.enter_context(persisted(known.select(F.col(kinds[kind]).alias("id")).distinct()))
        new = kept.enter_context(persisted(vocabularies.new_entries(ids, held)))
        if version < 0 or not new.isEmpty():
            # Serializable, and of two that add to one version the second is refused, so no index is given twice.
            properties = {"delta.appendOnly": "true", "delta.isolationLevel": "Serializable"}
            made = tables.write(name, new, mode="append", since=version, job=JOB, inputs=inputs, properties=properties)
    faults = {} if version == checked else vocabularies.faults(tables.read(name, made))
    if faults:
        listed = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise DataError(
            f"table '{name}' at {tables.path(name)} must number its ids 1, 2, ... once each; it has {listed}. "
            "Restore an earlier version (RESTORE TABLE), or remove all vocabularies and train anew"
        )
    return made


def _write(
    tables: Tables,
    task: Task,
    ground: Ground,
    cuts: Cuts,
    counts: dict[str, int],
    inputs: dict[str, Any],
    goes_on: Growth | None,
) -> dict[str, int]:
    """Write what the task makes, each table in a commit; returns their versions."""
    examples, versions = ground.settings.examples, dict[str, int]()
    with step("build examples: planning its tables"):
        on_spark = task.spark()
        planned = dict(
            on_spark.examples(ground, cuts) if goes_on is None else on_spark.go_on(ground, cuts, goes_on.before(tables))
        )
        made = planned.pop("examples")
    write = partial(tables.write, mode="overwrite", job=JOB, inputs=inputs)
    if goes_on is not None:
        versions |= {name: goes_on.manifest["versions"][name] for name in builds.side_tables(goes_on.manifest)}
    for name, rows in planned.items():
        folders = ["split"] if "split" in rows.columns else []
        with step(f"writing {name}"):
            versions[name] = write(name, rows, partition_by=folders, properties={"compression": "zstd"})
    rows, where, since, count = made, None, None, counts["training_lines"]
    if goes_on is not None:
        with step("build examples: opening the examples of the build before"):
            since = goes_on.put_back(tables, JOB)
        rows, where = goes_on.rows(tables, made), goes_on.replaces()
        count -= goes_on.manifest["counts"]["examples_train"]
    rows = rows.withColumn(pieces.COLUMN, _pieces(cuts, goes_on).of(F.col("known_at")))
    with step("writing examples"):
        versions["examples"] = write(
            "examples",
            _laid_out(rows, task, count, examples),
            where=where,
            since=since,
            partition_by=[pieces.COLUMN],
            properties=_file_layout(examples),
        )
    return versions


def _laid_out(rows: DataFrame, task: Task, count: int, examples: ExampleSettings) -> DataFrame:
    """Spread moments over files by hash, and keep each moment's rows side by side: their one history compresses away.

    Moments are in hash order within a file, so that a row group mixes users and times.
    """
    files = max(1, math.ceil(count / examples.rows_per_file))
    moment = F.xxhash64(*task.key[: task.spread])
    return rows.repartition(files, moment).sortWithinPartitions(pieces.COLUMN, moment, *task.key)


def _file_layout(examples: ExampleSettings) -> dict[str, str]:
    """Row groups of exactly `rows_per_group` rows (the last of a file has the rest).

    Parquet's writer knows no limit of rows, only one of bytes, which it checks after so many rows: a limit that is
    always passed, checked every `rows_per_group` rows, is one.
    """
    rows = str(examples.rows_per_group)
    return {
        "compression": "zstd",
        "parquet.block.size": "1",
        "parquet.page.size.row.check.min": rows,
        "parquet.page.size.row.check.max": rows,
    }


if __name__ == "__main__":
    main_of(run)
