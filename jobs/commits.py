"""What a table's history tells: who wrote a commit, from what, and whether it changed rows; and whose came first."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Commits that move or describe rows, or prepare a table for them, without changing one.
HOUSEKEEPING = frozenset(
    {
        "ADD CONSTRAINT",
        "CLUSTER BY",
        "COMPUTE STATS",
        "CREATE TABLE",
        "DROP CONSTRAINT",
        "DROP FEATURE",
        "OPTIMIZE",
        "REMOVE COLUMN MAPPING",
        "REORG",
        "REORG TABLE UPGRADE UNIFORM",
        "ROW TRACKING BACKFILL",
        "SET TBLPROPERTIES",
        "UNSET TBLPROPERTIES",
        "UPGRADE PROTOCOL",
        "VACUUM END",
        "VACUUM START",
    }
)
# Delta's words for "another writer was faster". Their Python classes differ by version, and some have none.
CONFLICT = re.compile(
    r"\b(Concurrent\w*Exception|(Protocol|Metadata)ChangedException|DELTA_(CONCURRENT_\w+|(PROTOCOL|METADATA)_CHANGED))\b"
)
HISTORY = 20  # commits looked back at first for the last change of rows; ten times as many with each further look


class Commit(NamedTuple):
    """A commit as the table's history tells of it.

    Attributes:
        version: the version that it made.
        operation: Delta's name of what was done.
        made: job and inputs (JSON), if Millrace wrote it.
        write: what tells this write from any other, if Millrace wrote it.
        stands: whether it stands for the last change of rows, whose own commit is gone from the log.
    """

    version: int
    operation: str | None
    made: str | None
    write: str | None
    stands: bool

    @property
    def is_housekeeping(self) -> bool:
        return self.operation in HOUSEKEEPING and not self.stands


class Metadata(NamedTuple):
    """What a write says of itself: the whole (JSON), job and inputs alone (JSON), and what tells it from any other."""

    text: str
    made: str
    write: str


def newest_first(history: Callable[[int], DataFrame], before: int | None = None) -> Iterator[Commit]:
    """A table's commits, as far back as its log goes.

    Args:
        history: the newest so many commits, as Delta tells of them.
        before: those of this version and later ones are left out.
    """
    limit = HISTORY
    while True:
        rows = history(limit).select("version", "operation", "userMetadata").collect()
        for row in rows:
            if before is None or row["version"] < before:
                before = row["version"]
                yield told(row["version"], row.asDict())
        if len(rows) < limit:
            return
        limit *= 10


def told(version: int, info: Mapping[str, Any]) -> Commit:
    """A commit by what it says of itself: `operation` and `userMetadata`, where it says them."""
    return Commit(version, info.get("operation"), *_parsed(info.get("userMetadata")))


def metadata(job: str, inputs: Mapping[str, Any]) -> Metadata:
    """What a write by this job from these inputs says of itself."""
    made, write = {"job": job, "inputs": inputs}, uuid.uuid4().hex
    texts = [json.dumps(value, sort_keys=True, default=str) for value in (made | {"write": write}, made)]
    return Metadata(texts[0], texts[1], write)


def standing(job: str | None, inputs: Mapping[str, Any]) -> str:
    """What a commit says that stands for the last change of rows: by this job and inputs; None: by other means."""
    made = {} if job is None else {"job": job, "inputs": inputs}
    return json.dumps(made | {"stands": True}, sort_keys=True, default=str)


def _parsed(text: str | None) -> tuple[str | None, str | None, bool]:
    """A commit's user metadata: job and inputs as `metadata` writes them, the write's own id, whether it stands."""
    try:
        held = dict(json.loads(text or "{}"))
    except (ValueError, TypeError):
        return None, None, False
    stands = held.get("stands") is True
    if not {"job", "inputs"} <= held.keys():
        return None, None, stands
    made = {name: held[name] for name in ("job", "inputs")}
    return json.dumps(made, sort_keys=True), held.get("write"), stands


def is_conflict(error: BaseException) -> bool:
    """Whether an error is Delta's refusal of a commit because another writer's came first."""
    return CONFLICT.search(f"{type(error).__name__}: {error}") is not None
