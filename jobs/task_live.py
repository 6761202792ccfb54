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

    def entities(self, settings: Settings) -> Sequence[str]:
        """The columns that rows share, of which it is asked what was known."""

    def numbers(self, settings: Settings) -> Sequence[str]:
        """The columns whose means of entities' rows are asked."""

    def delay_us(self, settings: Settings) -> int:
        """How long a label takes at most, in microseconds."""

    def given(self, ground: Ground, rows: DataFrame) -> DataFrame:
        """Rows, typed, with arrival_time and label_time, as `spark_udfs.windows.as_of` takes them."""

    def limit(self, ground: Ground, queries: DataFrame) -> float:
        """What alarms are told by, from the build's held-out rows: the same for all rows of a stream."""

    def answers(self, ground: Ground, cases: DataFrame, past: Past, limit: float) -> DataFrame:
        """`Live.key` and `Live.answer` of rows that `given` gave, by the bundle, from them and what came before."""


@dataclass(frozen=True)
class Live:
    """How a task's rows are answered as they come (`millrace stream`).

    Attributes:
        follows: the one of `Task.reads` whose rows come; it has `time` and `label`.
        key: the column that names a row.
        table: where rows go with their answers.
        answer: the columns of answers, with their types.
        on_stream: the module that is its `OnStream`; a name, so that importing a task loads no Spark.
    """

    follows: str
    key: str
    table: str
    answer: Mapping[str, str]
    on_stream: str

    def spark(self) -> OnStream:
        """What is done with rows."""
        return cast("OnStream", importlib.import_module(self.on_stream))

    @property
    def kept(self) -> dict[str, str]:
        """The tables of what is kept of the rows before."""
        return {name: f"{self.table}_{name}" for name in ("waiting", "facts", "sums")}
