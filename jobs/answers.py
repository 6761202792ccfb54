"""The table that a task's answers lie in: a folder a bundle and a moment, of which each is replaced whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.erasure.erased import JOB as ERASE
from spark_udfs import features
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.tables import Tables
    from jobs.task import Task

JOB = "score"
# A time as a folder's name has no zone, and a reader in another one takes it for another time: the folder has text.
FOLDERS = ["bundle", "as_of"]


def keep_more(tables: Tables, task: Task, bundle: str, moment: datetime, since: datetime) -> None:
    """See that fewer answers do not replace more.

    Raises:
        TableError: the bundle has answered everybody, or all since an earlier time, as of this moment.
    """
    for inputs in _scored(tables, task):
        if (inputs["bundle"], inputs["moment"]) != (bundle, moment.isoformat()):
            continue
        held = inputs["scoring"].get("since")
        if held is None or features.utc(datetime.fromisoformat(held)) < features.utc(since):
            raise TableError(
                f"table '{task.table}' at {tables.path(task.table)} has what '{bundle}' answers to "
                f"{'everybody' if held is None else f'all since {held}'} as of {moment.isoformat()}, which a score of "
                "fewer would replace; set a later scoring.moment, or leave scoring.since out"
            )
        return


def before(tables: Tables, task: Task, now: Mapping[str, Any]) -> tuple[DataFrame, dict[str, str]] | None:
    """The answers that were published last, and whose they are (`bundle`, `moment`); None: there are none.

    Where those since a time are answered, of others who were; else of everybody. What replaced others counts in their
    place; not those of the same inputs, by a job that was killed before it had said so, nor those that an erasure took
    out.

    Args:
        tables: where they lie.
        task: whose they are.
        now: what decides the answers to come.
    """
    replaced = set[tuple[str, str]]()
    for inputs in _scored(tables, task):
        of = (str(inputs["bundle"]), str(inputs["moment"]))
        is_newest, alike = of not in replaced, ("since" in inputs["scoring"]) == ("since" in now["scoring"])
        replaced.add(of)
        if not (is_newest and alike) or inputs == now:
            continue
        rows = tables.read(task.table).where(mine(of[0], datetime.fromisoformat(of[1])))
        if not rows.isEmpty():
            return rows, dict(zip(("bundle", "moment"), of, strict=True))
    return None


def _scored(tables: Tables, task: Task) -> Iterator[dict[str, Any]]:
    """What the answers were made from that the table's commits brought, newest first."""
    for commit in tables.history(task.table) if tables.exists(task.table) else ():
        made: dict[str, Any] = json.loads(commit.made) if commit.made else {}
        if made.get("job") == JOB:
            yield made["inputs"]


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


def refuse_another(tables: Tables, task: Task, more: Sequence[str]) -> None:
    """See, before answers are made, that the table can take them.

    Raises:
        TableError: it has other folders: an earlier version of Millrace made it; or it lacks columns.
    """
    name = task.table
    held = tables.folders(name) if tables.exists(name) else FOLDERS
    if held != FOLDERS:
        raise TableError(
            f"table '{name}' at {tables.path(name)} has folders by {', '.join(held)}, not by {', '.join(FOLDERS)}: an "
            "earlier version of Millrace made it; rename its folder and score again ('feedback' stays as it is)"
        )
    wanted = (*task.answer, *more)
    columns = tables.read(name).columns if tables.exists(name) else wanted
    if lacking := [column for column in wanted if column not in columns]:
        raise TableError(
            f"table '{name}' at {tables.path(name)} must have a column for each answer; it lacks {', '.join(lacking)}, "
            "which these settings, or this version of Millrace, add: rename its folder and score again"
        )


def write(
    tables: Tables,
    task: Task,
    rows: DataFrame,
    more: Sequence[str],
    bundle: str,
    moment: datetime,
    inputs: dict[str, Any],
) -> int:
    """Replace this bundle's rows of this moment in one commit; other rows stay."""
    return tables.write(
        task.table,
        rows.select(
            *task.answer,
            *more,
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
