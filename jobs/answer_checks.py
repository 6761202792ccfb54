"""What must hold of a task's answers before they are published, and what is measured of them."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql import types as T

from training.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import Column, DataFrame

    from jobs.ground import Scored
    from jobs.settings_sections import ScoringSettings
    from jobs.task import Task


def checked(task: Task, scored: Scored, rows: DataFrame) -> dict[str, Any]:
    """See that answers are whole: by one aggregate over them and over what was asked, of which a row comes here.

    Args:
        task: whose they are.
        scored: how they were made.
        rows: all of them, as they are to be written; read once.

    Returns:
        keys_asked, keys_answered, coverage (the share of keys asked that were answered) and, where the task has
        fallbacks, fallback_share (of the rows).

    Raises:
        DataError: a key or a score is null, a score is no finite number, answers stand twice, or a key has none.
    """
    numbers = _numbers(task, scored, rows)
    found = _counted(task, scored, rows, numbers)
    if problems := list(_problems(task, numbers, found)):
        raise DataError(
            f"answers must be whole before they are published in '{task.table}': {'; '.join(problems)}. Nothing was "
            "published, and what was there stays. Scores that are no numbers come of a bundle whose training went "
            "wrong: train it again, or score with the one before; else see what lies in the tables that were read"
        )
    asked, answered, written = found["asked"], found["answered"], found["rows"]
    measured = {"keys_asked": asked, "keys_answered": answered, "coverage": answered / asked if asked else 1.0}
    if task.columns.fallback is None:
        return measured
    return measured | {"fallback_share": found["fallbacks"] / written if written else 0.0}


def refuse_too_much(measured: Mapping[str, Any], scoring: ScoringSettings, task: Task) -> None:
    """Hold what was measured against what the settings allow.

    Raises:
        DataError: there are more fallbacks, or fewer answers, or they have moved further, than they say.
    """
    limits = {
        "most_fallback": ("fallback_share", "the share of rows that are not the model's"),
        "most_drift": ("drift", "how far the answers have moved from those before"),
    }
    least, found = scoring.least_coverage, measured["coverage"]
    if least is not None and found < least:
        raise DataError(
            f"the share of {task.columns.key} with an answer must be at least scoring.least_coverage={least:g}; it is "
            f"{found:.3f}. Nothing was published in '{task.table}', and what was there stays: see what has changed, "
            "or set a lower limit"
        )
    for name, (of, what) in limits.items():
        limit, value = getattr(scoring, name), measured.get(of)
        if limit is not None and value is not None and value > limit:
            raise DataError(
                f"{what} must be at most scoring.{name}={limit:g}; it is {value:.3f}. Nothing was published in "
                f"'{task.table}', and what was there stays: see what has changed, or set a higher limit"
            )


def _counted(task: Task, scored: Scored, rows: DataFrame, numbers: Sequence[str]) -> dict[str, Any]:
    key = F.col(task.columns.key).alias("key")
    is_null, is_no_number = _flags(task, rows, numbers)
    sets = [F.struct(F.lit(0).alias("_"), *columns).alias(f"set_{n}") for n, columns in enumerate(task.columns.once)]
    row = F.to_json(F.struct(*task.answer[:4]), {"ignoreNullFields": "false"})
    fallback = F.lit(False) if task.columns.fallback is None else F.col(task.columns.fallback)
    of_rows = rows.select(
        key,
        F.lit(1).alias("rows"),
        F.when(is_null, row).alias("null"),
        F.when(is_no_number, row).alias("no_number"),
        fallback.cast("int").alias("fallback"),
        *sets,
        F.lit(0).alias("asked"),
        F.lit(0).alias("must"),
    )
    silent = F.lit(False) if scored.silent is None else F.coalesce(scored.silent, F.lit(False))
    empty = [F.lit(None).cast(field.dataType).alias(field.name) for field in of_rows.schema.fields[2:-2]]
    of_asked = scored.asked.select(
        key, F.lit(0).alias("rows"), *empty, F.lit(1).alias("asked"), (~silent).cast("int").alias("must")
    )
    return _added_up(of_rows.unionByName(of_asked), len(sets))


def _added_up(both: DataFrame, sets: int) -> dict[str, Any]:
    """By key, and then over all of them."""
    twice = [(F.sum("rows") - F.size(F.collect_set(f"set_{n}"))).alias(f"twice_{n}") for n in range(sets)]
    of_key = both.groupBy("key").agg(
        F.sum("rows").alias("rows"),
        F.max("asked").alias("asked"),
        F.max("must").alias("must"),
        F.sum("fallback").alias("fallbacks"),
        *twice,
        *(one for name in ("null", "no_number") for one in (F.count(name).alias(f"{name}s"), F.min(name).alias(name))),
    )
    stands_twice = reduce(or_, (F.col(f"twice_{n}") > 0 for n in range(sets)), F.lit(False))
    is_lost = (F.col("must") == 1) & (F.col("rows") == 0)
    totals = ("rows", "asked", "fallbacks", "nulls", "no_numbers", *(f"twice_{n}" for n in range(sets)))
    of_all = of_key.agg(
        *(F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in totals),
        *(F.min(name).alias(name) for name in ("null", "no_number")),
        F.count_if((F.col("asked") == 1) & (F.col("rows") > 0)).alias("answered"),
        F.count_if(is_lost).alias("losts"),
        F.min(F.when(is_lost, F.col("key"))).alias("lost"),
        F.min(F.when(stands_twice, F.col("key"))).alias("twice"),
    )
    return dict(of_all.collect()[0].asDict())


def _flags(task: Task, rows: DataFrame, numbers: Sequence[str]) -> tuple[Column, Column]:
    """Whether something of a row is null that may not be; whether a score is no finite number."""
    lists = {name for name in numbers if isinstance(rows.schema[name].dataType, T.ArrayType)}
    ids = dict.fromkeys((task.columns.key, *(column for columns in task.columns.once for column in columns)))
    nulls = [F.col(name).isNull() for name in (*ids, *numbers)]
    nulls += [F.exists(name, lambda one: one.isNull()) for name in lists]
    wrong = [F.exists(name, _no_number) if name in lists else _no_number(F.col(name)) for name in numbers]
    return tuple(F.coalesce(reduce(or_, found), F.lit(False)) for found in (nulls, wrong))  # type: ignore[return-value]


def _numbers(task: Task, scored: Scored, rows: DataFrame) -> list[str]:
    """Columns of numbers, or of lists of them."""
    kinds = {field.name: getattr(field.dataType, "elementType", field.dataType) for field in rows.schema.fields}
    return [name for name in (*task.columns.scores, *scored.more) if isinstance(kinds[name], T.NumericType)]


def _no_number(value: Column) -> Column:
    number = value.cast("double")
    return F.isnan(number) | (F.abs(number) == float("inf"))


def _problems(task: Task, numbers: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    columns, key, of = task.columns, task.columns.key, ", ".join(numbers)
    ids = ", ".join(dict.fromkeys((key, *(column for once in columns.once for column in once))))
    said = []
    if found["nulls"]:
        said.append(f"{found['nulls']:,} rows have a null among {ids}, {of}, as {found['null']}")
    if found["no_numbers"]:
        said.append(f"{found['no_numbers']:,} rows have no finite number among {of}, as {found['no_number']}")
    for number, once in enumerate(columns.once):
        if many := found[f"twice_{number}"]:
            said.append(
                f"{many:,} rows have the same {' and '.join((key, *once))} as another, as one of '{found['twice']}'"
            )
    if found["losts"]:
        said.append(
            f"{found['losts']:,} of {found['asked']:,} {key} that were asked have no answer, as '{found['lost']}'"
        )
    return said
