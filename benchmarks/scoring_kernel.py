"""Exact top-K outside Spark: ours against torch.mm + topk, faiss and implicit's topk, on one thread each.

    python benchmarks/scoring_kernel.py [USERS ITEMS ROUNDS]

All answer from the same vectors (64 numbers, K = 100) in one process, in turn, round after round; the middle time
counts. Everybody's scores and items are compared with ours. What is not installed is said and left out. Ours alone
gives ties in a stated order and the same bits in any batch; the others' time is that of the bare search.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of numpy's products, in which implicit works

import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._items import Floats, vectors  # noqa: E402
from spark_udfs.top_k import faiss_set, one_thread, top_k  # noqa: E402

WIDTH, K, GOAL = 64, 100, 1.0
CHUNKS = (128, 500, 2_000)  # rows of a product of torch: the fastest counts

Found = tuple[npt.NDArray[np.int64], Floats]


def main() -> None:
    users, items, rounds = (int(argument) for argument in [*sys.argv[1:], "2000", "100000", "5"][:3])
    torch.set_num_threads(1)
    one_thread()
    queries, matrix = vectors(users, items, WIDTH)
    calls = contestants(queries, matrix)
    found = {name: call() for name, call in calls.items()}
    worst = {name: compare(found["ours"], theirs, name) for name, theirs in found.items() if name != "ours"}
    seconds = in_turn(calls, rounds)
    print(f"{users:,} users x {items:,} items, {WIDTH} numbers, K {K}, one thread")
    for name, value in sorted(seconds.items(), key=lambda one: one[1]):
        print(f"  {name:12} {value:7.2f} s   {users / value:8,.0f} users/s")
    ratios = {name: round(value / seconds["ours"], 2) for name, value in seconds.items() if name != "ours"}
    detail = {
        "users_per_s": {name: round(users / value) for name, value in seconds.items()},
        "ratio_to": ratios,
        "largest_difference": max(worst.values()),
    }
    least, unit = min(ratios.values()), "x the fastest other"
    line = {"name": "scoring_kernel", "ratio": least, "goal": GOAL, "unit": unit, "detail": detail}
    print(json.dumps(line))


def contestants(queries: Floats, matrix: Floats) -> dict[str, Callable[[], Found]]:
    """What answers, by name."""
    tensors = torch.from_numpy(queries), torch.from_numpy(matrix)

    def by_torch(rows: int) -> Found:
        parts = [torch.topk(torch.mm(part, tensors[1].T), K) for part in tensors[0].split(rows)]
        return torch.cat([part.indices for part in parts]).numpy(), torch.cat([part.values for part in parts]).numpy()

    def by_faiss() -> Found:
        scores, rows = faiss_set().knn(queries, matrix, K, metric=faiss_set().METRIC_INNER_PRODUCT)
        return rows, scores

    calls: dict[str, Callable[[], Found]] = {"ours": lambda: top_k(queries, matrix, K), "faiss": by_faiss}
    calls |= {f"torch_{rows}": (lambda rows=rows: by_torch(rows)) for rows in CHUNKS}  # type: ignore[misc]
    try:
        from implicit.cpu.topk import topk as by_implicit
    except ImportError:
        print("implicit is not installed here: it is left out")
        return calls

    def of_implicit() -> Found:
        rows, scores = by_implicit(matrix, queries, K, num_threads=1)
        return rows.astype(np.int64), scores

    return calls | {"implicit": of_implicit}


def compare(ours: Found, theirs: Found, name: str) -> float:
    """The largest difference of scores; each list must have our items, but where scores are alike within rounding."""
    gap = float(np.abs(ours[1] - theirs[1]).max())
    scale = float(np.abs(ours[1]).max())
    misses = [
        row for row in range(len(ours[0])) if len(np.setdiff1d(ours[0][row], theirs[0][row])) > 2
    ]  # two items that change places at the list's end, within rounding
    if gap > 1e-5 * scale or misses:
        raise SystemExit(f"{name} and ours differ: scores by {gap}, {len(misses)} lists by more than two items")
    return gap


def in_turn(calls: dict[str, Callable[[], Found]], rounds: int) -> dict[str, float]:
    """The middle time of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


if __name__ == "__main__":
    main()
