"""Fraud live: cases answered as they come, by the features that the examples have, and their labels taken in later.

What was known of a case's entities is found by the code of the batch (spark_udfs/windows.py), over the cases that came
together and what is kept of those before. An alarm is what `score` would have taken for one among the cases after the
cut of the build: from the same probability on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.tasks import fraud_on_spark as batch
from jobs.tasks.fraud import options_of
from spark_udfs import windows
from spark_udfs.moments import DAY_US
from spark_udfs.scoring import predict
from training.errors import SettingsError, TableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings
    from spark_udfs.windows import Past

KEY = "case_id"
ANSWERS = ("p", "alarm", "reasons")
LIMIT_ROWS = 100_000  # cases after the cut, drawn by hash, that the limit of alarms is taken from


def refuse(settings: Settings) -> None:
    """See that cases can be told apart as they come.

    Raises:
        SettingsError: they have no ids: what a case holds does not tell it from one that comes twice.
    """
    options = options_of(settings)
    if KEY not in options.has:
        raise SettingsError(
            f"options.has must name {KEY} where cases are answered as they come; it is {list(options.has)}: give the "
            "source a column that names a case, train with it, and stream then"
        )


def entities(settings: Settings) -> Sequence[str]:
    """The columns that cases share."""
    return options_of(settings).entities


def numbers(settings: Settings) -> Sequence[str]:
    """The columns whose means are asked."""
    return options_of(settings).means


def delay_us(settings: Settings) -> int:
    """How long a label takes at most, in microseconds."""
    return round(options_of(settings).label_delay_days * DAY_US)


def given(ground: Ground, rows: DataFrame) -> DataFrame:
    """Rows as `windows.as_of` takes them."""
    return batch.given(rows, options_of(ground.settings))


def limit(ground: Ground, queries: DataFrame) -> float:
    """The probability from which on a case has an alarm.

    Raises:
        TableError: no case lies after the cut of the build in force, so that nobody knows how high answers are.
    """
    drawn = queries.orderBy(F.xxhash64(KEY)).limit(LIMIT_ROWS)
    found = batch.limit_of(predict(drawn, str(ground.bundle), key=KEY), options_of(ground.settings).alarm_share)
    if found is None:
        raise TableError(
            "table 'queries' has no case after the cut, from whose answers the limit of alarms is taken; set an "
            "earlier examples.test_from and run `millrace build-examples`"
        )
    return found


def answers(ground: Ground, cases: DataFrame, past: Past, limit: float) -> DataFrame:
    """KEY and ANSWERS of cases.

    Args:
        ground: with the bundle and the vocabularies.
        cases: as `given` gives them.
        past: what came before, of their entities.
        limit: of alarms.
    """
    options = options_of(ground.settings)
    found = windows.as_of(cases, KEY, options.entities, options.means, past=past, heavy=None)
    known = batch.with_known(found, ground.read, options)
    named = known.withColumn("answered", F.struct(KEY, batch.reasons(options).alias("reasons")))
    answered = predict(named, str(ground.bundle), key="answered").select("answered.*", "p")
    return answered.withColumn("alarm", F.col("p") >= limit).select(KEY, *ANSWERS)
