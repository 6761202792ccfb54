"""Lists with three reasons for each item over the same lists without, and what becomes of scores without these reasons.

    python benchmarks/scoring_reasons.py [USERS ITEMS ROUNDS]

An untrained two_tower of 64 numbers; histories of 50 drawn items, lists of 20. Both go in turn, round after round; the
middle time counts. Checked on some customers: that shares add up to what the history makes of the score, and how often
a score falls more without its three reasons than without three others of the history.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from _loader import arguments, report  # noqa: E402

from cluster.session import build_session  # noqa: E402
from spark_udfs.scoring import recommend  # noqa: E402
from tests.spark_udfs.bundles import items_in, two_tower_bundle  # noqa: E402
from training.batch import Ragged  # noqa: E402
from training.models.two_tower import TwoTower  # noqa: E402
from training.state.items import write_items  # noqa: E402
from training.state.names import ITEMS  # noqa: E402

GOAL, LINES, K, MOST, CHECKED = 2.0, 50, 20, 3, 500


def main() -> None:
    users, items, rounds = arguments(20_000, 20_000, 3)
    spark = build_session("bench-reasons", master="local[2]", driver_memory="3g", shuffle_partitions=2)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_items(place / ITEMS, _items(items))
        bundle = two_tower_bundle(place, users=1, items=items + 1, attachments={ITEMS: place / ITEMS}, dim=64)
        allowed = items_in(place, np.arange(1, items + 1))
        queries = _queries(spark.range(users, numPartitions=2), items).persist()
        queries.count()
        seconds: dict[int, list[float]] = {0: [], MOST: []}
        for turn in range(rounds + 1):
            for most, took in seconds.items():
                started = time.perf_counter()
                found = recommend(queries, str(bundle.path), k=K, allowed=allowed, reasons=most)
                found.write.format("noop").mode("overwrite").save()
                if turn:
                    took.append(time.perf_counter() - started)
        without, with_them = (statistics.median(seconds[most]) for most in (0, MOST))
        detail = {"users_per_s": {"without": round(users / without), "with": round(users / with_them)}}
        checks = _checked(bundle.model(), items)  # type: ignore[arg-type]
    spark.stop()
    assert checks["largest_gap"] < 1e-3, checks
    report("scoring_reasons", with_them / without, GOAL, "x seconds without (at most)", detail | checks)


def _items(items: int) -> pa.Table:
    numbers = np.arange(1, items + 1)
    told = {"item": numbers, "id": [f"item {number}" for number in numbers], "name": ["" for _ in numbers]}
    flags = {name: np.ones(items, bool) for name in ("is_offered", "is_sold")}
    return pa.table(told | flags | {"recent_customers": numbers})


def _queries(users: DataFrame, items: int) -> DataFrame:
    lines = F.sequence(F.lit(1), F.lit(LINES))
    history = F.transform(lines, lambda line: F.pmod(F.xxhash64("id", line), F.lit(items)) + 1)
    ages = F.transform(lines, lambda line: (F.lit(LINES) - line).cast("float"))
    return users.select(
        F.lit(0).cast("bigint").alias("user"),
        history.alias("history"),
        ages.alias("history_age"),
        history.alias("seen"),
    )


def _checked(model: TwoTower, items: int) -> dict[str, float]:
    """largest_gap, of shares' sum to the score less that without a history; reasons_weigh_more, the share of customers
    whose score falls more without the three strongest than without three drawn ones."""
    rng = np.random.default_rng(0)
    lines = np.stack([rng.choice(items, LINES, replace=False) + 1 for _ in range(CHECKED)])
    matrix = model.item_matrix()
    vectors = matrix[(_scores(model, lines) @ matrix[1:].T).argmax(dim=1) + 1]
    shares = model.shares(_batch(lines), vectors[:, None])[:, 0].reshape(CHECKED, LINES)

    def score(kept: np.ndarray) -> torch.Tensor:
        return (_scores(model, kept) * vectors).sum(dim=1)

    whole = score(lines)
    gap = (shares.sum(dim=1) - (whole - score(lines[:, :0]))).abs().max()
    strongest = np.argsort(-shares.numpy(), axis=1)[:, :MOST]
    drawn = np.stack([rng.choice(LINES, MOST, replace=False) for _ in range(CHECKED)])
    left = [score(_without(lines, places)) for places in (strongest, drawn)]
    return {"largest_gap": float(gap), "reasons_weigh_more": float((left[0] < left[1]).float().mean())}


def _without(lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    kept = np.ones_like(lines, bool)
    np.put_along_axis(kept, places, False, axis=1)
    return lines[kept].reshape(len(lines), -1)


def _scores(model: TwoTower, lines: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model.queries(_batch(lines))


def _batch(lines: np.ndarray) -> dict[str, object]:
    offsets = torch.arange(len(lines) + 1) * lines.shape[1]
    values = torch.from_numpy(lines.reshape(-1))
    return {
        "user": torch.zeros(len(lines), dtype=torch.int64),
        "history": Ragged(values, offsets),
        "history_age": Ragged(torch.zeros(len(values)), offsets),
    }


if __name__ == "__main__":
    main()
