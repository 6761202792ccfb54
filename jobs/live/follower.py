"""A stream's batches, each answered once: rows in, rows with answers out, in one commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import unfit_rows
from jobs.console import warn
from jobs.erasure import erased
from jobs.erasure.persons import known_to, of_no_person_in
from jobs.live import source, tally
from jobs.live.held import Held
from jobs.live.threads import Threads
from jobs.sessions import persisted
from jobs.task import said_persons
from jobs.tasks import TASKS
from spark_udfs import live
from training.errors import SchemaError, TooManyBadRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

    from jobs.ground import Ground
    from jobs.live.progress import Progress
    from jobs.settings import Settings
    from jobs.settings_sources import TableSource
    from jobs.tables import Tables
    from jobs.task_live import Live
    from spark_udfs.live import Clock

JOB = "stream"
MANY = 100  # rows, after which people are told if too many lie in other times
AGAIN = "and run `millrace stream` again: it goes on with this batch, of which nothing was written"


class Follower:
    """What answers a stream's batches.

    Args:
        settings: the pipeline's.
        tables: the pipeline's.
        task_live: how the task's rows are answered.
        columns: types of what is read, by column.
        asked: how rows are written.
        ground: with the bundle, the vocabularies and the history's `lines`.
        progress: how far the stream is.

    Attributes:
        error: what ended a batch, as it was raised: Spark tells of it in words alone.
        counts: rows by what they were.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        task_live: Live,
        columns: dict[str, str],
        asked: TableSource,
        ground: Ground,
        progress: Progress,
    ) -> None:
        self._settings, self._tables, self._live, self._columns = settings, tables, task_live, columns
        self._asked, self._ground, self._progress = asked, ground, progress
        persons = said_persons(settings, task_live.follows)
        self._watch = erased.Watch(tables, JOB, task_live.table, persons)  # before it is asked who was erased
        self._persons = known_to(tables, settings, task_live.follows)
        keep = Held if task_live.thread is None else Threads
        self._held: Held | Threads = keep(settings, tables, task_live, ground, progress, self._watch, self._persons)
        self._of_nobody = of_no_person_in(settings, TASKS[settings.task], task_live.follows)
        self._own = [name for name in columns if name not in task_live.said]
        self._came = self._astray = 0
        self.error: Exception | None = None
        self.counts: dict[str, int] = {}

    def open(self) -> None:
        """Take up what is kept of the rows before."""
        self._held.open()

    def close(self) -> None:
        """Let go of what is held in memory."""
        self._held.close()

    def take(self, came: DataFrame, number: int) -> None:
        """Answer a batch; what ends it is kept as `error`."""
        try:
            self._take(came, number)
        except Exception as error:
            self.error = error
            raise

    def _take(self, came: DataFrame, number: int) -> None:
        is_again = self._progress.is_begun(number)
        begun = self._progress.begin(number)
        if begun is None:
            return  # all of it is in; Spark had not heard of it
        self._watch.refuse_outdated()
        self._held.settle_if_large(number)
        clock = self._held.clock(begun["seen"], begun["now"])
        counts = self._written(number) if is_again else []
        if not counts:
            rows = source.typed(
                self._settings, self._asked, self._live.follows, self._columns, came, self._persons, self._live.later
            )
            with persisted(rows) as typed:
                counts = self._sorted_out(typed, clock, number)
        last = clock.after(row["last"] for row in counts if row["what"] == TASKS[self._settings.task].row)
        self._progress.end(last, self._tally(counts))
        for row in counts:
            name = row["what"] or row["reason"]
            self.counts[name] = self.counts.get(name, 0) + row["rows"]

    def _written(self, number: int) -> list[Row]:
        """Keep what the table has of a batch that ended after it was written, for settings may have changed since;
        returns `_counted`, empty where it was not written."""
        rows = self._tables.read(self._live.table).where(F.col("batch") == number)
        counts = self._counted(rows.withColumn("reason", F.lit(None).cast("string")))
        if counts:
            self._held.add(rows, rows)
        return counts

    def _tally(self, counts: list[Row]) -> dict[str, Any]:
        return tally.counted(self._progress.held.get("tally", {}), counts, self._held.asked)

    def _sorted_out(self, rows: DataFrame, clock: Clock, number: int) -> list[Row]:
        """Write what rows are, and keep it; returns `_counted`."""
        told = self._held.sorted_out(rows, clock).localCheckpoint()
        counts = self._counted(told)
        self._refuse_bad(counts, number)
        self._tell_astray(counts)
        if any(row["what"] is None for row in counts):
            self._put_aside(told, number)
        kept = told.where("what IS NOT NULL").drop("row", "reason")
        answered = self._held.answered(kept)
        self._write(answered, number)
        self._watch.after_writing([self._live.table], self._batch(number))
        self._held.add(kept, answered)
        return counts

    def _counted(self, told: DataFrame) -> list[Row]:
        """Rows by what they are and why they are none, the time of the last ones, and which columns say something."""
        return told.groupBy("what", "reason").agg(
            F.count(F.lit(1)).alias("rows"),
            F.max(F.unix_micros("time")).alias("last"),
            *(F.max(F.col(name).isNotNull()).alias(f"says {name}") for name in self._held.asked),
        ).collect()  # fmt: skip

    def _refuse_bad(self, counts: list[Row], number: int) -> None:
        """See that rows still are what they were: of a few nothing is said, and once it is said, they count anew.

        Raises:
            TooManyBadRows: too many do not fit.
            SchemaError: a column that is asked of says nothing any more.
        """
        held, place = self._tally(counts), f"sources.{self._live.follows}"
        upto = f"up to batch {number} of '{self._asked.path}'"
        bad = tally.too_many_bad(held, self._settings.tables.quarantine_limit)
        silent = tally.fallen_silent(held, self._progress.held["shares"])
        if bad or silent:
            self._progress.say(tally={})
        if bad:
            raise TooManyBadRows(f"{upto} {bad}. Correct what writes them or {place}, {AGAIN}")
        if silent:
            raise SchemaError(
                f"{upto} {silent}: a column has another name, or is gone. Correct {place}.columns or what writes the "
                f"rows, {AGAIN}"
            )

    def _tell_astray(self, counts: list[Row]) -> None:
        """Tell people where many cases are not answered for their times."""
        self._came += sum(row["rows"] for row in counts)
        self._astray += sum(row["rows"] for row in counts if row["reason"] in (live.LATE, live.AHEAD))
        if self._came < MANY:
            return
        limit, place = self._settings.tables.quarantine_limit, f"sources.{self._live.follows}"
        if self._astray > limit * self._came:
            warn(
                f"stream: {self._astray:,} of the last {self._came:,} rows came too late or lie in the future, over "
                f"tables.quarantine_limit {limit:g}; they are in quarantine, without answers. See that "
                f"{place}.time_format and time_zone are right, and that stream.late_hours suits"
            )
        self._came = self._astray = 0

    def _put_aside(self, told: DataFrame, number: int) -> None:
        """Rows that are not taken in, with why."""
        aside = unfit_rows.aside(told.where("what IS NULL"), self._persons, self._of_nobody).select(
            F.lit(self._asked.path).alias("source"), "reason", "row", F.lit(self._batch(number)).alias("batch")
        )
        self._append("quarantine", aside, number)

    def _batch(self, number: int) -> str:
        """What quarantine calls a batch."""
        return f"{self._progress.held['stream'][:12]}-{number}"

    def _write(self, answered: DataFrame, number: int) -> None:
        """All that is taken in, with its answers, in one commit."""
        rows = answered.select(
            F.lit(number).cast("bigint").alias("batch"), *self._own, *self._live.said,
            *self._live.answer, F.lit(self._progress.held["bundle"]).alias("bundle"),
        )  # fmt: skip
        self._append(self._live.table, rows.coalesce(1), number)

    def _append(self, name: str, rows: DataFrame, number: int) -> None:
        held = self._progress.held
        inputs = {"stream": held["stream"], "batch": number, "bundle": held["bundle"]} | self._watch.inputs
        self._tables.append_batch(name, rows, stream=held["stream"], number=number, job=JOB, inputs=inputs)
