"""A table's newest commits, read from the files of its log by the driver.

Delta tells a table's history by two jobs of Spark, whatever is asked of it. What a job of Millrace asks, many times, is
nearly always the newest commit's version, or what that commit says of itself: the first line of one file. A session of
Spark Connect has no driver with Hadoop at hand, and a catalogue may keep a store's keys to itself; there, and for
commits further back, the history is asked (`commits.newest_first`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyspark.sql.utils import is_remote

from jobs import commits, store_files
from jobs.commits import Commit
from jobs.sessions import GONE, SPARK_ERRORS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

AT_MOST = 4  # commits that are read from files, one after the other
NAME = re.compile(r"/_delta_log/(\d{20})\.json(?=[,\]])")


def newest_first(spark: SparkSession, path: str, history: Callable[[int], DataFrame]) -> Iterator[Commit]:
    """A table's commits, as far back as its log goes.

    Args:
        spark: the session.
        path: the table's.
        history: the newest so many commits, as Delta tells of them.
    """
    oldest: int | None = None
    for commit in () if is_remote() else _of_files(spark, path):
        oldest = commit.version
        yield commit
    if oldest != 0:
        yield from commits.newest_first(history, oldest)


def _of_files(spark: SparkSession, path: str) -> Iterator[Commit]:
    """The newest commits, a few at most; none, or fewer, where their files do not tell."""
    log = f"{path}/_delta_log"
    try:
        held = sorted(map(int, NAME.findall(store_files.listing(spark, log))), reverse=True)
        for number, version in enumerate(held[:AT_MOST]):
            info = _info(store_files.first_line(spark, f"{log}/{version:020d}.json"))
            if version != held[0] - number or info is None:
                return
            yield commits.told(version, info)
    except (*SPARK_ERRORS, *GONE):  # no table, no key to its store, or not allowed: the history tells, or says why not
        return


def _info(line: str) -> dict[str, str | None] | None:
    """What a commit's first line says of it; None where it says something else, as other writers' may."""
    try:
        return dict(json.loads(line)["commitInfo"])
    except (ValueError, TypeError, KeyError):
        return None
