"""Rows scored by a bundle: read, scored and written by workers (direct), read by them and written by Spark (by_spark),
and as a DataFrame, against a pandas UDF as MLflow makes them, a Python function of a row, and decoding the same columns
alone.

    python benchmarks/scoring_rows.py [ROWS ROUNDS]

A Delta table of a key and eight numbers, a logistic regression. All write key and probability into a Delta table, the
commit with them, in turn, round after round; the middle time counts, and their answers are compared. The Python
function of a row gets a fiftieth of the rows, and its time is taken fifty times. `load` is the machine's before.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.session import build_session  # noqa: E402
from jobs.score_table import score_table  # noqa: E402
from spark_udfs.direct import predicted_from  # noqa: E402
from spark_udfs.scoring import predicted  # noqa: E402
from training.data.snapshot import open_snapshot  # noqa: E402
from training.models import MODELS  # noqa: E402
from training.schema import Column, Kind, Schema  # noqa: E402
from training.state.publish import write_bundle  # noqa: E402

FEATURES = [f"x{number}" for number in range(8)]
SCHEMA = Schema((*(Column(name, Kind.DENSE) for name in FEATURES), Column("label", Kind.LABEL)))
FEWER, GOAL = 50, 4.0
GOALS = {"dataframe": 1.3, "direct_to_row_function": 15.0, "direct_to_decoding": 0.5}


def main() -> None:
    rows, rounds = (int(argument) for argument in [*sys.argv[1:], "50000000", "3"][:2])
    spark = build_session("bench-scoring-rows", master="local[2]", driver_memory="4g", shuffle_partitions=2)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        table, bundle = str(place / "rows"), bundle_in(place)
        numbers = [F.rand(seed).cast("float").alias(name) for seed, name in enumerate(FEATURES)]
        spark.range(rows, numPartitions=8).select(F.col("id").alias("key"), *numbers).write.format("delta").save(table)
        asked = spark.read.format("delta").load(table)
        some = asked.where(F.col("key") % FEWER == 0)
        calls: dict[str, Callable[[], DataFrame]] = {
            "by_spark": lambda: predicted_from(spark, table, bundle, key="key", names=["p"]),
            "dataframe": lambda: predicted(asked, bundle, key="key", names=["p"]),
            "pandas_udf": lambda: by_pandas(asked, bundle),
            "row_function": lambda: by_row(some, bundle),
        }
        seconds = {name: list[float]() for name in ("direct", *calls, "decoding")}
        load = os.getloadavg()[0]
        for turn in range(rounds):
            spark.sql(f"ALTER TABLE delta.`{table}` SET TBLPROPERTIES ('round' = '{turn}')")  # to be answered anew
            begun = time.perf_counter()
            told = score_table(spark, table, bundle, str(place / "direct"), key="key")
            seconds["direct"].append(time.perf_counter() - begun)
            if told["way"] != "files":
                raise SystemExit(f"answers must go by files, and went by {told['way']}")
            for name, call in calls.items():
                begun = time.perf_counter()
                call().write.format("delta").mode("overwrite").save(str(place / name))
                seconds[name].append((time.perf_counter() - begun) * (FEWER if name == "row_function" else 1))
            begun = time.perf_counter()
            decoded(spark, table)
            seconds["decoding"].append(time.perf_counter() - begun)
            print(f"round {turn + 1}: " + ", ".join(f"{name} {took[-1]:.1f} s" for name, took in seconds.items()))
        worst = max(compare(spark, place, name) for name in calls)
    middle = {name: statistics.median(took) for name, took in seconds.items()}
    for name, took in middle.items():
        print(f"  {name:12} {took:8.1f} s   {rows / took:12,.0f} rows/s")
    detail = {
        "rows": rows,
        "load": load,
        "seconds": {name: round(took, 1) for name, took in middle.items()},
        "dataframe": round(middle["pandas_udf"] / middle["dataframe"], 2),
        "direct_to_row_function": round(middle["row_function"] / middle["direct"], 1),
        "direct_to_decoding": round(middle["decoding"] / middle["direct"], 2),
        "goals": GOALS,
        "largest_difference": worst,
    }
    ratio = round(middle["pandas_udf"] / middle["direct"], 2)
    print(json.dumps({"name": "scoring_rows", "ratio": ratio, "goal": GOAL, "unit": "x pandas UDF", "detail": detail}))


def bundle_in(folder: Path) -> str:
    kind = MODELS["logistic_regression"]
    torch.manual_seed(0)
    model = kind(kind.Config.parse({}), SCHEMA)
    for weights in model.parameters():
        torch.nn.init.normal_(weights)
    made = write_bundle(
        folder / "bundles", model_name="logistic_regression", config={}, schema=SCHEMA, tensors=model.state_dict(),
        provenance={}, settings={}, metrics={},
    )  # fmt: skip
    return str(made.path)


def by_pandas(rows: DataFrame, bundle: str) -> DataFrame:
    """As `mlflow.pyfunc.spark_udf` does it: a frame of the features to the model's own `predict`, a column back."""

    def score(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        model = opened(bundle)
        for columns in batches:
            frame = pd.concat(columns, axis=1, keys=FEATURES)
            batch = {name: torch.from_numpy(frame[name].to_numpy(np.float32)) for name in FEATURES}
            yield pd.Series(model.predict(batch)["p"].numpy().astype(np.float64))

    score.__annotations__ = {"batches": Iterator[tuple[pd.Series, ...]], "return": Iterator[pd.Series]}
    return rows.select("key", F.array(F.pandas_udf(score, "double")(*FEATURES).cast("float")).alias("p"))


def by_row(rows: DataFrame, bundle: str) -> DataFrame:
    """A plain Python function of a row."""

    def score(*values: float) -> float:
        batch = {name: torch.tensor([value]) for name, value in zip(FEATURES, values, strict=True)}
        return float(opened(bundle).predict(batch)["p"][0])

    return rows.select("key", F.array(F.udf(score, "double", useArrow=False)(*FEATURES).cast("float")).alias("p"))


def opened(bundle: str) -> Any:
    from spark_udfs.scoring import opened as opened_once

    return opened_once(bundle)[1]


def decoded(spark: SparkSession, table: str) -> None:
    """The same columns out of Parquet, one task a file, and nothing else."""
    files = len(open_snapshot(table).files)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        snapshot = open_snapshot(table)
        for batch in batches:
            for number in batch.column(0).to_pylist():
                groups = np.flatnonzero(snapshot.groups.file == number)
                rows = sum(len(snapshot.read_group(int(group), ["key", *FEATURES])["key"]) for group in groups)
                yield pa.record_batch([pa.array([rows])], ["rows"])

    spark.range(0, files, 1, files).mapInArrow(read, "rows bigint").agg(F.sum("rows")).collect()


def compare(spark: SparkSession, folder: Path, name: str) -> float:
    """The largest difference of a probability; every key must be there."""
    ours = spark.read.format("delta").load(str(folder / "direct")).select("key", F.col("p")[0].alias("p"))
    theirs = spark.read.format("delta").load(str(folder / name)).select("key", F.col("p")[0].alias("other"))
    count, worst = ours.join(theirs, "key").agg(F.count("*"), F.max(F.abs(F.col("p") - F.col("other")))).collect()[0]
    if count != theirs.count() or (name != "row_function" and count != ours.count()) or worst > 1e-5:
        raise SystemExit(f"{name} must answer the same keys alike; {count:,} keys in both, {worst:.1e} apart")
    return float(worst)


if __name__ == "__main__":
    main()
