"""A stream's batches, each answered once: rows in, rows with answers out, in one commit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import moved_builds, source_tables
from jobs.console import warn
from jobs.erasure import erased
from jobs.erasure.persons import of_no_person_in
from jobs.live import source, tally
from jobs.live.kept import Frames, Kept, Lines, frames_of, shrunk
from jobs.sessions import persisted
from jobs.task import said_persons
from jobs.tasks import TASKS
from spark_udfs import live, windows
from spark_udfs.live import CASE, LABEL, Clock
from spark_udfs.moments import DAY_US
from training.errors import SchemaError, TooManyBadRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

    from jobs.ground import Ground
    from jobs.live.progress import Progress
    from jobs.settings import Settings
    from jobs.settings_sources import TableSource
    from jobs.tables import Tables
    from jobs.task import Live

JOB = "stream"
HOUR_US = 3_600_000_000
BATCHES = 200  # after so many what is kept is written anew, without what no row can ask for any more
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
        self._persons = erased.known(tables)
        self._task = task_live.spark()
        self._lines = Lines(task_live.key, self._task.entities(settings), self._task.numbers(settings))
        self._of_nobody = of_no_person_in(settings, TASKS[settings.task], task_live.follows)
        self._late = round(settings.stream.late_hours * HOUR_US)
        self._own = [name for name in columns if name not in ("arrival_time", "label_time")]
        self._kept: Kept | None = None
        self._came = self._astray = 0
        self.error: Exception | None = None
        self.counts: dict[str, int] = {}

    # -- what is kept -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take up what is kept: of the history where nothing is kept yet, else of the tables and the batches since."""
        self._watch.before_writing()
        if "kept" not in self._progress.held or None in self._kept_at().values():
            self._settle(-1, *self._of_history())
        self._progress.refuse_other_settings(self._made_by())
        kept, at = self._progress.held["kept"], self._kept_at()
        read = {name: self._tables.read(table, at[name]).persist() for name, table in self._live.kept.items()}
        self._kept = Kept(Frames(read["waiting"], read["facts"]), read["sums"], self._lines)
        since = (F.col("batch") > kept["number"]) & (F.col("batch") < self._progress.next)
        rows = self._tables.read(self._live.table).where(since)
        if not rows.isEmpty():
            self._add(rows)

    def _kept_at(self) -> dict[str, int | None]:
        """The versions in which what is kept is read; None: an erasure has removed it."""
        kept = self._progress.held["kept"]
        return {name: self._version(table, kept["versions"][name]) for name, table in self._live.kept.items()}

    def _version(self, table: str, version: int) -> int | None:
        """The newest where that is what was written then, for an erasure may have taken rows out of it; else, after a
        settling that was killed, the one that was written then."""
        kept, made = self._progress.held["kept"], self._tables.made_from(table, JOB) or {}
        if (made.get("stream"), made.get("batch")) == (self._progress.held["stream"], kept["number"]):
            return self._tables.version(table)
        return version if moved_builds.has_version(self._tables.path(table), version) else None

    def close(self) -> None:
        """Let go of what is held in memory."""
        if self._kept is not None:
            self._kept.give_back()
            self._kept = None

    def _of_history(self) -> tuple[Frames, DataFrame, int | None]:
        lines = self._of_before(self._ground.read["lines"])
        given = self._task.given(self._ground, lines)
        key, entities, numbers = self._lines
        told = given.where("fraud IS NOT NULL").withColumn("what", F.lit(LABEL))
        waiting = live.waiting_of(given.withColumn("what", F.lit(CASE)).unionByName(told), key, entities)
        facts = windows.facts(given, key, entities, numbers).drop("key")
        now = time.time_ns() // 1_000
        known = F.when(F.unix_micros("time") <= now + live.AHEAD_US, F.unix_micros("time"))
        last = lines.agg(F.max(known)).collect()[0][0]
        said = lines.agg(F.count(F.lit(1)), *(F.count(name) for name in self._asked_of())).collect()[0]
        shares = {name: rows / max(said[0], 1) for name, rows in zip(self._asked_of(), said[1:], strict=True)}
        self._progress.say(shares=shares)
        return Frames(waiting, facts), windows.settled(facts.limit(0), numbers), last

    def _of_before(self, lines: DataFrame) -> DataFrame:
        """The history without what came by the stream, where a later ingest has read that too."""
        came, key = self._tables.read(self._live.table), self._live.key
        cases, labels = (came.where(F.col("what") == what).select(key).distinct() for what in (CASE, LABEL))
        rest = lines.join(cases, on=key, how="left_anti").join(labels.withColumn("is_told", F.lit(True)), key, "left")
        return rest.withColumn("label", F.when(F.col("is_told").isNull(), F.col("label"))).drop("is_told")

    def _settle(self, number: int, frames: Frames, sums: DataFrame, seen: int | None) -> None:
        """Write what is kept as of a batch, without what no row can ask for any more."""
        frames, sums = shrunk(frames, sums, self._lines, self._clock(seen, 0))
        inputs: dict[str, Any] = {"stream": self._progress.held["stream"], "batch": number}
        made = {"waiting": frames.waiting, "facts": frames.facts, "sums": sums}
        versions = {
            name: self._tables.write(self._live.kept[name], rows, mode="overwrite", job=JOB, inputs=inputs)
            for name, rows in made.items()
        }
        self._watch.before_publishing()
        self._progress.say(kept={"number": number, "seen": seen, "versions": versions, "settings": self._made_by()})

    def _made_by(self) -> dict[str, Any]:
        """The settings that decide what is kept of rows."""
        days = self._task.delay_us(self._settings) / DAY_US
        return {
            "entities": list(self._lines.entities), "means": list(self._lines.numbers), "label_delay_days": days,
            "late_hours": self._settings.stream.late_hours,
        }  # fmt: skip

    def _settle_if_large(self, number: int) -> None:
        assert self._kept is not None
        if number - self._progress.held["kept"]["number"] > BATCHES:
            self._settle(number - 1, *self._kept.all(), self._progress.held["batch"]["seen"])
            self.close()
            self.open()

    def _add(self, rows: DataFrame) -> None:
        """Keep what rows say."""
        assert self._kept is not None
        self._kept.add(frames_of(rows, self._task.given(self._ground, rows), self._lines))

    def _clock(self, seen: int | None, now: int) -> Clock:
        return Clock(seen, now, self._late, self._task.delay_us(self._settings))

    # -- a batch ------------------------------------------------------------------------------------------------------

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
        self._settle_if_large(number)
        clock = self._clock(begun["seen"], begun["now"])
        counts = self._written(number) if is_again else []
        if not counts:
            rows = source.typed(self._settings, self._asked, self._live.follows, self._columns, came, self._persons)
            with persisted(rows) as typed:
                counts = self._sorted_out(typed, clock, number)
        last = clock.after(row["last"] for row in counts if row["what"] == CASE)
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
            self._add(rows)
        return counts

    def _tally(self, counts: list[Row]) -> dict[str, Any]:
        return tally.counted(self._progress.held.get("tally", {}), counts, self._asked_of())

    def _sorted_out(self, rows: DataFrame, clock: Clock, number: int) -> list[Row]:
        """Write what rows are, and keep it; returns `_counted`."""
        assert self._kept is not None
        key = self._live.key
        waiting = self._kept.waiting(rows.select(key).distinct())
        told = live.sorted_out(rows, waiting, key, self._lines.entities, clock).localCheckpoint()
        counts = self._counted(told)
        self._refuse_bad(counts, number)
        self._tell_astray(counts)
        if any(row["what"] is None for row in counts):
            self._put_aside(told, number)
        kept = told.where("what IS NOT NULL").drop("row", "reason")
        self._write(kept, number)
        self._watch.after_writing([self._live.table], self._batch(number))
        self._add(kept)
        return counts

    def _counted(self, told: DataFrame) -> list[Row]:
        """Rows by what they are and why they are none, the time of the last ones, and which columns say something."""
        return told.groupBy("what", "reason").agg(
            F.count(F.lit(1)).alias("rows"),
            F.max(F.unix_micros("time")).alias("last"),
            *(F.max(F.col(name).isNotNull()).alias(f"says {name}") for name in self._asked_of()),
        ).collect()  # fmt: skip

    def _asked_of(self) -> list[str]:
        return [*self._lines.entities, *self._lines.numbers]

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
        """Rows that are no case and no label, with why."""
        aside = source_tables.aside(told.where("what IS NULL"), self._persons, self._of_nobody).select(
            F.lit(self._asked.path).alias("source"), "reason", "row", F.lit(self._batch(number)).alias("batch")
        )
        self._append("quarantine", aside, number)

    def _batch(self, number: int) -> str:
        """What quarantine calls a batch."""
        return f"{self._progress.held['stream'][:12]}-{number}"

    def _write(self, kept: DataFrame, number: int) -> None:
        """Cases with their answers, and labels as they are, in one commit."""
        assert self._kept is not None
        key, given = self._live.key, self._task.given(self._ground, kept)
        cases = given.where("fraud IS NULL")
        shared = [F.struct(F.lit(name).alias("kind"), F.col(name).alias("entity")) for name in self._lines.entities]
        touched = cases.select(F.explode(F.array(*shared)).alias("of")).select("of.*").distinct()
        past = self._kept.past(touched)
        labels = live.facts_of(given.where("fraud IS NOT NULL"), *self._lines)
        past = past._replace(facts=past.facts.unionByName(labels.drop("key")))
        answers = self._task.answers(self._ground, cases, past, self._progress.held["limit"])
        both = kept.join(answers.withColumn("what", F.lit(CASE)), on=[key, "what"], how="left")
        rows = both.select(
            F.lit(number).cast("bigint").alias("batch"), *self._own, "arrival_time", "label_time", "what",
            *self._live.answer, F.lit(self._progress.held["bundle"]).alias("bundle"),
        )  # fmt: skip
        self._append(self._live.table, rows.coalesce(1), number)

    def _append(self, name: str, rows: DataFrame, number: int) -> None:
        held = self._progress.held
        inputs = {"stream": held["stream"], "batch": number, "bundle": held["bundle"]} | self._watch.inputs
        self._tables.append_batch(name, rows, stream=held["stream"], number=number, job=JOB, inputs=inputs)
