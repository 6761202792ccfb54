"""Pieces of time: which one a moment lies in, and which splits they make at a cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from spark_udfs.features import Cuts
from spark_udfs.pieces import FIRST, Pieces, name

FIRST_OF_MAY = datetime(2024, 5, 1, tzinfo=UTC)
AT_NOON = datetime(2024, 5, 2, 12, tzinfo=UTC)
PIECES = Pieces((FIRST_OF_MAY, AT_NOON))


def test_a_moment_lies_in_the_piece_that_has_begun_last(spark: SparkSession) -> None:
    microsecond = timedelta(microseconds=1)
    moments = [FIRST_OF_MAY - microsecond, FIRST_OF_MAY, AT_NOON - microsecond, AT_NOON]
    rows = spark.createDataFrame([(moment,) for moment in moments], "known_at timestamp").coalesce(1)
    found = [row[0] for row in rows.select(PIECES.of(F.col("known_at"))).collect()]
    assert found == [FIRST, "2024-05-01", "2024-05-01", "2024-05-02 12.00.00.000000"]


def test_names_are_in_the_order_of_time_and_of_utc() -> None:
    assert FIRST < name(FIRST_OF_MAY) < name(AT_NOON) < name(AT_NOON + timedelta(days=1))
    assert name(FIRST_OF_MAY.astimezone(timezone(timedelta(hours=3)))) == "2024-05-01"


def test_the_cuts_say_which_pieces_are_trained_on() -> None:
    cuts = Cuts(validation=AT_NOON, test=AT_NOON + timedelta(days=9))
    assert PIECES.of_splits(cuts) == {"train": [FIRST, "2024-05-01"], "validation": ["2024-05-02 12.00.00.000000"]}
