"""Examples with their histories against a join of every line with its customer's earlier ones: times as fast.

    python benchmarks/examples_histories.py [USERS LINES_EACH ROUNDS]

Where DuckDB is installed (`pip install duckdb`), its window of the last lines and its as-of join on two threads stand
beside them; it has the lines in its memory, as Spark has. All three must give the same rows.
"""

from __future__ import annotations

from typing import Any

from _examples import CUTS, lines, session
from _loader import arguments, in_turn, report
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_udfs import features

GOAL, GOAL_DUCKDB, LENGTH = 5.0, 0.3, 50
# Every moment's targets with the list as of the last line before it.
AS_OF = f"""
WITH held AS (
    SELECT user_id, time, row_number() OVER lines AS nth,
           list(item) OVER (lines ROWS BETWEEN {LENGTH - 1} PRECEDING AND CURRENT ROW) AS items
    FROM lines WINDOW lines AS (PARTITION BY user_id ORDER BY time, tie)
), last AS (
    SELECT user_id, time, max_by(items, nth) AS items FROM held GROUP BY user_id, time
), examples AS (
    SELECT lines.user_id, lines.item, lines.time, coalesce(last.items, []) AS history
    FROM lines ASOF LEFT JOIN last ON lines.user_id = last.user_id AND lines.time > last.time
)
SELECT sum(user_id * 31 + item * 17 + epoch_us(time) % 1000003
           + coalesce(list_sum(list_transform(history, lambda one, place: one * place)), 0)) FROM examples
"""


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
    """The sum over the rows of what each holds, the order of its history included."""
    placed = F.zip_with("history", F.sequence(F.lit(1), F.size("history")), lambda item, place: item * place)
    placed = F.when(F.size("history") > 0, placed).otherwise(F.array().cast("array<bigint>"))
    of_history = F.aggregate(placed, F.lit(0).cast("bigint"), lambda total, one: total + one)
    of_row = F.col("user") * 31 + F.col("target") * 17 + F.unix_micros("time") % 1000003 + of_history
    return int(rows.agg(F.sum(of_row)).collect()[0][0])


def in_duckdb(held: DataFrame) -> Any:
    """A connection of two threads that has the lines known before the cut; None where DuckDB is not installed."""
    try:
        import duckdb
    except ModuleNotFoundError:
        return None
    connection = duckdb.connect(config={"threads": 2})
    known = held.where(features.known_before(CUTS.test)).selectExpr("user AS user_id", "item", "time", "tie")
    frame = known.toPandas()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE TABLE lines AS SELECT * FROM frame")
    del frame
    return connection


def main() -> None:
    users, each, rounds = arguments(2_000, 200, 3)
    spark = session("bench-histories")
    held = lines(spark, users, each).persist()
    held.count()
    ways = {
        "ours": lambda: digest(features.examples(held, CUTS, LENGTH).select("user", "target", "time", "history")),
        "join": lambda: digest(joined(held)),
    }
    duck = in_duckdb(held)
    if duck is not None:
        ways["duckdb"] = lambda: int(duck.execute(AS_OF).fetchone()[0])
    answers = {name: call() for name, call in ways.items()}  # warm, and the same rows
    assert len(set(answers.values())) == 1, answers
    seconds = in_turn(ways, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()} | {"users": users, "of_each": each}
    if duck is not None:
        detail |= {"of_duckdb": round(seconds["duckdb"] / seconds["ours"], 3), "goal_of_duckdb": GOAL_DUCKDB}
    spark.stop()
    report("examples_histories", seconds["join"] / seconds["ours"], GOAL, "x the join (at least)", detail)


if __name__ == "__main__":
    main()
