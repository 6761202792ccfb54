"""Examples with their histories against a join of every line with its customer's earlier ones: times as fast.

    python benchmarks/examples_histories.py [USERS LINES_EACH ROUNDS]

Where DuckDB is installed (`pip install duckdb`), its window of the last lines and its as-of join on two threads stand
beside them; it has the lines in its memory, as Spark has. Each makes all columns of the examples, and keeps none: Spark
writes to nowhere, DuckDB into a table of its memory. All must have made the same rows.
"""

from __future__ import annotations

import math
from typing import Any

from _examples import CUTS, lines, session
from _loader import arguments, in_turn, report
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_udfs import features

GOAL, GOAL_DUCKDB, LENGTH = 5.0, 0.3, 50
# Every moment's targets with the lists as of the last line before it: of the ways tried, DuckDB's fastest.
AS_OF = f"""
CREATE OR REPLACE TEMP TABLE examples AS
WITH held AS (
    SELECT "user", time, row_number() OVER lines AS nth, list(item) OVER last AS items,
           list(epoch_us(time)) OVER last AS times, list(weight::FLOAT) OVER last AS weights
    FROM lines WINDOW lines AS (PARTITION BY "user" ORDER BY time, tie),
                      last AS (lines ROWS BETWEEN {LENGTH - 1} PRECEDING AND CURRENT ROW)
), last AS (
    SELECT held.* FROM held JOIN (SELECT "user", time, max(nth) AS nth FROM held GROUP BY ALL) USING ("user", time, nth)
)
SELECT lines."user", coalesce(last.items, []) AS history,
       list_transform(coalesce(last.times, []), lambda one: ((epoch_us(lines.time) - one) / 86400000000)::FLOAT)
           AS history_age,
       coalesce(last.weights, []) AS history_weight, lines.item AS target,
       (row_number() OVER (PARTITION BY lines."user", lines.item ORDER BY lines.time) = 1)::FLOAT AS new,
       lines.weight::FLOAT AS weight, lines.time
FROM lines ASOF LEFT JOIN last ON lines."user" = last."user" AND lines.time > last.time
"""
DIGEST = """
SELECT sum("user" * 31 + target * 17 + epoch_us(time) % 1000003 + new::BIGINT * 7 + (weight * 3)::BIGINT
           + coalesce(list_sum(list_transform(history, lambda one, place: one * place)), 0)),
       sum(coalesce(list_sum(list_transform(history_age, lambda age: age::DOUBLE)), 0)),
       sum(coalesce(list_sum(list_transform(history_weight, lambda worth: worth::DOUBLE)), 0)) FROM examples
"""


def joined(held: DataFrame) -> DataFrame:
    """The last LENGTH lines before each line, by a join over a range of time."""
    known = held.where(features.known_before(CUTS.test))
    earlier = known.select(
        "user", F.struct("time", "tie", "item", "weight").alias("line"), F.col("arrival_time").alias("known_from")
    )
    before = known.join(earlier, on="user", how="left").where(
        "line IS NULL OR (line.time < time AND known_from <= time)"
    )
    key = ["user", "item", "time", "weight"]
    found = before.groupBy(*key).agg(F.sort_array(F.collect_list("line")).alias("lines"))
    first = known.select(*key).join(found, on=key, how="left_anti")
    rows = found.unionByName(first.withColumn("lines", F.array().cast(found.schema["lines"].dataType)))
    met = F.exists("lines", lambda line: line["item"] == F.col("item"))
    lines = features.last(F.col("lines"), LENGTH)
    return rows.select(
        "user",
        F.transform(lines, lambda line: line["item"]).alias("history"),
        features.ages(lines, F.col("time")).alias("history_age"),
        features.weights(lines).alias("history_weight"),
        F.col("item").alias("target"),
        F.when(met, 0.0).otherwise(1.0).cast("float").alias("new"),
        F.col("weight").cast("float").alias("weight"),
        "time",
    )


def digest(rows: DataFrame) -> tuple[int, float, float]:
    """Sums over the rows of what each holds, the order of its history included."""
    zero, length = F.lit(0), F.size("history")
    placed = F.zip_with("history", F.sequence(F.lit(1), length), lambda item, place: item * place)
    placed = F.when(length > 0, placed).otherwise(F.array().cast("array<bigint>"))

    def total(column: Any, kind: str) -> Any:
        return F.aggregate(column, zero.cast(kind), lambda so_far, one: so_far + one)

    of_row = F.col("user") * 31 + F.col("target") * 17 + F.unix_micros("time") % 1000003 + total(placed, "bigint")
    of_row = of_row + F.col("new").cast("bigint") * 7 + (F.col("weight") * 3).cast("bigint")
    sums = (F.sum(of_row), F.sum(total("history_age", "double")), F.sum(total("history_weight", "double")))
    one, two, three = rows.agg(*sums).collect()[0]
    return int(one), float(two), float(three)


def in_duckdb(held: DataFrame) -> Any:
    """A connection of two threads that has the lines known before the cut; None where DuckDB is not installed."""
    try:
        import duckdb
    except ModuleNotFoundError:
        return None
    connection = duckdb.connect(config={"threads": 2})
    known = held.where(features.known_before(CUTS.test)).select("user", "item", "time", "tie", "weight")
    frame = known.toPandas()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE TABLE lines AS SELECT * FROM frame")
    del frame
    return connection


def thrown_away(rows: DataFrame) -> int:
    rows.write.format("noop").mode("overwrite").save()
    return 0


def made_in(connection: Any) -> int:
    connection.execute(AS_OF)
    return 0


def main() -> None:
    users, each, rounds = arguments(2_000, 200, 3)
    spark = session("bench-histories")
    held = lines(spark, users, each).persist()
    held.count()
    ours, join = features.examples(held, CUTS, LENGTH), joined(held)
    answers = {"ours": digest(ours), "join": digest(join)}
    ways = {"ours": lambda: thrown_away(ours), "join": lambda: thrown_away(join)}
    duck = in_duckdb(held)
    if duck is not None:
        ways["duckdb"] = lambda: made_in(duck)
        made_in(duck)
        one, two, three = duck.execute(DIGEST).fetchone()
        answers["duckdb"] = int(one), float(two), float(three)
    for name, found in answers.items():
        assert found[0] == answers["ours"][0], answers
        assert all(math.isclose(one, two, rel_tol=1e-9) for one, two in zip(found, answers["ours"], strict=True)), name
    for call in ways.values():
        call()
    seconds = in_turn(ways, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()} | {"users": users, "of_each": each}
    if duck is not None:
        detail |= {"of_duckdb": round(seconds["duckdb"] / seconds["ours"], 3), "goal_of_duckdb": GOAL_DUCKDB}
    spark.stop()
    report("examples_histories", seconds["join"] / seconds["ours"], GOAL, "x the join (at least)", detail)


if __name__ == "__main__":
    main()
