"""What all series do together: found where it is planted, and kept apart from what one series does."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs.panel_level import Doubles, Levels, levels
from spark_udfs.periods import Form

WEEK = Form("week", horizon=2, lags=4, origins=20)
DAY = Form("day", horizon=2, lags=14, origins=60)
FIRST, PERIODS = 1000, 40


def sums(spark: SparkSession, panel: Doubles, partitions: int = 3) -> DataFrame:
    """Of (series, periods) quantities."""
    rows = [(series, [*range(FIRST, FIRST + len(of))], [*map(float, of)]) for series, of in enumerate(panel, 1)]
    made = spark.createDataFrame(rows, "series bigint, periods array<bigint>, quantities array<double>")
    return made.repartition(partitions)


def found(spark: SparkSession, panel: Doubles, form: Form, stop: int = PERIODS) -> Levels:
    origins = np.arange(FIRST + 1, FIRST + stop)
    return levels(sums(spark, panel, 3), form, origins, [FIRST + stop])[0]


def test_a_break_that_all_share_is_a_level_and_a_shock_once(spark: SparkSession) -> None:
    """Sales of a thousand pieces a series fall by half in the period 20, and stay there."""
    panel = np.full((400, PERIODS), 1000.0)
    panel[:, 20:] = 500
    of = found(spark, panel, WEEK)
    trust = 1 / (1 + 10 * (1 / 400 + 1 / 400_000))
    at_22, at_19 = 22 - 1, 19 - 1  # origin FIRST + n stands at n - 1
    assert of.past[at_22] == pytest.approx(1 + trust * (np.array([500, 500, 1000, 1000]) / 750 - 1), rel=1e-5)
    assert of.now[at_22] == pytest.approx(1, rel=1e-5)  # the average of its four newest periods
    assert of.past[at_19] == pytest.approx(1)
    assert of.shock[at_19] == pytest.approx([0, trust * np.log(0.5)], abs=0.01)
    assert of.shock[30:] == pytest.approx(0, abs=1e-5)
    assert of.shock[-1][1] == 0  # nothing is known of the period after the last


def test_what_goes_on_is_no_shock(spark: SparkSession) -> None:
    """Sales that grow by 3 % a week all the time."""
    panel = np.full((200, 1), 100.0) * 1.03 ** np.arange(PERIODS)
    of = found(spark, panel, WEEK)
    assert np.abs(of.shock[5:]).max() < 0.002
    assert (of.past[20] == np.sort(of.past[20])[::-1]).all()


def test_the_days_of_a_week_are_no_shock_and_a_holiday_is(spark: SparkSession) -> None:
    usual = np.array([5.0, 5, 5, 5, 8, 12, 0])  # the shop is closed on one day
    day = np.tile(usual, 6)[:PERIODS]
    day[30] *= 0.1
    of = found(spark, np.full((300, 1), 20.0) * day, DAY)
    quiet = [place for place in range(14, len(of.origins)) if not {FIRST + 30, FIRST + 29} & {of.origins[place]}]
    assert np.abs(of.shock[quiet][:10]).max() < 0.06
    assert of.shock[29][0] < -1.5  # the origin of the holiday
    assert of.past.min() == pytest.approx(0.1)


def test_of_a_single_series_next_to_all_is_its_own(spark: SparkSession) -> None:
    panel = np.full((1, PERIODS), 50.0)
    panel[:, 20:] = 25
    of = found(spark, panel, WEEK)
    assert np.abs(of.past - 1).max() < 0.06
    assert np.abs(of.shock).max() < 0.08


def test_neither_the_partitions_nor_what_is_not_yet_known_count(spark: SparkSession) -> None:
    panel = np.random.default_rng(0).poisson(3.0, (50, PERIODS)).astype(float)
    origins = np.arange(FIRST + 1, FIRST + PERIODS)
    one, other = (levels(sums(spark, panel, parts), WEEK, origins, [FIRST + 20, FIRST + PERIODS]) for parts in (1, 5))
    for left, right in zip(one, other, strict=True):
        assert (left.past == right.past).all()
        assert (left.shock == right.shock).all()
    changed = panel.copy()
    changed[:, 20:] += 9
    early = levels(sums(spark, changed), WEEK, origins, [FIRST + 20])[0]
    assert (early.past[:20] == one[0].past[:20]).all()
    assert (early.shock == one[0].shock).all()
    assert not early.shock[19:].any()
