"""Where time is split, and what of the lines lies before and after."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from jobs.console import warn
from spark_udfs import features
from spark_udfs.features import Cuts
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from jobs.tables import Tables
    from jobs.task import Task


def has_ids(kinds: Mapping[str, str]) -> Column:
    """Whether a line has all ids."""
    return reduce(and_, (F.col(column).isNotNull() for column in kinds.values()), F.lit(True))


def span_of(lines: DataFrame) -> list[int | None]:
    """The times of the first and of the last line, in microseconds."""
    first, last = lines.agg(F.min(F.unix_micros("time")), F.max(F.unix_micros("time"))).collect()[0]
    return [first, last]


def cuts_of(span: list[int | None], task: Task, settings: Settings, tables: Tables) -> Cuts:
    examples = settings.examples
    first, last = span
    if first is None or last is None:
        ids, table = " and ".join(task.kinds(settings).values()), next(iter(task.tables(settings)))
        if not ids:
            raise DataError(
                f"table '{table}' at {tables.path(table)} holds no {task.row} that can be learnt from: it is empty, or "
                "what its rows hold is nothing to the task; look at them, and run `millrace ingest` again"
            )
        raise DataError(
            f"no {task.row} in table '{table}' at {tables.path(table)} has {ids}; map them to the source's columns and "
            "run `millrace ingest` again"
        )
    if examples.test_from is not None:
        test = features.utc(examples.test_from)
    else:
        tenth = datetime.fromtimestamp((last - (last - first) / 10) / 1e6, tz=UTC)
        test = tenth.replace(hour=0, minute=0, second=0, microsecond=0)
    validation = test - timedelta(days=examples.validation_days)
    begins = datetime.fromtimestamp(first / 1e6, tz=UTC)
    if validation <= begins:
        raise DataError(
            f"training needs {task.row}s before {validation:%Y-%m-%d} (examples.test_from {test:%Y-%m-%d} less "
            f"validation_days {examples.validation_days}), the first one is of {begins:%Y-%m-%d}; "
            "move test_from or shorten the validation"
        )
    ends = datetime.fromtimestamp(last / 1e6, tz=UTC)
    if test > ends:
        warn(
            f"examples.test_from {test:%Y-%m-%d} is after the last {task.row}, of {ends:%Y-%m-%d}: nothing is held "
            "out, and evaluate will have nothing to judge"
        )
    return Cuts(validation=validation, test=test)


def count(lines: DataFrame, kinds: Mapping[str, str], cuts: Cuts) -> dict[str, int]:
    """Lines and distinct ids known before the test cut, and what is held out."""
    of_known, before = has_ids(kinds), features.known_before(cuts.test)
    known = F.coalesce(of_known & before, F.lit(False))
    row = lines.agg(
        F.count_if(known).alias("training_lines"),
        *(F.countDistinct(F.when(known, F.col(column))).alias(f"training_{kind}") for kind, column in kinds.items()),
        F.count_if(of_known & (F.col("time") >= F.lit(cuts.test))).alias("held_out_lines"),
    )
    return {name: int(value) for name, value in row.collect()[0].asDict().items()}
