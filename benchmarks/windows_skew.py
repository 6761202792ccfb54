"""Fraud's windows where one address has half of all cases: seconds over as many cases that are spread over addresses.

python benchmarks/windows_skew.py [CASES ADDRESSES ROUNDS]
"""

from __future__ import annotations

from _examples import START_US, session
from _loader import arguments, in_turn, report
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from spark_udfs.windows import HEAVY, as_of

GOAL, DAYS, DELAY_US = 1.5, 100, 7 * 86_400_000_000


def main() -> None:
    cases, addresses, rounds = arguments(2_000_000, 50_000, 3)
    assert cases // 2 > HEAVY, f"half of the cases must be more than {HEAVY:,}"
    spark = session("bench-windows-skew")
    held = {name: drawn(spark, cases, addresses, skewed=name == "skewed").persist() for name in ("even", "skewed")}

    def build(name: str) -> int:
        """All columns are made, and as many rows as went in."""
        rows = as_of(held[name], "case_id", ["address"])
        found = rows.agg(F.count(F.lit(1)), F.sum(F.xxhash64(*sorted(rows.columns)).cast("decimal(38,0)"))).collect()[0]
        return int(found[0])

    for df in held.values():
        assert df.count() == cases
    seconds = in_turn({name: (lambda name=name: build(name)) for name in held}, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()} | {"cases": cases, "of_one": cases // 2}
    spark.stop()
    report("windows_skew", seconds["skewed"] / seconds["even"], GOAL, "x seconds of even cases (at most)", detail)


def drawn(spark: SparkSession, cases: int, addresses: int, *, skewed: bool) -> DataFrame:
    """Cases by hash: one in a hundred is a fraud, every label comes a week later, one in ten arrives an hour late."""

    def pick(name: str, below: int) -> Column:
        return F.pmod(F.xxhash64("id", F.lit(name)), F.lit(below))

    time = F.lit(START_US) + pick("second", DAYS * 86_400) * 1_000_000
    late = F.when(pick("late", 10) == 0, F.lit(3_600_000_000)).otherwise(F.lit(0))
    spread = F.concat(F.lit("a"), pick("address", addresses).cast("string"))
    return spark.range(cases).select(
        F.col("id").cast("string").alias("case_id"),
        F.timestamp_micros(time).alias("time"),
        F.timestamp_micros(time + late).alias("arrival_time"),
        (pick("fraud", 100) == 0).cast("double").alias("fraud"),
        F.timestamp_micros(time + DELAY_US).alias("label_time"),
        (F.when(F.col("id") < cases // 2, F.lit("one")).otherwise(spread) if skewed else spread).alias("address"),
    )


if __name__ == "__main__":
    main()
