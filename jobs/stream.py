"""Stream: rows answered as they come, into a table to which each batch adds its rows and answers in one commit.

    python -m jobs.stream --settings shop.yaml stream.path=/shop/incoming stream.format=json

The first start takes up the history from the tables; a later one goes on where the last one ended, however that was. A
row is answered once: a batch that was begun again has the same rows and the same answers, and its commit lands once.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from cluster.errors import EnvironmentProblem, spark_reason
from cluster.session import TO_SCORE
from jobs import builds, delta_sql
from jobs.build_inputs import refuse_other_options
from jobs.command import main_of
from jobs.console import say, show_counts, step, warn
from jobs.live import source
from jobs.live.follower import Follower
from jobs.live.progress import FOLDER, Progress
from jobs.score_ground import found_of, ground_of
from jobs.sessions import SPARK_ERRORS, in_utc, open_session, session_settings
from jobs.tables import Tables
from jobs.task import said_persons
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs import features
from training.errors import SchemaError, SettingsError, TableError
from training.state.lock import only_writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

    from jobs.ground import Ground
    from jobs.settings import Settings
    from jobs.settings_sources import TableSource
    from jobs.task import Task
    from jobs.task_live import Live

BATCH = {"batch": "bigint"}  # the first column, of which Delta keeps statistics whatever a table has
BY = {"bundle": "string"}
EVERY = "1 second"  # what came is looked for, which lists a whole folder
WHOSE = "millrace.stream"  # the property of a stream's table
# Of what was killed, and of the rows that were held there.
_WORKER = re.compile("worker exited|Broken pipe|Connection reset|ExecutorLost|was lost|Checkpoint block rdd_")
_CHANGED = re.compile("DELTA_SCHEMA_CHANGED|DELTA_STREAMING_INCOMPATIBLE")
_REWRITTEN = re.compile("DELTA_SOURCE_TABLE_IGNORE_CHANGES|DELTA_SOURCE_IGNORE_DELETE")
WAIT_S = 1.0  # between two looks at a Delta table that nothing was added to since the history


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Answer rows as they come, with the latest bundle; until it is stopped, or `stream.once` and all is answered.

    Returns:
        task, table, bundle, batches (that were answered), rows (by what they were, or why they were none).

    Raises:
        SettingsError: the task's rows are not answered so, or the settings do not suit.
        BundleError: there is no bundle, or it was trained on others.
        LockHeldError: another stream works in this run folder.
        TableError: the table is another stream's, or nothing was ingested or built; or rows of a Delta table that is
            followed were changed.
        SchemaError: the source has changed its columns. TooManyBadRows: too many rows of a batch do not fit.
        EnvironmentProblem: the session is one of Spark Connect.
    """
    task = TASKS[settings.task]
    live = _live_of(task)
    live.spark().refuse(settings)
    asked = source.asked_of(settings, live.follows)
    bundle = latest_bundle(settings.run_dir)
    with only_writer(Path(settings.run_dir) / FOLDER, warn, what="stream's folder", who="stream"):
        spark = open_session(settings, spark, beside=TO_SCORE)
        if is_remote():
            raise EnvironmentProblem(
                "a stream keeps rows in the driver's JVM and needs a session of Spark's own; this one is of Spark "
                "Connect: leave SPARK_REMOTE and spark.master=sc:// out"
            )
        with session_settings(spark, source.READING):
            return _followed(settings, Tables(spark, settings.tables.root, settings.tables.catalogue), asked, bundle)


def _live_of(task: Task) -> Live:
    if task.live is None:
        able = ", ".join(sorted(name for name, other in TASKS.items() if other.live is not None))
        raise SettingsError(
            f"the rows of task '{task.name}' are not answered as they come; those of these tasks are: {able}. Run "
            "`millrace score` as often as answers are needed"
        )
    return task.live


def _followed(settings: Settings, tables: Tables, asked: TableSource, bundle: Path) -> dict[str, Any]:
    task = TASKS[settings.task]
    live = _live_of(task)
    with step("stream: opening the tables"):
        ground = _ground(settings, tables, task, bundle)
        progress = Progress(settings.run_dir)
        columns = _columns(settings, task, live)
        _take_table(tables, live, progress, columns)
    with step("stream: taking up the bundle"):
        _take_bundle(live, progress, ground, bundle)
    follower = Follower(settings, tables, live, columns, asked, ground, progress)
    first = progress.next
    _follow(settings, tables, live, asked, follower, progress)
    show_counts("Rows", follower.counts)
    return {
        "task": task.name,
        "table": live.table,
        "bundle": bundle.name,
        "batches": progress.next - first,
        "rows": follower.counts,
    }


def _ground(settings: Settings, tables: Tables, task: Task, bundle: Path) -> Ground:
    found = found_of(tables, task, settings)
    builds.refuse_other_numbers(tables, found.build["versions"], bundle)
    refuse_other_options(task, task.decides(settings) or {}, builds.build_of(bundle), f"bundle '{bundle.name}'")
    queries = tables.read("queries", found.build["versions"]["queries"]).where(F.col("split") == features.TEST)
    ground = ground_of(tables, task, settings, found, datetime.now(UTC), bundle)
    return replace(ground, read={**ground.read, "queries": queries})


