"""What a task must say for its rows to be answered as they come."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings
    from spark_udfs.windows import Past


class OnStream(Protocol):
    """What a task does with rows that come one after the other: functions of a module of its own."""

    def refuse(self, settings: Settings) -> None:
        """Raise SettingsError where rows cannot be answered as they come under these settings."""

    def limit(self, ground: Ground, queries: DataFrame) -> float | None:
        """What alarms are told by, from the build's held-out rows: the same for all rows of a stream; None: there are
        no alarms."""


class OfCases(OnStream, Protocol):
    """Rows that share entities, and get a label later: an answer hangs on what was known of its entities."""

    def entities(self, settings: Settings) -> Sequence[str]:
        """The columns that rows share, of which it is asked what was known."""

    def numbers(self, settings: Settings) -> Sequence[str]:
        """The columns whose means of entities' rows are asked."""

    def delay_us(self, settings: Settings) -> int:
        """How long a label takes at most, in microseconds."""

    def given(self, ground: Ground, rows: DataFrame) -> DataFrame:
        """Rows, typed, with arrival_time and label_time, as `spark_udfs.windows.as_of` takes them."""

    def answers(self, ground: Ground, cases: DataFrame, past: Past, limit: float) -> DataFrame:
        """`Live.key` and `Live.answer` of rows that `given` gave, by the bundle, from them and what came before."""


class OfThreads(OnStream, Protocol):
    """Rows of which some belong together, as messages do to a conversation: an answer hangs on those before it."""

    def remembered(self) -> Sequence[str]:
        """The columns of `Live.table` that later rows of the thread are answered by."""

    def begin(self, ground: Ground) -> None:
        """Raise SettingsError where rows cannot be answered by this ground."""

    def answers(self, ground: Ground, rows: DataFrame, before: DataFrame) -> DataFrame:
        """`Live.key` and `Live.answer` of rows, by the bundle, from them and what is remembered of their threads."""


@dataclass(frozen=True)
class Live:
    """How a task's rows are answered as they come (`millrace stream`).

    Attributes:
        follows: the one of `Task.reads` whose rows come; it has `time`, and `label` where it has no `thread`.
        key: the column that names a row.
        table: where rows go with their answers.
        answer: the columns of answers, with their types.
        on_stream: the module that is its `OfCases` or, with a `thread`, its `OfThreads`; a name, so that importing a
            task loads no Spark.
        thread: the column that says which rows belong together.
        unread: columns of `follows` that are not read of a row that comes.
        later: columns that rows may lack as long as nobody knows what they say.
    """

    follows: str
    key: str
    table: str
    answer: Mapping[str, str]
    on_stream: str
    thread: str | None = None
    unread: Sequence[str] = ()
    later: Sequence[str] = ()

    def spark(self) -> OnStream:
        """What is done with rows."""
        return cast("OnStream", importlib.import_module(self.on_stream))

    @property
    def said(self) -> dict[str, str]:
        """The columns in which the stream itself says what a row is, with their types."""
        times = {} if self.thread else {"arrival_time": "timestamp", "label_time": "timestamp"}
        return times | {"what": "string"}

    @property
    def kept(self) -> dict[str, str]:
        """The tables of what is kept of cases before."""
        return {name: f"{self.table}_{name}" for name in ("waiting", "facts", "sums")}
