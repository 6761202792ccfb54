"""Rows that come bit by bit, held in memory in few frames: eight of a size are made one."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

TOGETHER = 8  # frames of a size that are made one


class Levels:
    """What has come, as groups of frames: the rows of a frame stand beside those of its fellows.

    Args:
        tasks: partitions of a frame that was made of several.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._levels: list[list[list[DataFrame]]] = []

    def add(self, frames: Sequence[DataFrame], level: int = 0) -> None:
        """Take in a group. It is held as rows, without the plan by which they were made: plans would have each other
        within them."""
        if level == len(self._levels):
            self._levels.append([])
        mine = self._levels[level]
        mine.append([each.coalesce(1 if not level else self._tasks).localCheckpoint() for each in frames])
        if len(mine) == TOGETHER:
            self.add([union(each) for each in zip(*mine, strict=True)], level + 1)
            mine.clear()

    def all(self) -> list[list[DataFrame]]:
        """The groups, those that came first before the others."""
        return [frames for level in reversed(self._levels) for frames in level]


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """Frames with the same columns as one."""
    return reduce(DataFrame.unionByName, frames)
