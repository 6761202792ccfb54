"""Customers as of moments, against a loop over all lines; what is known later changes nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pyspark.sql import SparkSession

from spark_udfs.order_day_names import FEATURES, OUTCOMES, WINDOWS
from spark_udfs.order_days import Ahead, asked

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NOT_KNOWN = -1.0  # null
LINES = "user_id string, item_id string, time timestamp, arrival_time timestamp, is_return boolean, value double"
AHEAD = Ahead((START + 40 * DAY, START + 60.5 * DAY, START + 75 * DAY), 12.0, START + 80 * DAY)  # the last is not over

Line = tuple[str, str, datetime, datetime, bool, float]


def drawn() -> list[Line]:
    """Few and many lines, several of a day, returns, and some that arrive days later."""
    rng, lines = random.Random(3), []
    for user in range(12):
        for _ in range(rng.choice([1, 3, 12, 40])):
            time = START + 85 * DAY * rng.random()
            late = rng.choice([0.0, 0.0, 0.0, 9.0]) * DAY
            lines.append(
                (
                    f"u{user}",
                    f"i{rng.randrange(9)}",
                    time,
                    time + late,
                    rng.random() < 0.15,
                    round(50 * rng.random(), 2),
                )
            )
    return [*lines, *((user, "i0", time, arrival, False, 1.0) for user, _, time, arrival, _, _ in lines[:40])]


def plainly(lines: list[Line], moment: datetime) -> dict[str, dict[str, Any]]:
    rows = {}
    for user in {line[0] for line in lines}:
        held = [line for line in lines if line[0] == user and line[2] < moment and line[3] <= moment]
        then = [line for line in lines if line[0] == user and line[2] >= moment]
        then = [line for line in then if line[2] < moment + 12 * DAY and line[3] <= moment + 12 * DAY]
        days = sorted({(line[2] - START).days for line in held if not line[4]})
        if days:
            over = moment + 12 * DAY <= AHEAD.over
            again = {(line[2] - START).days for line in then if not line[4]}
            spend = sum(-line[5] if line[4] else line[5] for line in then)
            came = (float(bool(again)), max(0.0, spend), len(again)) if over else (NOT_KNOWN,) * 3
            rows[user] = features(held, days, (moment - START) / DAY) | dict(zip(OUTCOMES, came, strict=True))
    return rows


def features(held: list[Line], days: list[int], now: float) -> dict[str, Any]:
    bought = {day: sum(line[5] for line in held if not line[4] and (line[2] - START).days == day) for day in days}
    tenure, gaps = now - days[0], [later - day for day, later in pairwise(days)]
    gaps = gaps or [tenure]
    named: dict[str, Any] = {"recency_days": now - days[-1], "tenure_days": tenure, "order_days": len(days)}
    first = START.toordinal() - datetime(1970, 1, 1).toordinal()
    named["order_months"] = len({(first + day) // 30 for day in days})
    named["items"] = len({line[1] for line in held if not line[4]})
    for window in WINDOWS:
        named[f"order_days_{window}d"] = sum(now - day <= window for day in days)
        named[f"value_{window}d"] = sum(value for day, value in bought.items() if now - day <= window)
    weekdays = [(START + day * DAY).weekday() for day in days]
    return named | {
        "value": sum(bought.values()),
        "value_mean": sum(bought.values()) / len(days),
        "value_max": max(bought.values()),
        "value_last": bought[days[-1]],
        "returned": sum(line[5] for line in held if line[4]),
        "lines_mean": sum(not line[4] for line in held) / len(days),
        "gap_mean": sum(gaps) / len(gaps),
        "gap_max": max(gaps),
        "gap_last": gaps[-1],
        "overdue": (now - days[-1]) / max(1.0, sum(gaps) / len(gaps)),
        **{f"weekday_{day}": weekdays.count(day) / len(days) for day in range(7)},
    }


def test_it_is_what_a_loop_over_lines_says(spark: SparkSession) -> None:
    lines = drawn()
    found = asked(spark.createDataFrame(lines, LINES).repartition(3), AHEAD).collect()
    assert found[0].asDict().keys() == {"user_id", "time", *FEATURES, *OUTCOMES}
    told = {(row["user_id"], row["time"].timestamp()): row.asDict() for row in found}
    wanted = {
        (user, moment.timestamp()): row for moment in AHEAD.moments for user, row in plainly(lines, moment).items()
    }
    assert told.keys() == wanted.keys()
    for key, row in wanted.items():
        held = {name: NOT_KNOWN if told[key][name] is None else told[key][name] for name in row}
        assert held == pytest.approx(row, rel=1e-5, abs=1e-5), key
    assert {row["buys"] for row in wanted.values()} == {0.0, 1.0, NOT_KNOWN}
