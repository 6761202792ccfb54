"""Examples with their histories against a join of every line with its customer's earlier ones: times as fast.

python benchmarks/examples_histories.py [USERS LINES_EACH ROUNDS]
"""

from __future__ import annotations

from _examples import CUTS, lines, session
from _loader import arguments, in_turn, report
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_udfs import features

GOAL, LENGTH = 5.0, 50


def joined(held: DataFrame) -> DataFrame:
    """The last LENGTH items before each line, by a join over a range of time."""
    known = held.where(features.known_before(CUTS.test))
    earlier = known.select(
        "user", F.struct("time", "tie", "item").alias("line"), F.col("arrival_time").alias("known_from")
    )
    pairs = known.join(earlier, on="user", how="left").where(
        "line IS NULL OR (line.time < time AND known_from <= time)"
    )
    histories = pairs.groupBy("user", "item", "time").agg(F.sort_array(F.collect_list("line")).alias("lines"))
    start = F.greatest(F.size("lines") - LENGTH, F.lit(0)) + 1
    last = F.transform(F.slice("lines", start, F.lit(LENGTH)), lambda line: line["item"])
    found = histories.select("user", F.col("item").alias("target"), "time", last.alias("history"))
    first = known.select("user", F.col("item").alias("target"), "time").join(
        found, on=["user", "target", "time"], how="left_anti"
    )
    return found.unionByName(first.withColumn("history", F.array().cast("array<bigint>")))


def digest(rows: DataFrame) -> int:
    """The order-free sum of the rows, and of ones."""
    of_row = F.xxhash64("user", "target", "time", "history").cast("decimal(38,0)")
    return int(rows.agg(F.sum(of_row + 1)).collect()[0][0])


def main() -> None:
    users, each, rounds = arguments(2_000, 200, 3)
    spark = session("bench-histories")
    held = lines(spark, users, each).persist()
    held.count()
    ways = {
        "ours": lambda: digest(features.examples(held, CUTS, LENGTH).select("user", "target", "time", "history")),
        "join": lambda: digest(joined(held)),
    }
    answers = {name: call() for name, call in ways.items()}  # warm, and the same rows
    assert answers["ours"] == answers["join"], answers
    seconds = in_turn(ways, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()} | {"users": users, "of_each": each}
    spark.stop()
    report("examples_histories", seconds["join"] / seconds["ours"], GOAL, "x the join (at least)", detail)


if __name__ == "__main__":
    main()
