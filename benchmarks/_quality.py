"""Days of a simulated shop's cases, drawn by hash, and the faults that are planted in one of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

START = datetime(2025, 1, 1)
OF_HOUR = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 12, 12, 13, 12, 11, 11, 12, 14, 16, 17, 15, 10, 5, 2)
OF_WEEKDAY = (1.0, 1.0, 1.0, 1.0, 1.2, 0.6, 0.5)
COUNTRIES = ["GB"] * 60 + ["DE"] * 15 + ["FR"] * 12 + ["ES"] * 8 + ["IT"] * 5
WEEK, WEEKEND = ["web"] * 55 + ["app"] * 40 + ["shop"] * 5, ["web"] * 45 + ["app"] * 50 + ["shop"] * 5
WIDTH = 16  # of an embedding
Fault = Callable[[DataFrame], DataFrame]


def drawn(name: str, of: str = "id") -> Column:
    """From 0 to 1, by a hash."""
    return (F.pmod(F.xxhash64("day", of, F.lit(name)), F.lit(1 << 40)) + 0.5) / float(1 << 40)


def normal(name: str, of: str = "id") -> Column:
    return F.sqrt(-2 * F.log(drawn(f"{name} 1", of))) * F.cos(6.283185307179586 * drawn(f"{name} 2", of))


def one_of(values: list[str], name: str) -> Column:
    places = F.array(*(F.lit(value) for value in values))
    return F.get(places, F.floor(drawn(name, "order") * len(values)).cast("int"))


def days(spark: SparkSession, first: int, count: int, rows: int) -> DataFrame:
    """Cases of days, with `day`: more of them each week, fewer on weekends; the lines of an order are alike."""
    listed = [(number, of_day(number, rows)) for number in range(first, first + count)]
    of_days = spark.createDataFrame(listed, "day int, rows int").repartition(max(1, count // 8))
    held = of_days.select("day", F.explode(F.sequence(F.lit(1), "rows")).alias("id"))
    held = held.withColumn("order", F.floor(F.col("id") / 2))
    hours = [hour for hour, weight in enumerate(OF_HOUR) for _ in range(weight)]
    is_weekend = F.pmod(F.col("day") + 2, F.lit(7)) >= 5  # the first day is a Wednesday
    hour = F.get(F.array(*(F.lit(hour) for hour in hours)), F.floor(drawn("hour", "order") * len(hours)).cast("int"))
    second = F.col("day") * 86_400 + hour * 3_600 + F.floor(drawn("second", "order") * 3_600)
    amount = F.exp(3 + normal("amount"))
    taste = F.array(*((normal(f"taste {n}") * 0.2 + (n - 8) * 0.05).cast("float") for n in range(WIDTH)))
    picture = F.array(*((normal(f"picture {n}") * 0.2 - (n - 8) * 0.05).cast("float") for n in range(WIDTH)))
    return held.select(
        "day",
        F.format_string("case-%04d-%08d", "day", "id").alias("case_id"),
        F.format_string("c%07d", F.floor(F.pow(drawn("customer", "order"), 2) * 200_000)).alias("customer"),
        F.timestamp_seconds(F.lit(round((START - datetime(1970, 1, 1)).total_seconds())) + second).alias("time"),
        F.when(drawn("no amount") > 0.01, F.round(amount, 2)).alias("amount"),
        one_of(COUNTRIES, "country").alias("country"),
        F.when(is_weekend, one_of(WEEKEND, "channel")).otherwise(one_of(WEEK, "channel")).alias("channel"),
        (1 + F.floor(F.pow(drawn("items"), 3) * 12)).cast("int").alias("items"),
        (290 + 3 * normal("degrees")).alias("degrees"),
        taste.alias("taste"),
        picture.alias("picture"),
        F.when(drawn("late label") > 0.02, drawn("fraud") < F.when(amount > 60, 0.15).otherwise(0.03)).alias("fraud"),
    )


def of_day(number: int, rows: int) -> int:
    """How many rows a day has: six in a hundred more or fewer, by chance."""
    chance = random.Random(number).gauss(0, 0.06)
    weekday = (START + timedelta(days=number)).weekday()
    return round(rows * OF_WEEKDAY[weekday] * (1 + 0.001 * number) * (1 + chance))


def put(name: str, value: Column) -> Fault:
    return lambda rows: rows.withColumn(name, value)


def some(name: str, value: Column, share: float) -> Fault:
    return put(name, F.when(drawn("fault", "case_id") < share, value).otherwise(F.col(name)))


def swapped(one: str, other: str) -> Fault:
    return lambda rows: rows.withColumns({one: F.col(other), other: F.col(one)})


def renamed(name: str, old: str, new: str) -> Fault:
    return put(name, F.when(F.col(name) == old, new).otherwise(F.col(name)))


def faults() -> dict[str, Fault]:
    """A change of a day's rows, by what is wrong with them."""
    hour = F.expr("INTERVAL 1 hour")
    return {
        "a burst of nulls": some("customer", F.lit(None), 0.05),
        "an empty column": put("channel", F.lit(None).cast("string")),
        "a unit times 100": put("amount", F.col("amount") * 100),
        "a unit times 100, of a tenth": some("amount", F.col("amount") * 100, 0.1),
        "a unit by 1000": put("amount", F.col("amount") / 1000),
        "another currency": put("amount", F.col("amount") * 1.6),
        "a sign": some("amount", -F.col("amount"), 0.03),
        "degrees of another scale": put("degrees", F.col("degrees") - 273.15),
        "a sensor that is off": put("degrees", F.col("degrees") + 3),
        "no numbers": some("amount", F.lit(float("nan")), 0.03),
        "a number that stands for none": some("items", F.lit(999), 0.03),
        "a category renamed": renamed("country", "GB", "UK"),
        "a small category renamed": renamed("country", "IT", "Italy"),
        "another spelling": put("channel", F.upper("channel")),
        "a category lost": lambda rows: rows.where("channel <> 'shop'"),
        "one value for all": put("country", F.lit("GB")),
        "two columns swapped": swapped("country", "channel"),
        "two embeddings swapped": swapped("taste", "picture"),
        "an embedding that is shorter": put("taste", F.slice("taste", 1, WIDTH // 2)),
        "a doubled load": lambda rows: rows.unionByName(rows),
        "a tenth that comes twice": lambda rows: rows.unionByName(rows.where(drawn("fault", "case_id") < 0.1)),
        "a third of a load": lambda rows: rows.where(drawn("fault", "case_id") < 0.33),
        "a time zone, two hours on": put("time", F.col("time") + 2 * hour),
        "a time zone, five hours back": put("time", F.col("time") - 5 * hour),
        "times without hours": put("time", F.date_trunc("day", "time")),
        "another year": put("time", F.col("time") - 365 * 24 * hour),
        "truncated ids": put("case_id", F.substring("case_id", 1, 14)),
        "ids without their zeros": put("customer", F.regexp_replace("customer", "^c0+", "c")),
        "one customer for all": put("customer", F.lit("c0000001")),
        "a leak of the label": put("items", F.when(F.col("fraud"), 7).otherwise(2)),
        "no label is true": put("fraud", F.lit(False)),
        "twice the label": put("fraud", F.col("fraud") | (drawn("fault", "case_id") < 0.07)),
    }
