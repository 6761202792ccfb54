"""Score: the bundle's answers as of a moment, to all that the task asks, into the task's table.

    python -m jobs.score --settings shop.yaml scoring.k=50

Rows name their bundle and moment; running it again with the same bundle, tables and moment changes nothing, other
tables replace that bundle's rows of that moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import builds
from jobs.artefacts import SCORE, read_json, write_json
from jobs.build_examples import pinned
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import JOB as ERASE
from jobs.erasure.erased import Watch
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import BY_ID, BY_LINE, Ground, Task
from jobs.tasks import TASKS
from jobs.train import latest_bundle
from spark_udfs import features
from training.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import Column, DataFrame, SparkSession

JOB = "score"
# A time as a folder's name has no zone, and a reader in another one takes it for another time: the folder has text.
FOLDERS = ["bundle", "as_of"]


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Answer with the latest bundle, all that the task asks.

    Returns:
        task, table, bundle, moment, version, up_to_date, and the task's counts.

    Raises:
        BundleError: no bundle, or one that cannot answer such queries, or was trained on other items.
        TableError: a table is missing, or nothing lies before the moment.
        DataError: persons were erased meanwhile.
    """
    task, bundle = TASKS[settings.task], latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with step("score: opening the tables"):
        marks = task.persons(settings).get(task.table, {})
        by_id = [column for column, how in marks.items() if how == BY_ID]
        watch = Watch(
            tables, JOB, task.table, by_id, partial(_take_out, tables, task) if BY_LINE in marks.values() else None
        )
        pins = pinned(tables, task, settings) | {name: tables.pin(name) for name in task.asks}
        built = builds.published(tables)["versions"]
        vocabulary = {f"vocabulary_{kind}": built[f"vocabulary_{kind}"] for kind in task.kinds(settings)}
        read = {name: tables.read(name, version) for name, version in vocabulary.items()}
        read |= {name: tables.read(name, pin.version) for name, pin in pins.items()}
        lines = task.lines(read, settings)
    with step("score: comparing the vocabularies with the bundle's"):
        builds.refuse_other_numbers(tables, built, bundle)
    with step("score: looking for the first and the last moment"):
        moment = _moment(settings, task, lines, tables)
    inputs = {
        "bundle": bundle.name,
        "moment": moment.isoformat(),
        "tables": {name: pin.content for name, pin in pins.items()} | vocabulary,
        "scoring": settings.scoring.model_dump(mode="json", exclude={"moment"}),
        "max_history": settings.examples.max_history,
        "max_lines": settings.examples.max_lines,
        "recent_days": settings.examples.recent_days,
        "options": settings.options.model_dump(mode="json"),
        **watch.inputs,
    }
    before: dict[str, Any] | None = read_json(settings.run_dir, SCORE)
    with step("score: comparing with what is there"):
        held = before is not None and before.get("inputs") == inputs and tables.up_to_date(task.table, JOB, inputs)
    if before is not None and held:
        say(f"{task.table} of {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S} are up to date")
        return before | {"up_to_date": True}
    ground = Ground(read | {"lines": lines}, settings, Path(settings.run_dir), bundle)
    with (
        giving_back(spark, ground.release),
        step(f"scoring with {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S}"),
    ):
        scored = task.spark().score(ground, moment)
        watch.before_writing()
        version = _write(tables, task, scored.rows, bundle.name, moment, inputs)
        watch.after_writing([task.table], made=inputs)
        counts = scored.counts(tables.read(task.table, version).where(_mine(bundle.name, moment)))
    summary: dict[str, Any] = {
        "task": task.name,
        "table": task.table,
        "bundle": bundle.name,
        "moment": moment.isoformat(),
    }
    summary |= {"version": version} | counts
    write_json(settings.run_dir, SCORE, summary | {"inputs": inputs})
    show_counts(task.table.replace("_", " ").capitalize(), counts)
    return summary | {"inputs": inputs, "up_to_date": False}


def _moment(settings: Settings, task: Task, lines: DataFrame, tables: Tables) -> datetime:
    """The moment asked for, or a second after the last line that has all ids."""
    table = next(iter(task.tables(settings)))
    known = reduce(and_, (F.col(column).isNotNull() for column in task.kinds(settings).values()), F.lit(True))
    first, last = lines.where(known).agg(F.unix_micros(F.min("time")), F.unix_micros(F.max("time"))).collect()[0]
    if first is None:
        raise TableError(
            f"table '{table}' at {tables.path(table)} has no {task.row} with all ids; run `millrace ingest`"
        )
    asked = settings.scoring.moment
    if asked is None:
        return datetime.fromtimestamp(last // 1_000_000 + 1, tz=UTC)
    moment, begins = features.utc(asked), datetime.fromtimestamp(first / 1e6, tz=UTC)
    if moment <= begins:
        raise TableError(
            f"table '{table}' at {tables.path(table)} has no {task.row} before scoring.moment {moment.isoformat()}; "
            f"the first is of {begins.isoformat()}"
        )
    return moment


def _as_of(moment: datetime) -> str:
    """A moment in UTC, as the name of a folder."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


def _mine(bundle: str, moment: datetime) -> Column:
    return (F.col("bundle") == bundle) & (F.col("as_of") == _as_of(moment))


def _take_out(tables: Tables, task: Task, made: Mapping[str, Any]) -> int:
    """Remove the answers that a write brought, by its inputs; returns how many."""
    bundle, moment = str(made["bundle"]), datetime.fromisoformat(made["moment"])
    rows = tables.read(task.table).where(_mine(bundle, moment))
    count = rows.count()
    tables.write(
        task.table, rows.limit(0), mode="overwrite", job=ERASE, inputs={}, where=_where(bundle, moment),
        partition_by=FOLDERS,
    )  # fmt: skip
    return count


def _where(bundle: str, moment: datetime) -> str:
    return f"bundle = '{bundle}' AND as_of = '{_as_of(moment)}'"


def _write(tables: Tables, task: Task, rows: DataFrame, bundle: str, moment: datetime, inputs: dict[str, Any]) -> int:
    """Replace this bundle's rows of this moment; other rows stay.

    Raises:
        TableError: the table has other folders: an earlier version of Millrace made it.
    """
    name = task.table
    held = tables.folders(name) if tables.exists(name) else FOLDERS
    if held != FOLDERS:
        raise TableError(
            f"table '{name}' at {tables.path(name)} has folders by {', '.join(held)}, not by {', '.join(FOLDERS)}: an "
            "earlier version of Millrace made it; rename its folder and score again ('feedback' stays as it is)"
        )
    return tables.write(
        name,
        rows.select(
            *task.answer,
            F.lit(bundle).alias("bundle"),
            F.lit(moment).alias("moment"),
            F.lit(_as_of(moment)).alias("as_of"),
        ),
        mode="overwrite",
        job=JOB,
        inputs=inputs,
        where=_where(bundle, moment),
        partition_by=FOLDERS,
    )


if __name__ == "__main__":
    main_of(run)
