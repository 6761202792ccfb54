"""Lists by an index of a large catalogue: what it finds, how fast, in how much memory, against comparing all items.

    python benchmarks/scoring_index.py [ITEMS SAMPLE PROBES]

Vectors of 64 numbers (benchmarks/_items.py), K = 100, one thread. Each way answers the sample in a process of its own
that maps the vectors, and the index, from files, as a worker of Spark does. `hours_of_a_million` is what a million
users take on two cores at these rates.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._items import vectors  # noqa: E402
from spark_udfs.item_index import build_index, open_index  # noqa: E402
from spark_udfs.top_k import no_lists, one_thread, top_k  # noqa: E402

WIDTH, K, BATCH = 64, 100, 2_048
LEAST_RECALL, GOAL, CORES = 0.95, 3.0, 2


def main() -> int:
    items, sample, probes = (int(argument) for argument in [*sys.argv[1:], "1000000", "4096", "96"][:3])
    with tempfile.TemporaryDirectory() as held:
        folder, spawn = Path(held), multiprocessing.get_context("spawn")
        with spawn.Pool(1, maxtasksperchild=1) as pool:  # a process each: its peak is its own
            pool.apply(make, (folder, items, sample))
            built = pool.apply(build, (folder,))
            exact = pool.apply(answer, (folder, None))
            by_index = pool.apply(answer, (folder, probes))
        recall = recall_of(np.load(folder / "exact.npy"), np.load(folder / "index.npy"))
    rates = {name: sample / one["seconds"] for name, one in (("exact", exact), ("index", by_index))}
    peak = max(one["peak_gb"] for one in (built, exact, by_index))
    print(f"{items:,} items, {WIDTH} numbers, K {K}, one thread, {sample:,} users")
    print(f"  index: {by_index['lists']:,} lists, {probes} searched, made in {built['seconds']:.1f} s")
    for name, rate in rates.items():
        print(
            f"  {name:6} {rate:8,.0f} users/s   {1e6 / rate / CORES / 3600:6.2f} h for a million users on {CORES} cores"
        )
    print(f"  recall@{K} {recall:.4f}, largest peak of a process {peak:.2f} GB")
    detail = {
        "recall": round(recall, 4),
        "users_per_s": {name: round(rate) for name, rate in rates.items()},
        "hours_of_a_million": {name: round(1e6 / rate / CORES / 3600, 3) for name, rate in rates.items()},
        "built_s": round(built["seconds"], 1),
        "peak_gb": round(peak, 2),
        "searched_whole": by_index["whole"],
    }
    ratio = round(rates["index"] / rates["exact"], 2)
    line = {"name": "scoring_index", "ratio": ratio, "goal": GOAL, "unit": "x all items compared", "detail": detail}
    if recall < LEAST_RECALL:
        print(f"recall is below {LEAST_RECALL}: search more lists")
        return 1
    print(json.dumps(line))
    return 0


def make(folder: Path, items: int, sample: int) -> None:
    for name, made in zip(("queries", "items"), vectors(sample, items, WIDTH), strict=True):
        np.save(folder / f"{name}.npy", made)


def build(folder: Path) -> dict[str, Any]:
    one_thread()
    started = time.perf_counter()
    build_index(np.load(folder / "items.npy", mmap_mode="r"), None, folder / "lists")
    return {"seconds": time.perf_counter() - started, "peak_gb": peak_gb()}


def answer(folder: Path, probes: int | None) -> dict[str, Any]:
    """Lists of the sample by an index, or by comparing all items, written to a file; how long that took."""
    one_thread()
    queries, items = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("queries", "items"))
    index = None if probes is None else open_index(folder / "lists", items, probes)
    top_k(queries[:64], items, K, index=index)  # the files' pages come in
    started = time.perf_counter()
    parts = [top_k(queries[at : at + BATCH], items, K, index=index)[0] for at in range(0, len(queries), BATCH)]
    seconds = time.perf_counter() - started
    np.save(folder / ("exact.npy" if index is None else "index.npy"), np.concatenate(parts))
    told: dict[str, Any] = {"seconds": seconds, "peak_gb": peak_gb()}
    if index is not None:
        whole = index.is_short(queries, K, no_lists(len(queries)))
        told |= {"lists": len(index.sizes), "whole": int(whole.sum())}
    return told


def recall_of(exact: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(one, other)) / K for one, other in zip(exact, found, strict=True)]))


def peak_gb() -> float:
    """Of this process, mapped files' pages with it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())
