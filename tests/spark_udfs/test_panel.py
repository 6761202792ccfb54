"""Panels: against plain loops over random sales; what comes after an origin, and how rows lie, change nothing."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import panel
from spark_udfs.features import Cuts
from spark_udfs.periods import Form
from training.errors import DataError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2025, 1, 6, tzinfo=UTC)  # a Monday
LINES = "series_id string, time timestamp, quantity double"
WEEK = Form("week", horizon=3, lags=4, origins=8)
DAY = Form("day", horizon=2, lags=5, origins=60, yearly=True)
CUTS = Cuts(validation=START + timedelta(days=70), test=START + timedelta(days=84))
Line = tuple[str, datetime, float]


def sold(seed: int = 0, days: int = 100) -> list[Line]:
    """Random sales and returns of six series that begin on other days; one has a single line of nothing sold."""
    rng = np.random.default_rng(seed)
    rows: list[Line] = [("s0", START + timedelta(days=9), 0.0)]
    for series in range(1, 6):
        for day in np.sort(rng.uniform(7.0 * series, days, 40)):
            rows.append((f"s{series}", START + timedelta(days=float(day)), float(rng.integers(-1, 6)) / 2))
    return rows


def sums(spark: SparkSession, lines: list[Line], form: Form, partitions: int = 2) -> DataFrame:
    names = sorted({series for series, _, _ in sold()})
    numbered = spark.createDataFrame([(n + 1, name) for n, name in enumerate(names)], "index bigint, id string")
    return panel.quantities(spark.createDataFrame(lines, LINES).repartition(partitions), numbered, form)


def split_of(row: dict[str, Any]) -> str | None:
    """What an example is for; None: it is no example."""
    if "known_at" not in row:
        return None
    return "train" if row["known_at"] < CUTS.validation.replace(tzinfo=None) else "validation"


def rows_of(made: DataFrame) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = [row.asDict() for row in made.collect()]
    held = {(row["series"], row["origin"], split_of(row)): row for row in rows}
    assert len(held) == len(rows)
    return held


def by_loops(lines: list[Line], form: Form) -> dict[int, dict[int, float]]:
    """Series -> period -> quantity, from its first line on, by the calendar."""
    held: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for series, time, quantity in lines:
        monday = time.date() - timedelta(days=time.weekday())
        day = monday if form.period == "week" else time.date()
        days = (day - (date(1969, 12, 29) if form.period == "week" else date(1970, 1, 1))).days
        held[int(series[1:]) + 1][days // form.of.days] += quantity
    return {series: {at: max(value, 0.0) for at, value in of.items()} for series, of in held.items()}


def together(panel_of: dict[int, dict[int, float]], origin: int, form: Form) -> list[float]:
    """What all series sold in each of the lags, newest first, over what those that were there sell on the average."""
    past = {s: [of.get(at, 0.0) for at in range(min(of), origin)][::-1][: form.lags] for s, of in panel_of.items()}
    past = {series: lags for series, lags in past.items() if lags}
    mean = {series: sum(lags) / len(lags) for series, lags in past.items()}
    if not sum(mean.values()):
        return [1.0] * form.lags
    trust = 1 / (1 + 10 * (sum(m**2 for m in mean.values()) / sum(mean.values()) ** 2 + 1 / sum(mean.values())))
    level = []
    for lag in range(form.lags):
        there = [series for series, lags in past.items() if len(lags) > lag]
        usual = sum(mean[series] for series in there)
        raw = sum(past[series][lag] for series in there) / usual if usual else 1.0
        level.append(max(1 + trust * (raw - 1), 0.1))
    return level


def expected(panel_of: dict[int, dict[int, float]], series: int, origin: int, form: Form) -> dict[str, Any]:
    """What is known of a series at an origin, but for the scale, which is here that without a shock."""
    of = panel_of[series]
    level = together(panel_of, origin, form)
    longest = max(origin - min(other) for other in panel_of.values())
    newest = level[: min(form.of.level, longest)]
    lags = [of.get(at, 0.0) for at in range(min(of), origin)][::-1][: form.lags]
    average = (sum(lags) + 0.1) / (sum(level[: len(lags)]) + 0.1)
    scale = average * sum(newest) / len(newest)
    calm = [lag / of_all for lag, of_all in zip(lags, level, strict=False)]
    windows = [(sum(lags[:w]) / average + 1) / (sum(level[: min(w, len(lags))]) + 1) for w in form.of.windows]
    statistics = [math.log(scale), sum(lag == 0 for lag in lags) / len(lags), *map(math.log, windows)]
    statistics += [math.log1p(float(np.var(calm)) / average), math.log(len(lags))]
    padded = calm + [0.0] * (form.lags - len(calm))
    return {"calm": scale, "lags": [math.sqrt(lag / average) for lag in padded], "statistics": statistics}


@pytest.mark.parametrize("form", [WEEK, DAY], ids=["week", "day"])
def test_examples_are_what_loops_over_the_lines_give(spark: SparkSession, form: Form) -> None:
    lines = sold()
    stop, cut = form.number(CUTS.test), form.number(CUTS.validation)
    made = rows_of(panel.examples(sums(spark, lines, form), form, CUTS, end=stop + 5))
    wanted, panel_of = {}, by_loops(lines, form)
    for series, of in panel_of.items():
        for origin in range(max(min(of) + 1, stop - form.origins), stop):
            steps = range(origin, origin + form.horizon)
            for split, low, high in (("train", 0, cut), ("validation", cut, stop)):
                known = [float(low <= at < high) for at in steps]
                if any(known):
                    target = [of.get(at, 0.0) * is_known for at, is_known in zip(steps, known, strict=True)]
                    row = expected(panel_of, series, origin, form) | {"target": target, "known": known}
                    wanted[series, origin, split] = row
    assert set(made) == set(wanted)
    assert {split for _, _, split in made} == {"train", "validation"}
    for key, row in wanted.items():
        calm = row.pop("calm")
        shocks = np.log(np.array(made[key]["scale"]) / calm)
        assert np.abs(shocks).max() < 2, key
        assert not form.yearly or shocks == pytest.approx(0, abs=1e-5), key
        for name, values in row.items():
            assert made[key][name] == pytest.approx(values, rel=1e-4, abs=1e-5), (key, name)


def test_the_calendar_and_the_time_are_those_of_the_origin(spark: SparkSession) -> None:
    row = next(iter(rows_of(panel.examples(sums(spark, sold(), DAY), DAY, CUTS, end=10**6)).values()))
    day = date(1970, 1, 1) + timedelta(days=row["origin"])
    angle = 2 * math.pi * (day.timetuple().tm_yday - 1) / 365.25
    weekday = [float(at == day.weekday()) for at in range(7)]
    assert row["calendar"] == pytest.approx([math.sin(angle), math.cos(angle), *weekday], abs=1e-6)
    assert row["time"] == datetime(day.year, day.month, day.day)
    of_week = next(iter(rows_of(panel.examples(sums(spark, sold(), WEEK), WEEK, CUTS, end=10**6)).values()))
    assert of_week["calendar"] == [0.0, 0.0]  # the place in the year is not wanted
    assert of_week["time"].weekday() == 0


def test_what_is_asked_has_the_history_before_and_the_truth_after(spark: SparkSession) -> None:
    lines = sold()
    origin = WEEK.number(CUTS.test)
    made, panel_of = rows_of(panel.asked(sums(spark, lines, WEEK), WEEK, origin, origin + 2)), by_loops(lines, WEEK)
    for series, of in panel_of.items():
        row = made[series, origin, None]
        dense = [of.get(at, 0.0) for at in range(min(of), origin)]
        assert row["history"] == dense
        assert row["known"] == [1.0, 1.0, 0.0]
        assert row["target"] == [of.get(origin, 0.0), of.get(origin + 1, 0.0), 0.0]
        errors = [abs(after - before) for before, after in itertools.pairwise(dense)]
        assert row["naive_error"] == pytest.approx(sum(errors) / len(errors) if errors else 0.0, rel=1e-6)
        wanted = expected(panel_of, series, origin, WEEK)
        assert row["scale"] == pytest.approx([wanted.pop("calm")] * WEEK.horizon, rel=1e-5)
        for name, values in wanted.items():
            assert row[name] == pytest.approx(values, rel=1e-4, abs=1e-5)
    early = WEEK.number(START) + 1  # before the others' first lines
    assert {series for series, _, _ in rows_of(panel.asked(sums(spark, lines, WEEK), WEEK, early, early))} == set()


def test_nothing_after_an_origin_changes_what_is_known_of_it(spark: SparkSession) -> None:
    seen = ("lags", "statistics", "calendar")
    lines, moment = sold(), START + timedelta(days=63)
    origin = WEEK.number(moment)
    other = [line for line in lines if line[1] < moment] + [
        (series, time, quantity * 100 + 7) for series, time, quantity in sold(seed=1) if time >= moment
    ]
    whole = rows_of(panel.examples(sums(spark, lines, WEEK), WEEK, CUTS, end=10**6))
    changed = rows_of(panel.examples(sums(spark, other, WEEK), WEEK, CUTS, end=10**6))
    before = [key for key in whole if key[1] <= origin]
    assert before
    for key in before:
        assert [whole[key][name] for name in seen] == [changed[key][name] for name in seen]
    assert any(whole[key]["target"] != changed[key]["target"] for key in before)
    asked, asked_of_other = (rows_of(panel.asked(sums(spark, of, WEEK), WEEK, origin, origin)) for of in (lines, other))
    assert asked == asked_of_other


def test_repartitioning_changes_no_row(spark: SparkSession) -> None:
    one, many = (
        rows_of(panel.examples(sums(spark, lines, DAY, partitions), DAY, CUTS, end=10**6))
        for lines, partitions in ((sold(), 1), (sold()[::-1], 7))
    )
    assert one == many


def test_a_target_of_an_unfinished_period_is_not_known(spark: SparkSession) -> None:
    end = WEEK.number(CUTS.test) - 1
    made = rows_of(panel.examples(sums(spark, sold(), WEEK), WEEK, CUTS, end=end))
    reached = {key[1] + step for key, row in made.items() for step, known in enumerate(row["known"]) if known}
    assert max(reached) == end - 1


def test_the_last_period_counts_where_lines_are_sums_of_periods(spark: SparkSession) -> None:
    moments = spark.createDataFrame(sold(), LINES)
    mondays = spark.createDataFrame([("s1", START, 1.0), ("s1", START + timedelta(days=7), 1.0)], LINES)
    last = max(time for _, time, _ in sold())
    assert panel.whole_before(moments, WEEK) == WEEK.number(last)
    assert panel.whole_before(mondays, WEEK) == WEEK.number(START) + 2
    assert WEEK.number(EPOCH) == 0 == DAY.number(EPOCH)
    with pytest.raises(DataError, match=r"a forecast needs sales of an earlier time, .*; set a later scoring.moment"):
        panel.whole_before(moments.where("false"), WEEK)
