"""The table that a task's answers lie in: a folder a bundle and a moment, of which each is replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.erasure.erased import JOB as ERASE
from spark_udfs import features
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import Column

    from jobs.tables import Tables
    from jobs.task import Scored, Task

JOB = "score"
# A time as a folder's name has no zone, and a reader in another one takes it for another time: the folder has text.
FOLDERS = ["bundle", "as_of"]


def keep_more(tables: Tables, task: Task, bundle: str, moment: datetime, since: datetime) -> None:
    """See that fewer answers do not replace more.

    Raises:
        TableError: the bundle has answered everybody, or all since an earlier time, as of this moment.
    """
    for commit in tables.history(task.table) if tables.exists(task.table) else ():
        made: dict[str, Any] = json.loads(commit.made) if commit.made else {}
        inputs: dict[str, Any] = made.get("inputs", {})
        if made.get("job") != JOB or (inputs["bundle"], inputs["moment"]) != (bundle, moment.isoformat()):
            continue
        held = inputs["scoring"].get("since")
        if held is None or features.utc(datetime.fromisoformat(held)) < features.utc(since):
            raise TableError(
                f"table '{task.table}' at {tables.path(task.table)} has what '{bundle}' answers to "
                f"{'everybody' if held is None else f'all since {held}'} as of {moment.isoformat()}, which a score of "
                "fewer would replace; set a later scoring.moment, or leave scoring.since out"
            )
        return


def mine(bundle: str, moment: datetime) -> Column:
    """Which rows are answers of a bundle as of a moment."""
    return (F.col("bundle") == bundle) & (F.col("as_of") == _as_of(moment))


def take_out(tables: Tables, task: Task, made: Mapping[str, Any]) -> int:
    """Remove the answers that a write brought, by its inputs; returns how many."""
    bundle, moment = str(made["bundle"]), datetime.fromisoformat(made["moment"])
    rows = tables.read(task.table).where(mine(bundle, moment))
    count = rows.count()
    tables.write(
        task.table, rows.limit(0), mode="overwrite", job=ERASE, inputs={}, where=_where(bundle, moment),
        partition_by=FOLDERS,
    )  # fmt: skip
    return count


def write(tables: Tables, task: Task, scored: Scored, bundle: str, moment: datetime, inputs: dict[str, Any]) -> int:
    """Replace this bundle's rows of this moment; other rows stay.

    Raises:
        TableError: the table has other folders: an earlier version of Millrace made it; or it lacks columns.
    """
    name = task.table
    held = tables.folders(name) if tables.exists(name) else FOLDERS
    if held != FOLDERS:
        raise TableError(
            f"table '{name}' at {tables.path(name)} has folders by {', '.join(held)}, not by {', '.join(FOLDERS)}: an "
            "earlier version of Millrace made it; rename its folder and score again ('feedback' stays as it is)"
        )
    columns = tables.read(name).columns if tables.exists(name) else scored.more
    if lacking := [column for column in scored.more if column not in columns]:
        raise TableError(
            f"table '{name}' at {tables.path(name)} must have a column for each answer; it lacks {', '.join(lacking)}, "
            "which these settings add: rename its folder and score again"
        )
    return tables.write(
        name,
        scored.rows.select(
            *task.answer,
            *scored.more,
            F.lit(bundle).alias("bundle"),
            F.lit(moment).alias("moment"),
            F.lit(_as_of(moment)).alias("as_of"),
        ),
        mode="overwrite",
        job=JOB,
        inputs=inputs,
        where=_where(bundle, moment),
        partition_by=FOLDERS,
    )


def _where(bundle: str, moment: datetime) -> str:
    return f"bundle = '{bundle}' AND as_of = '{_as_of(moment)}'"


def _as_of(moment: datetime) -> str:
    """A moment in UTC, as the name of a folder."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
