"""What a stream keeps of cases before: taken up from the history or its tables, and written anew now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import functions as F

from jobs import moved_builds
from jobs.erasure import erased
from jobs.live.kept import Frames, Kept, Lines, frames_of, shrunk, together
from jobs.task import said_persons
from spark_udfs import live, windows
from spark_udfs.live import CASE, LABEL, Clock
from spark_udfs.moments import DAY_US
from training.errors import SchemaError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.erasure.erased import Watch
    from jobs.ground import Ground
    from jobs.live.progress import Progress
    from jobs.settings import Settings
    from jobs.tables import Tables
    from jobs.task_live import Live, OfCases
    from spark_udfs.erased import Erased

JOB = "stream"
HOUR_US = 3_600_000_000
BATCHES = 200  # after so many what is kept is written anew, without what no row can ask for any more


class Held:
    """What is kept of all batches so far of cases and their labels, and how they are answered by it.

    Args:
        settings: the pipeline's.
        tables: the pipeline's.
        task_live: how the task's rows are answered.
        ground: with the bundle, the vocabularies and the history's `lines`.
        progress: how far the stream is.
        watch: keeps out who is erased.
        persons: who was erased before.

    Attributes:
        asked: the columns that are asked of.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        task_live: Live,
        ground: Ground,
        progress: Progress,
        watch: Watch,
        persons: Erased | None,
    ) -> None:
        self._settings, self._tables, self._live = settings, tables, task_live
        self._ground, self._progress, self._watch, self._persons = ground, progress, watch, persons
        self._task = cast("OfCases", task_live.spark())
        self._lines = Lines(task_live.key, self._task.entities(settings), self._task.numbers(settings))
        self.asked = [*self._lines.entities, *self._lines.numbers]
        self._whose = said_persons(settings, task_live.follows)
        self._kept: Kept | None = None

    def open(self) -> None:
        """Take up what is kept: of the history and all batches where nothing is kept that can be gone on from, else of
        the tables and the batches since."""
        self._watch.before_writing()
        if "kept" in self._progress.held:
            self._progress.refuse_other_settings(self._made_by())
        if not self._is_kept():
            self._take_up()
        kept, at = self._progress.held["kept"], self._kept_at()
        read = {name: self._tables.read(table, at[name]).persist() for name, table in self._live.kept.items()}
        self._kept = Kept(Frames(read["waiting"], read["facts"]), read["sums"], self._lines)
        since = (F.col("batch") > kept["number"]) & (F.col("batch") < self._progress.next)
        rows = self._tables.read(self._live.table).where(since)
        if not rows.isEmpty():
            self.add(rows, rows)

    def close(self) -> None:
        """Let go of what is held in memory."""
        if self._kept is not None:
            self._kept.give_back()
            self._kept = None

    def add(self, rows: DataFrame, answered: DataFrame) -> None:  # noqa: ARG002
        """Keep what rows say; answers of the past change no other."""
        self._opened.add(frames_of(rows, self._task.given(self._ground, rows), self._lines))

    def sorted_out(self, rows: DataFrame, clock: Clock) -> DataFrame:
        """Typed rows with what each is: a case, a label, or neither."""
        waiting = self._opened.waiting(rows.select(self._lines.key).distinct())
        return live.sorted_out(rows, waiting, self._lines.key, self._lines.entities, clock)

    def answered(self, kept: DataFrame) -> DataFrame:
        """Cases and labels, the cases with their answers."""
        given, lines = self._task.given(self._ground, kept), self._lines
        cases = given.where("fraud IS NULL")
        shared = [F.struct(F.lit(name).alias("kind"), F.col(name).alias("entity")) for name in lines.entities]
        touched = cases.select(F.explode(F.array(*shared)).alias("of")).select("of.*").distinct()
        past = self._opened.past(touched)
        labels = live.facts_of(given.where("fraud IS NOT NULL"), *lines)
        past = past._replace(facts=past.facts.unionByName(labels.drop("key")))
        answers = self._task.answers(self._ground, cases, past, self._progress.held["limit"])
        return kept.join(answers.withColumn("what", F.lit(CASE)), on=[lines.key, "what"], how="left")

    def settle_if_large(self, number: int) -> None:
        """Write what is kept anew before a batch, where many have come since it was written."""
        if number - self._progress.held["kept"]["number"] > BATCHES:
            self._settle(number - 1, *self._opened.all(), self._progress.held["batch"]["seen"])
            self.close()
            self.open()

    def clock(self, seen: int | None, now: int) -> Clock:
        """What rows are judged by, where cases up to `seen` have come."""
        late = round(self._settings.stream.late_hours * HOUR_US)
        return Clock(seen, now, late, self._task.delay_us(self._settings))

    @property
    def _opened(self) -> Kept:
        assert self._kept is not None
        return self._kept

    def _is_kept(self) -> bool:
        """Whether there is something to go on from in which nobody counts who was erased: in the counts of what persons
        have in common with others, none can be told from another."""
        kept = self._progress.held.get("kept")
        if kept is None or (kept.get("erased") or {}) != self._erased():
            return False
        return None not in self._kept_at().values()

    def _kept_at(self) -> dict[str, int | None]:
        """The versions in which what is kept is read; None: there is no such one any more."""
        kept = self._progress.held["kept"]
        return {name: self._version(table, kept["versions"][name]) for name, table in self._live.kept.items()}

    def _version(self, table: str, version: int) -> int | None:
        """The newest where that is what was written then, for rows may have been taken out of it; else, after a
        settling that was killed, the one that was written then."""
        kept, made = self._progress.held["kept"], self._tables.made_from(table, JOB) or {}
        if (made.get("stream"), made.get("batch")) == (self._progress.held["stream"], kept["number"]):
            return self._tables.version(table)
        return version if moved_builds.has_version(self._tables.path(table), version) else None

    def _erased(self) -> dict[str, Any]:
        """What tells those whom nothing may count that is kept: other persons, or other columns that say who one is."""
        return self._watch.inputs and {**self._watch.inputs, "persons": list(self._whose)}

    def _take_up(self) -> None:
        """Keep what the history and the batches so far say."""
        frames, seen = self._of_history()
        number = self._progress.next - 1
        if number >= 0:
            came = self._of_no_erased(self._tables.read(self._live.table).where(F.col("batch") <= number))
            frames = together([frames, frames_of(came, self._task.given(self._ground, came), self._lines)])
        none = windows.settled(frames.facts.limit(0), self._lines.numbers)
        self._settle(number, frames, none, self._progress.seen if seen is None or number >= 0 else seen)

    def _of_history(self) -> tuple[Frames, int | None]:
        """What the history says, and the time of its last case. Taken up anew it is what it was at first: what an
        ingest has read since comes by the stream, and is to be answered."""
        lines = self._of_no_erased(self._ground.read["lines"])
        now = time.time_ns() // 1_000
        known = F.when(F.unix_micros("time") <= now + live.AHEAD_US, F.unix_micros("time"))
        if "history" not in self._progress.held:
            said = lines.agg(F.max(known), F.count(F.lit(1)), *(F.count(name) for name in self.asked)).collect()[0]
            shares = {name: rows / max(said[1], 1) for name, rows in zip(self.asked, said[2:], strict=True)}
            self._progress.say(shares=shares, history=said[0])
        else:
            lines = lines.where(F.unix_micros("time") <= F.lit(self._progress.held["history"]).cast("bigint"))
        given = self._task.given(self._ground, self._of_before(lines))
        key, entities, numbers = self._lines
        told = given.where("fraud IS NOT NULL").withColumn("what", F.lit(LABEL))
        waiting = live.waiting_of(given.withColumn("what", F.lit(CASE)).unionByName(told), key, entities)
        facts = windows.facts(given, key, entities, numbers).drop("key")
        return Frames(waiting, facts), self._progress.held["history"]

    def _of_no_erased(self, rows: DataFrame) -> DataFrame:
        """Rows without those whom an erasure knows that has not come to them yet.

        Raises:
            SchemaError: a column that says who one is is not in the history.
        """
        if self._persons is None:
            return rows
        if lacking := [name for name in self._whose if name not in rows.columns]:
            raise SchemaError(
                f"table '{self._live.follows}' has no column '{lacking[0]}', by which erased persons are kept out "
                f"(sources.{self._live.follows}.persons): run `millrace ingest`, and start the stream again"
            )
        reasons = erased.marked(rows.withColumn("reason", F.lit(None).cast("string")), self._persons, self._whose)
        return reasons.where("reason IS NULL").drop("reason")

    def _of_before(self, lines: DataFrame) -> DataFrame:
        """The history without what came by the stream, where a later ingest has read that too."""
        came, key = self._tables.read(self._live.table), self._live.key
        cases, labels = (came.where(F.col("what") == what).select(key).distinct() for what in (CASE, LABEL))
        rest = lines.join(cases, on=key, how="left_anti").join(labels.withColumn("is_told", F.lit(True)), key, "left")
        return rest.withColumn("label", F.when(F.col("is_told").isNull(), F.col("label"))).drop("is_told")

    def _settle(self, number: int, frames: Frames, sums: DataFrame, seen: int | None) -> None:
        """Write what is kept as of a batch, without what no row can ask for any more."""
        frames, sums = shrunk(frames, sums, self._lines, self.clock(seen, 0))
        inputs: dict[str, Any] = {"stream": self._progress.held["stream"], "batch": number}
        made = {"waiting": frames.waiting, "facts": frames.facts, "sums": sums}
        versions = {
            name: self._tables.write(self._live.kept[name], rows, mode="overwrite", job=JOB, inputs=inputs)
            for name, rows in made.items()
        }
        self._watch.before_publishing()
        self._progress.say(
            kept={
                "number": number, "seen": seen, "versions": versions, "settings": self._made_by(),
                "erased": self._erased(),
            }
        )  # fmt: skip

    def _made_by(self) -> dict[str, Any]:
        """The settings that decide what is kept of rows."""
        days = self._task.delay_us(self._settings) / DAY_US
        return {
            "entities": list(self._lines.entities), "means": list(self._lines.numbers), "label_delay_days": days,
            "late_hours": self._settings.stream.late_hours,
        }  # fmt: skip
