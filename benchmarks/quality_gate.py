"""The quality gate: faults found, false alarms on days without one, and its share of ingest's time.

    python benchmarks/quality_gate.py [ROWS DAYS LINES ROUNDS]

Cases of so many ROWS a day are profiled, all days in one pass: each day is held against the 28 before it, from which
none may differ, and one more day with each fault planted in it, which all must. Then order lines of so many LINES a day
are ingested day by day into two folders, with the gate and without it, in turn.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, timedelta
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from _quality import START, days, faults  # noqa: E402
from one_more_day import give, settings, written  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

from cluster.session import build_session  # noqa: E402
from jobs import ingest  # noqa: E402
from jobs.quality.cells import Cell  # noqa: E402
from jobs.quality.compared import Good  # noqa: E402
from jobs.quality.judge import judge  # noqa: E402
from jobs.quality.profile import Profile, profile_of  # noqa: E402
from jobs.settings_quality import QualitySettings  # noqa: E402
from spark_udfs.profiles import cells  # noqa: E402

GOAL, FIRST, LABEL = 0.15, 28, "fraud"
ASKED = QualitySettings(gate="stop", keys={"cases": ("case_id",)}, labels={"cases": LABEL})


def main() -> None:
    rows, clean, lines, rounds = (int(value) for value in [*sys.argv[1:], "20000", "100", "1000000", "6"][:4])
    spark = build_session("bench-quality-gate", master="local[2]", driver_memory="8g", shuffle_partitions=8)
    detail = judged(spark, rows, clean)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        seconds = timed(spark, Path(folder), lines, rounds)
    ratio = median(with_it / without - 1 for with_it, without in zip(seconds["warn"], seconds["off"], strict=True))
    result = {"name": "quality_gate", "ratio": round(ratio, 4), "goal": GOAL, "unit": "of ingest's time added"}
    print(json.dumps(result | {"detail": detail | {"lines": lines, "seconds": seconds}}))


def judged(spark: SparkSession, rows: int, clean: int) -> dict[str, Any]:
    """Days without a fault that were found to have one, and faults that were found."""
    begun = time.perf_counter()
    held = profiles(days(spark, 0, FIRST + clean, rows).withColumn("part", F.format_string("%06d", "day")), rows)
    past = [Good(held[f"{number:06d}"], False, at(number)) for number in range(FIRST + clean)]
    alarms: dict[str, list[str]] = {}
    for number in range(1, FIRST + clean):
        since = past[number - 1].profile.newest_us
        found = judge(past[number].profile, past[max(0, number - FIRST) : number], ASKED, at(number), since)
        if found:
            alarms[str(number)] = [str(one) for one in found]
    last = FIRST + clean
    of_last = days(spark, last, 1, rows)
    planted = {name: plant(of_last) for name, plant in faults().items()}
    planted["a missing day"] = days(spark, last + 1, 1, rows)
    planted["the day before again"] = days(spark, last - 1, 1, rows)
    faulty = profiles(
        reduce(DataFrame.unionByName, (one.withColumn("part", F.lit(of)) for of, one in planted.items())), rows
    )
    since = past[-1].profile.newest_us
    told = {
        name: [str(one) for one in judge(held, past[-FIRST:], ASKED, at(last), since)] for name, held in faulty.items()
    }
    for name, found in (told | alarms).items():
        print(f"  {name:32} {'; '.join(found)[:200] or 'MISSED'}")
    missed = [name for name in planted if not told[name]]
    counted = {"clean_days": FIRST + clean - 1, "false_alarms": len(alarms), "faults": len(planted), "missed": missed}
    return counted | {"rows_a_day": rows, "judged_s": round(time.perf_counter() - begun, 1)}


def profiles(rows: DataFrame, about: int) -> Mapping[str, Profile]:
    counted = cells(
        rows.drop("day"), part="part", since_us={}, time="time", keys=["case_id"],
        named=frozenset({"country", "channel"}), about=about, until_us=1 << 60, label=LABEL,
    )  # fmt: skip
    held: dict[str, list[Cell]] = {}
    for row in counted.rows.collect():
        held.setdefault(row["part"], []).append(Cell(*row[2:]))
    kept = {row["part"]: row["count"] for row in rows.groupBy("part").count().collect()}
    return {
        part: profile_of(of_part, [], counted.places, outcomes={"kept": kept[part]}, label=LABEL)
        for part, of_part in held.items()
    }


def at(number: int) -> int:
    """The moment at which the batch of a day comes: soon after the day."""
    moment = (START + timedelta(days=number + 1, hours=1)).replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def timed(spark: SparkSession, folder: Path, lines: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each ingest of one more day; the first, which warms everything up, is left out."""
    count, gates = rounds + 3, ("off", "warn")
    written(spark, lines * count, count, 100_000, 20_000).write.partitionBy("day").parquet(str(folder / "off" / "all"))
    (folder / "warn").mkdir()
    (folder / "warn" / "all").symlink_to(folder.resolve() / "off" / "all")
    seconds: dict[str, list[float]] = {gate: [] for gate in gates}
    for gate in gates:
        (folder / gate / "lines").mkdir()
    for number in range(count):
        for gate in gates if number % 2 else gates[::-1]:
            give(folder / gate, number)
            asked = settings(folder / gate, 1)
            asked = asked.model_copy(update={"quality": QualitySettings(gate=gate)})
            begun = time.perf_counter()
            ingest.run(asked, spark)
            if number >= count - rounds:
                seconds[gate].append(round(time.perf_counter() - begun, 2))
    return seconds


if __name__ == "__main__":
    main()
