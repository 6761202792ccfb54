"""The table of customers: what each is expected to do, which segment they are of, and what they are used to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.console import show_table, step
from jobs.ground import Ground, Scored
from jobs.tasks.customers import SCORED, options_of
from spark_udfs import features, order_days, segments
from spark_udfs.customer_habits import habits
from spark_udfs.order_day_names import OUTCOMES
from spark_udfs.order_days import Ahead
from spark_udfs.scoring import predicted

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import Column, DataFrame

ANSWERS = {"p": "buys", "amount": "next_spend", "count": "next_order_days"}  # an answer, and what it is of
SPEND_BETWEEN = 0.8  # training.models.value_mlp.BETWEEN, named without torch
BETWEEN = ("amount_low", "amount_high")  # of a model that says between which amounts it expects the spend
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TENTHS = 10


@dataclass(frozen=True)
class _Asked:
    """What is scored.

    Attributes:
        ground: the job's.
        known: the lines that were known at the moment.
        segments: those of the build in force.
        until: the horizon's end, in microseconds.
        prices: the nine mean prices that are between tenths of customers; none where no price is known.
    """

    ground: Ground
    known: DataFrame
    segments: segments.Segments
    until: int
    prices: tuple[float, ...]


def score(ground: Ground, moment: datetime) -> Scored:
    """Every customer who had ordered before the moment."""
    options = options_of(ground.settings)
    ahead = Ahead((moment,), options.horizon_days, moment)
    customers = ground.keep("asked", lambda: order_days.asked(ground.read["lines"], ahead).drop("time", *OUTCOMES))
    known = ground.read["lines"].where(features.known_before(moment))
    with step("score: segments of the customers of the build"):
        found = segments.fit(ground.read["queries"].where("split = 'test'"), options.segments, options.drawn_rows)
    _show(found)
    asked = _Asked(ground, known, found, order_days.micros(moment) + ahead.horizon, _prices(ground, known))
    return Scored(customers, partial(_answered, asked), _counts)


def _show(found: segments.Segments) -> None:
    rows = [(one.name, f"{one.share:.0%}", *(f"{value:,.0f}" for value in one.middle)) for one in found.all]
    titles = ("segment", "of customers", *(f"middle {name}" for name in segments.COLUMNS))
    show_table("Segments, by the customers of the build in force", titles, rows)


def _habits(ground: Ground, known: DataFrame) -> DataFrame:
    return ground.keep("habits", lambda: habits(known, _categories(ground), options_of(ground.settings).favourites))


def _categories(ground: Ground) -> DataFrame | None:
    """Items with their categories, where the shop has told any."""
    items = ground.read.get("items")
    if items is None or dict(items.dtypes).get("category") != "string":
        return None
    return items.select("item_id", "category")


def _prices(ground: Ground, known: DataFrame) -> tuple[float, ...]:
    tenths = F.array(*(F.lit(place / TENTHS) for place in range(1, TENTHS)))
    drawn = (
        _habits(ground, known).orderBy(F.xxhash64("user_id"), "user_id").limit(options_of(ground.settings).drawn_rows)
    )
    return tuple(drawn.agg(F.percentile("mean_price", tenths)).collect()[0][0] or ())


def expected(rows: DataFrame, bundle: str, key: str) -> DataFrame:
    """`key`, each of ANSWERS and BETWEEN (double), by a bundle."""
    names = (*ANSWERS, *BETWEEN)
    found = predicted(rows, bundle, key=key, names=names)
    return found.select(key, *(F.col(name)[0].cast("double").alias(name) for name in names))


def _answered(asked: _Asked, customers: DataFrame) -> DataFrame:
    known = customers.select(
        "user_id",
        "recency_days",
        F.col("order_days").cast("int").alias("order_days"),
        "value",
        asked.segments.of().alias("segment"),
        _weekday().alias("weekday"),
    )
    told = expected(customers, str(asked.ground.bundle), "user_id").join(known, on="user_id", how="inner")
    rows = told.join(_habits(asked.ground, asked.known), on="user_id", how="left")
    return _described(
        rows,
        {
            "user_id": F.col("user_id"),
            "until": F.timestamp_micros(F.lit(asked.until)),
            "p_buys": F.col("p"),
            "churn": 1 - F.col("p"),
            "expected_spend": F.col("amount"),
            "spend_low": F.col("amount_low"),
            "spend_high": F.col("amount_high"),
            "expected_order_days": F.col("count"),
            "price_level": _tenth(asked.prices),
        },
    )


def _described(rows: DataFrame, made: Mapping[str, Column]) -> DataFrame:
    """The columns of SCORED, each with where it comes from as its comment."""
    return rows.select(
        *(made.get(name, F.col(name)).alias(name, metadata={"comment": of}) for name, of in SCORED.items())
    )


def _weekday() -> Column:
    """The weekday of most days with an order, the earliest of several."""
    shares = [F.struct(F.col(f"weekday_{day}").alias("share"), F.lit(-day).alias("day")) for day in range(7)]
    most = F.array_max(F.array(*shares))["day"]
    return F.get(F.array(*(F.lit(name) for name in WEEKDAYS)), -most)


def _tenth(edges: tuple[float, ...]) -> Column:
    """1 to 10, by how many edges the mean price is above; null where it is not known."""
    above = sum(((F.col("mean_price") > F.lit(edge)).cast("int") for edge in edges), F.lit(1))
    return F.when(F.col("mean_price").isNotNull(), above)


def _counts(written: DataFrame) -> dict[str, int]:
    """customers, how many of them are expected to order, and of how many segments they are."""
    made = written.agg(
        F.count(F.lit(1)).alias("customers"),
        F.round(F.sum("p_buys")).cast("bigint").alias("expected"),
        F.count_distinct("segment").alias("segments"),
    )
    return dict(made.collect()[0].asDict())
