"""From a task's answers to what readers see: made once, checked, and written in one commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import answers
from jobs.answer_checks import checked, refuse_too_much
from jobs.answer_drift import drift
from jobs.console import say, step, warn
from jobs.sessions import persisted
from jobs.staged import Staged, bucket_of, remove_stale
from training.errors import SettingsError

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame

    from jobs.erasure.erased import Watch
    from jobs.ground import Scored
    from jobs.settings_sections import ScoringSettings
    from jobs.tables import Tables
    from jobs.task import Task


def refuse_unasked(scoring: ScoringSettings, task: Task) -> None:
    """See that the task has what the settings limit.

    Raises:
        SettingsError: it has no fallbacks.
    """
    if scoring.most_fallback is not None and task.columns.fallback is None:
        raise SettingsError(
            f"scoring.most_fallback must be left out where the task is {task.name}: all of its answers are the model's"
        )


@dataclass(frozen=True)
class Publication:
    """Answers on their way into the task's table.

    Attributes:
        tables: where it lies.
        task: whose it is.
        scoring: the settings.
        bundle: the name of the one that answers.
        moment: as of which.
        inputs: what decides the answers.
        watch: on persons who are erased meanwhile.
        staged: where they are made bucket by bucket; None: they are made at once.
    """

    tables: Tables
    task: Task
    scoring: ScoringSettings
    bundle: str
    moment: datetime
    inputs: dict[str, Any]
    watch: Watch
    staged: Staged | None = None

    def clear(self) -> None:
        """Remove what was staged of these answers, and what others of the task have left for long."""
        if self.staged is not None:
            self.staged.remove()
        remove_stale(self.tables, self.task)

    def publish(self, scored: Scored) -> tuple[int, dict[str, Any]]:
        """Make the answers, check them, and replace this bundle's of this moment by them.

        Returns:
            The table's version, and what was measured: see `checked`; and drift with drift_from, where there were
            answers before.

        Raises:
            DataError: the answers are not whole, or further from what was expected than the settings allow; or persons
                were erased meanwhile. Nothing was published.
            TableError: more was answered as of the moment before, or another writer was faster.
        """
        with self._answers(scored) as made:
            with step("score: seeing that the answers are whole"):  # and making them, where they were not staged
                rows = scored.finish(made)
                measured = self._measured(scored, rows)
            self.watch.before_writing()
            if self.scoring.since is not None:  # another score may have answered more by now
                answers.keep_more(self.tables, self.task, self.bundle, self.moment, self.scoring.since)
            version = answers.write(self.tables, self.task, rows, scored.more, self.bundle, self.moment, self.inputs)
        self.watch.after_writing([self.task.table], made=self.inputs)
        return version, measured

    @contextmanager
    def _answers(self, scored: Scored) -> Iterator[DataFrame]:
        """All answers, to be read more than once."""
        if self.staged is None:
            with persisted(scored.answer(scored.asked)) as made:
                yield made
            return
        self._fill(self.staged, scored)
        with self.staged.there():
            yield self.staged.rows()

    def _fill(self, staged: Staged, scored: Scored) -> None:
        """Make the buckets that are not in, one after the other, until none is missing: another job may make some of
        them meanwhile, or remove all."""
        number, key = bucket_of(self.task.columns.key, staged.buckets), self.task.columns.key
        counted = scored.asked.groupBy(number.alias("bucket")).agg(F.count_distinct(key).alias("keys")).collect()
        keys, missing = {row["bucket"]: row["keys"] for row in counted}, staged.missing()
        if len(missing) < staged.buckets:
            say(f"score: goes on, {staged.buckets - len(missing):,} of {staged.buckets:,} buckets are in")
        self._refuse_erased(staged)
        while missing:
            for bucket in missing:
                started = time.perf_counter()
                self._add(staged, bucket, scored.answer(scored.asked.where(number == bucket)))
                rate = keys.get(bucket, 0) / (time.perf_counter() - started)
                of = f"{keys.get(bucket, 0):,} {key}, {rate:,.0f} a second"
                say(f"score: bucket {bucket + 1:,} of {staged.buckets:,}: {of}")
            missing = staged.missing()

    def _add(self, staged: Staged, bucket: int, rows: DataFrame) -> None:
        """Commit a bucket. Tasks that write while an erasure removes the place make it anew: it goes whatever became of
        the commit."""
        try:
            with staged.there():
                staged.add(bucket, rows)
        finally:
            self._refuse_erased(staged)

    def _refuse_erased(self, staged: Staged) -> None:
        """See that nobody was erased meanwhile; else what was staged may hold them, and goes.

        Raises:
            DataError: somebody was.
        """
        if self.watch.is_outdated:
            staged.remove()
            self.watch.before_writing()

    def _measured(self, scored: Scored, rows: DataFrame) -> dict[str, Any]:
        measured = checked(self.task, scored, rows) | self._drift(rows)
        refuse_too_much(measured, self.scoring, self.task)
        return measured

    def _drift(self, rows: DataFrame) -> dict[str, Any]:
        found = answers.before(self.tables, self.task, self.inputs)
        moved = None if found is None else drift(rows, found[0], self.task.columns.spread)
        if found is None or moved is None:
            if self.scoring.most_drift is not None:
                warn("scoring.most_drift has nothing to hold these answers against: there are none before")
            return {}
        return {"drift": moved, "drift_from": found[1]}
