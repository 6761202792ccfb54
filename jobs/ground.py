"""What a task's functions work on, and what they give back: rows asked of contenders, and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from jobs.settings import Settings
    from spark_udfs.features import Cuts

Answer = Callable[["DataFrame", str], "DataFrame"]


@dataclass(frozen=True)
class Ground:
    """What a task's functions work on.

    Attributes:
        read: tables by name, pinned: those of `Task.reads` that are there, `lines` (what the task made of them),
            and, once they were built, `vocabulary_KIND` and the side tables.
        settings: the pipeline's.
        folder: a local folder for what is fitted on the way.
        bundle: the folder of the bundle that answers; None while there is none.
        counts: what the task counts on the way; the build's manifest has it.
        cut: of the build in force, where tables of it are read: they hold what was known before it.
        before: the build in force, where its side tables say all of the lines that were known before its cuts, and
            these lie no later than what is asked.
    """

    read: Mapping[str, DataFrame]
    settings: Settings
    folder: Path
    bundle: Path | None = None
    counts: dict[str, int] = field(default_factory=dict)
    cut: datetime | None = None
    before: Before | None = None
    _kept: dict[str, DataFrame] = field(default_factory=dict)

    def keep(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Rows by a name: made and persisted the first time, the same ones from then on, until `release`."""
        if name not in self._kept:
            self._kept[name] = make().persist()
        return self._kept[name]

    def release(self) -> None:
        """Give back what was kept."""
        while self._kept:
            self._kept.popitem()[1].unpersist()


@dataclass(frozen=True)
class Before:
    """The build that another one goes on from.

    Attributes:
        cuts: its own; no later ones than those to come.
        read: its side tables by name, at its versions.
        counts: what it counted.
    """

    cuts: Cuts
    read: Mapping[str, DataFrame]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Slice:
    """Rows that are asked of every contender and judged together.

    Attributes:
        what: which rows these are, for people.
        rows: what a contender needs to answer, and the truth.
    """

    what: str
    rows: DataFrame


def _as_they_are(answers: DataFrame) -> DataFrame:
    return answers


@dataclass(frozen=True)
class Scored:
    """How the first contender answers as of a moment, without bundle and moment.

    Attributes:
        asked: what is asked, with the key of `AnswerColumns`; kept by the ground, for it is read more than once.
        answer: (all of these rows, or all that have some of the keys) -> answers, with what `finish` needs.
        counts: (the rows as they were written) -> numbers for people, and for who watches the job.
        more: columns that these settings add.
        finish: (the answers to all that is asked) -> the columns of `Task.answer`, and `more`: for what follows from
            all answers together.
        silent: of `asked`, who may be left without an answer; None: nobody.
        each: answers to a row of `asked`, at most.
        items: with how many each is compared, where answers are lists of them.
    """

    asked: DataFrame
    answer: Callable[[DataFrame], DataFrame]
    counts: Callable[[DataFrame], dict[str, Any]]
    more: Sequence[str] = ()
    finish: Callable[[DataFrame], DataFrame] = _as_they_are
    silent: Column | None = None
    each: int = 1
    items: int | None = None