def _columns(settings: Settings, task: Task, live: Live) -> dict[str, str]:
    """What is read of a row, with its types."""
    columns = {name: kind for name, kind in task.reads(settings)[live.follows].items() if name not in live.unread}
    return columns | {name: "string?" for name in said_persons(settings, live.follows) if name not in columns}


def _take_table(tables: Tables, live: Live, progress: Progress, columns: Mapping[str, str]) -> None:
    """Make the stream's table, or see that it is this stream's.

    Raises:
        TableError: it is another's, or gone, or the columns have changed since.
    """
    if progress.is_new:
        progress.say()
    if "kept" in progress.held and not tables.exists(live.table):
        raise TableError(
            f"table '{live.table}' at {tables.path(live.table)} is gone, and '{progress.folder}' says that its batches "
            f"up to {progress.next - 1} are in there: put it back, or rename that folder to begin a new stream"
        )
    of_rows = {name: kind.removesuffix("?") for name, kind in columns.items()}
    fields = BATCH | of_rows | live.said | dict(live.answer) | BY
    schema = ", ".join(f"`{name}` {kind}" for name, kind in fields.items())
    tables.make(live.table, tables.spark.createDataFrame([], schema))
    held = tables.detail(live.table)["properties"].get(WHOSE)
    if held is None and not tables.version(live.table):
        delta_sql.set_properties(tables.spark, tables.path(live.table), {WHOSE: progress.held["stream"]})
    _refuse_other(tables, live, progress)
    held_columns = tables.read(live.table).columns
    if strangers := sorted(set(fields) ^ set(held_columns)):
        raise TableError(
            f"table '{live.table}' at {tables.path(live.table)} must have the columns of these settings; of "
            f"{', '.join(strangers)} one side knows nothing: put options back, or rename the table's folder and "
            f"'{progress.folder}' to begin a new stream"
        )


def _refuse_other(tables: Tables, live: Live, progress: Progress) -> None:
    """See that the stream's table is this stream's.

    Raises:
        TableError: it is another's.
    """
    held = tables.detail(live.table)["properties"].get(WHOSE)
    if held != progress.held["stream"]:
        raise TableError(
            f"table '{live.table}' at {tables.path(live.table)} is that of another stream, "
            f"{held or 'which has no name'}; this one, '{progress.folder}', is {progress.held['stream']}: two would "
            "answer rows twice. Go on with that stream's run_dir, or set another tables.root"
        )


def _take_bundle(live: Live, progress: Progress, ground: Ground, bundle: Path) -> None:
    """Keep which bundle answers from here on, and from where on its answers are alarms."""
    if progress.held.get("bundle") != bundle.name:
        progress.say(bundle=bundle.name, limit=live.spark().limit(ground, ground.read["queries"]))


def _follow(
    settings: Settings, tables: Tables, live: Live, asked: TableSource, follower: Follower, progress: Progress
) -> None:
    """Answer batch after batch. One that ends because a worker was killed is begun again; the second time it counts."""
    ended_at = -1
    while True:
        follower.open()
        try:
            _query(settings, tables, live, asked, follower, progress)
            return
        except SPARK_ERRORS as error:
            told = follower.error
            if told is not None and not isinstance(told, SPARK_ERRORS):
                raise told from error
            _refuse_changed(error, asked)
            if ended_at == progress.next or not _WORKER.search(str(error)):
                raise
            ended_at = progress.next
            warn(f"stream: batch {ended_at} ended, for a worker was lost, and is begun again: {spark_reason(error)}")
        finally:
            follower.close()


def _query(
    settings: Settings, tables: Tables, live: Live, asked: TableSource, follower: Follower, progress: Progress
) -> None:
    opened = partial(source.opened, tables, asked, live.follows, settings.stream.files, progress)
    if (came := opened()) is None:
        say(f"stream: nothing has come into {asked.path} since the history was read")
    while came is None:
        if settings.stream.once:
            return
        time.sleep(WAIT_S)
        came = opened()
    progress.refuse_other()
    _refuse_other(tables, live, progress)  # two that made it at once have each taken it by now
    writer = came.writeStream.foreachBatch(follower.take).option("checkpointLocation", progress.checkpoint.as_uri())
    query = writer.trigger(**({"availableNow": True} if settings.stream.once else {"processingTime": EVERY})).start()
    say(f"stream: answering what comes into {asked.path}, from batch {progress.next} on")
    try:
        query.awaitTermination()
    finally:
        query.stop()


def _refuse_changed(error: Exception, asked: TableSource) -> None:
    """Name a change of the source's columns or rows, which Spark tells at length.

    Raises:
        SchemaError: the columns have changed.
        TableError: rows have.
    """
    if _REWRITTEN.search(str(error)):
        raise TableError(
            f"rows of table '{asked.path}' were changed, or some of a file's removed, while they were followed: what "
            "is new cannot be told from what was written again. Nothing of that commit was answered, and the stream "
            "cannot go on after it: follow a table that rows are only added to, or ingest the table, remove the "
            "stream's folder and tables, and begin a new stream"
        ) from error
    if _CHANGED.search(str(error)):
        raise SchemaError(
            f"the columns of '{asked.path}' have changed while its rows were followed. See that sources still names "
            "them rightly, and run `millrace stream` again: it goes on where it was, and nothing was lost"
        ) from error


if __name__ == "__main__":
    main_of(run)
