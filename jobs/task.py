"""What a problem must say to go through the pipeline. One file in jobs/tasks/ makes one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.schema import Schema


@dataclass(frozen=True)
class Task:
    """A problem's slots.

    Attributes:
        name: its key in TASKS and in the settings.
        schema: (size of each vocabulary, the unknown 0 included) -> the examples' columns.
        learn: "module:function", called on every rank with a JSON spec and its world; a name, so that importing a task
            loads no torch.
        metrics: names of what its validation gives; of each, higher is better. A study may choose by any of them.
    """

    name: str
    schema: Callable[[Mapping[str, int]], Schema]
    learn: str
    metrics: tuple[str, ...]
