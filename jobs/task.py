"""What a problem must say to go through the pipeline. One file in jobs/tasks/ makes one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from jobs.tables import Tables
    from training.schema import Schema


@dataclass(frozen=True)
class Task:
    """A problem's slots.

    Attributes:
        name: its key in TASKS and in the settings.
        needs: the tables that it reads, by name.
        examples: (tables, settings) -> the tables that build_examples writes, by name.
        schema: (vocabulary sizes) -> the examples' schema.
        learn: "module:function", called on every rank with a JSON spec; a name, so that importing a task loads no torch.
        metric: what tuning maximises.
    """

    name: str
    needs: tuple[str, ...]
    examples: Callable[[Tables, Settings], Mapping[str, DataFrame]]
    schema: Callable[[Mapping[str, int]], Schema]
    learn: str
    metric: str


LearnSpec = dict[str, Any]
