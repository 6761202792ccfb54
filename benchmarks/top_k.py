"""Exact top-K for every user: ours on Spark against Spark ML's recommendForAllUsers, and ours against torch.mm + topk.

    python benchmarks/top_k.py [USERS ITEMS ROUNDS]

All answer from the same ALS factors (rank 64, K = 100), in turn, round after round; the middle time counts. Their
scores are compared. Spark ML has no mask per user; ours is timed with one of 50 items too.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.session import build_session  # noqa: E402
from spark_udfs.item_files import ItemFile, save_items  # noqa: E402
from spark_udfs.lists import by_inner_product  # noqa: E402
from spark_udfs.top_k import one_thread, top_k  # noqa: E402

RANK, K, SEEN, GOAL = 64, 100, 50, 4.0
TORCH_ROWS = 2_000


def main() -> None:
    users, items, rounds = (int(argument) for argument in [*sys.argv[1:], "20000", "20000", "3"][:3])
    # Spark ML's products are 2.4 times as fast with the JVM's vector module.
    vectors = {"spark.driver.extraJavaOptions": "--add-modules=jdk.incubator.vector"}
    spark = build_session("bench-top-k", master="local[2]", driver_memory="6g", shuffle_partitions=2, conf=vectors)
    model = factors(spark, users, items)
    with tempfile.TemporaryDirectory() as folder:
        queries, items_of_als = ours_from(model, Path(folder))
        calls: dict[str, Callable[[], object]] = {
            "spark_ml": lambda: drain(model.recommendForAllUsers(K)),
            "ours": lambda: drain(by_inner_product(queries, items_of_als, k=K, exclude_seen=False)),
            "ours_masked": lambda: drain(by_inner_product(queries, items_of_als, k=K, exclude_seen=True)),
        }
        seconds = in_turn(calls, rounds)
        worst = compare(model, by_inner_product(queries, items_of_als, k=K, exclude_seen=False))
        alone = against_torch(model, rounds)
    print(f"{users:,} users x {items:,} items, rank {RANK}, K {K}, 2 cores; largest difference of scores {worst:.1e}")
    for name, value in seconds.items():
        print(f"  {name:12} {value:7.2f} s   {users / value:8,.0f} users/s")
    for name, value in alone.items():
        print(f"  {name:12} {value:7.2f} s   {TORCH_ROWS / value:8,.0f} users/s, one thread, without Spark")
    detail = {
        "users_per_s": {name: round(users / value) for name, value in seconds.items()},
        "ratio_to_torch": round(alone["torch"] / alone["top_k"], 2),
        "largest_difference": worst,
    }
    ratio = round(seconds["spark_ml"] / seconds["ours"], 2)
    print(
        json.dumps({"name": "top_k", "ratio": ratio, "goal": GOAL, "unit": "x recommendForAllUsers", "detail": detail})
    )


def factors(spark: SparkSession, users: int, items: int) -> ALSModel:
    """Factors of these numbers of users and items: one iteration of ALS on hashed ratings."""
    per_user = max(20, 3 * items // users)
    drawn = F.pmod(F.xxhash64("user", "nth"), F.lit(items))
    ratings = (
        spark.range(users)
        .withColumnRenamed("id", "user")
        .withColumn("nth", F.explode(F.sequence(F.lit(1), F.lit(per_user))))
        .select(F.col("user").cast("int"), drawn.cast("int").alias("item"), F.lit(1.0).alias("rating"))
    )
    model = ALS(rank=RANK, maxIter=1, implicitPrefs=True, userCol="user", itemCol="item", ratingCol="rating").fit(
        ratings
    )
    model.userFactors.persist().count()
    model.itemFactors.persist().count()
    return model


def ours_from(model: ALSModel, folder: Path) -> tuple[DataFrame, ItemFile]:
    user, item = F.col("id").cast("bigint"), F.col("id").cast("bigint") + 1  # our index 0 is the unknown item
    vectors = model.itemFactors.select(item.alias("item"), F.col("features").alias("vector"))
    items = save_items(vectors, folder, "items")
    drawn = F.transform(F.sequence(F.lit(1), F.lit(SEEN)), lambda i: F.pmod(F.xxhash64("id", i), F.lit(items.rows + 1)))
    queries = model.userFactors.select(
        user.alias("user"), F.col("features").alias("vector"), drawn.alias("seen")
    ).persist()
    queries.count()
    return queries, items


def drain(df: DataFrame) -> None:
    """Compute every row and column, and write nothing."""
    df.write.format("noop").mode("overwrite").save()


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The middle time of each, after one round that counts for nothing."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def compare(model: ALSModel, ours: DataFrame) -> float:
    """The largest difference between our n-th score of a user and Spark ML's."""
    theirs = model.recommendForAllUsers(K).select(
        F.col("user").cast("bigint").alias("user"), F.posexplode("recommendations").alias("place", "row")
    )
    paired = ours.join(theirs.withColumn("rank", F.col("place") + 1), on=["user", "rank"], how="full")
    gap = F.abs(F.col("score") - F.col("row.rating"))
    rows = paired.agg(F.max(gap).alias("gap"), F.sum((gap.isNull()).cast("int")).alias("lone")).collect()[0]
    if rows["lone"] or rows["gap"] > 1e-4:
        raise SystemExit(f"results differ: {rows['lone']} rows without a partner, largest gap {rows['gap']}")
    return float(rows["gap"])


def against_torch(model: ALSModel, rounds: int) -> dict[str, float]:
    """The bare function against torch on the same vectors, one thread each."""
    torch.set_num_threads(1)
    one_thread()
    queries = np.stack(model.userFactors.limit(TORCH_ROWS).toPandas()["features"].tolist()).astype(np.float32)
    items = np.stack(model.itemFactors.toPandas()["features"].tolist()).astype(np.float32)
    tensors = torch.from_numpy(queries), torch.from_numpy(items)
    blocks = range(0, len(queries), 500)
    calls: dict[str, Callable[[], object]] = {
        "top_k": lambda: top_k(queries, items, K),
        "torch": lambda: [torch.topk(tensors[0][start : start + 500] @ tensors[1].T, K) for start in blocks],
    }
    return in_turn(calls, rounds)


if __name__ == "__main__":
    main()
