"""What a stream keeps of rows that belong together, as the messages of a conversation do: the newest, with answers.

They lie in the stream's table, from which a start takes them up, and meanwhile in the session's memory and disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from pyspark.sql import functions as F

from jobs.live.levels import Levels, union
from jobs.sessions import parallelism
from jobs.tasks import TASKS
from spark_udfs import live
from spark_udfs.live import Clock

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.erasure.erased import Watch
    from jobs.ground import Ground
    from jobs.live.progress import Progress
    from jobs.settings import Settings
    from jobs.tables import Tables
    from jobs.task_live import Live, OfThreads
    from spark_udfs.erased import Erased

HOUR_US = 3_600_000_000
BATCHES = 200  # after so many the rows that are too old for any to come are let go


class Threads:
    """What is kept of the rows of `stream.late_hours`, and how those that come are answered by it.

    Args:
        settings: the pipeline's.
        tables: the pipeline's.
        task_live: how the task's rows are answered.
        ground: with the bundle and the vocabularies.
        progress: how far the stream is.
        watch: keeps out who is erased.
        persons: who was erased before; none of them is in the stream's table.

    Attributes:
        asked: the columns that must say something: none.
    """

    asked: tuple[str, ...] = ()

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        task_live: Live,
        ground: Ground,
        progress: Progress,
        watch: Watch,
        persons: Erased | None,  # noqa: ARG002
    ) -> None:
        self._tables, self._live, self._ground, self._progress = tables, task_live, ground, progress
        self._watch, self._what, self._scored = watch, TASKS[settings.task].row, TASKS[settings.task].scored
        self._late = round(settings.stream.late_hours * HOUR_US)
        self._task = cast("OfThreads", task_live.spark())
        assert task_live.thread is not None
        self._thread = task_live.thread
        self._columns = [*dict.fromkeys((task_live.key, self._thread, "time", *self._task.remembered()))]
        self._base: DataFrame | None = None
        self._opened_at = 0

    def open(self) -> None:
        """Take up the rows of the stream's table that later ones may hang on."""
        self._watch.before_writing()
        self._task.begin(self._ground)
        if "kept" not in self._progress.held:
            self._progress.say(kept={"number": self._progress.next - 1, "seen": None}, shares={})
        self._take_up()

    def close(self) -> None:
        """Let go of what is held in memory."""
        if self._base is not None:
            self._base.unpersist()
            self._base = None

    def add(self, rows: DataFrame, answered: DataFrame) -> None:  # noqa: ARG002
        """Keep rows with their answers."""
        self._added.add([answered.select(self._columns)])

    def settle_if_large(self, number: int) -> None:
        """Let go of what is too old, before a batch, where many have come since that was done."""
        if number - self._opened_at > BATCHES:
            self.close()
            self._take_up()

    def clock(self, seen: int | None, now: int) -> Clock:
        """What rows are judged by, where rows up to `seen` have come."""
        return Clock(seen, now, self._late, 0)

    def sorted_out(self, rows: DataFrame, clock: Clock) -> DataFrame:
        """Typed rows, with what each is; null of those that are not answered."""
        key = self._live.key
        there = self._among(rows.select(key).distinct(), key).select(key).distinct()
        return live.told_apart(rows, there, key, self._what, clock)

    def answered(self, kept: DataFrame) -> DataFrame:
        """Rows with their answers."""
        named = kept.where(F.col(self._thread).isNotNull()).select(self._thread).distinct()
        before = self._among(named, self._thread)
        answers = self._task.answers(self._as_of_now(), kept, before)
        return kept.join(answers, on=self._live.key, how="left").localCheckpoint()

    def _as_of_now(self) -> Ground:
        """With the newest rows of what answers are filled from, as an ingest has left them."""
        newest = {name: self._tables.read(name) for name in self._scored if self._tables.exists(name)}
        return replace(self._ground, read={**self._ground.read, **newest})

    def _take_up(self) -> None:
        # A batch that was written and not noted comes again, and is added then.
        is_noted, seen = F.col("batch") < self._progress.next, self._progress.seen
        rows = self._tables.read(self._live.table).where(is_noted)
        if seen is not None:
            rows = rows.where(F.col("time") >= F.timestamp_micros(F.lit(seen - self._late)))
        self._base, self._opened_at = rows.select(self._columns).persist(), self._progress.next
        self._added = Levels(parallelism(self._tables.spark))

    def _among(self, wanted: DataFrame, on: str) -> DataFrame:
        assert self._base is not None
        rows = union([self._base, *(frames[0] for frames in self._added.all())])
        return rows.coalesce(parallelism(self._tables.spark)).join(F.broadcast(wanted), on=on, how="left_semi")
