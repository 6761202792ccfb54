"""A table's newest commits, and its id, read from the files of its log by the driver.

Delta tells a table's history by two jobs of Spark, whatever is asked of it, and its id by another. What a job of
Millrace asks, many times, is nearly always the newest commit's version, what that commit says of itself, or the table's
id: the first line of one file. A session of Spark Connect has no driver with Hadoop at hand, and a catalogue may keep a
store's keys to itself; there, and for commits further back, Delta is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pyspark.sql.utils import is_remote

from jobs import commits, store_files
from jobs.commits import Commit
from jobs.sessions import GONE, SPARK_ERRORS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

AT_MOST = 4  # commits that are read from files, one after the other
TORN: tuple[type[Exception], ...] = (ValueError, TypeError, KeyError)  # of what is no JSON, or says something else
NAME = re.compile(r"/_delta_log/(\d{20})\.json(?=[,\]])")
CHECKSUM = re.compile(r"/_delta_log/(\d{20})\.crc(?=[,\]])")


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


def metadata(spark: SparkSession, path: str) -> dict[str, Any] | None:
    """What the checksum of a table's newest commit says of the table itself: `id` and `partitionColumns`, as Delta has
    them.

    None where there is none, as after other writers' commits and one that was killed: Delta itself is asked then.
    """
    log = f"{path}/_delta_log"
    if is_remote():
        return None
    try:
        listed = store_files.listing(spark, log)
        newest = max(map(int, NAME.findall(listed)), default=None)
        if newest is None or newest not in set(map(int, CHECKSUM.findall(listed))):
            return None
        told = json.loads(store_files.first_line(spark, f"{log}/{newest:020d}.crc"))["metadata"]
        return {name: told[name] for name in ("id", "partitionColumns")}
    except (*TORN, *SPARK_ERRORS, *GONE):
        return None


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
    except TORN:
        return None
