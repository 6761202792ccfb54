"""Items that nobody has bought yet, found by a knowledge graph: two towers with it against attributes and ids alone.

    python benchmarks/cold_items_by_graph.py [SEEDS]

The simulated shop with the scene `graph`: the taste lies two steps from an item, at its brand's maker, and brands have
two items or so. Items come over time; cold are those that were there before the cut and had no customer. Ingest, build
and training are the pipeline's, each training on one rank, of the same build: by ids, by ids and brands, by ids and the
graph, by all. Asked is, among all items that are new to them, of customers who bought such an item after the cut.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
from _cold_items import all_trained, by_bundle, judged, shop, specs

from cluster.session import build_session
from jobs import build_examples, ingest, simulate
from jobs.settings import Settings, load_settings

COLD_GOAL, WARM_GOAL, GOAL = 2.0, 1.03, 1.0
PIPELINE = Path(__file__).resolve().parents[1] / "jobs" / "pipelines" / "shop.yaml"
GRAPH = ("graph", "graph_path")
KNOWN_BY = {"ids": (), "brands": ("attribute_brand",), "graph": GRAPH, "brands and graph": ("attribute_brand", *GRAPH)}
OURS, WITHOUT, BY_IDS = "graph", "brands", "ids"


def settings_of(folder: Path) -> Settings:
    """The pipeline's settings, of a shop with more items than sales can tell, and with brands and their triples."""
    raw = folder / "raw"
    return load_settings(
        PIPELINE,
        [
            f"run_dir={folder}/run",
            f"tables.root={folder}/tables",
            "shop.items=3000",
            "simulate.scenes=[graph]",
            f"ingest.items=[{{path: {raw}/item_brands, format: delta, columns: {{item_id: item_id, brand: brand}}}}]",
            f"sources={{triples: {{path: {raw}/brand_triples, format: delta}}}}",
            "examples.graph={attributes: [brand]}",
            "examples.item_attributes={brand: id}",
            "training.ranks=1",
            "training.device=cpu",
        ],
    )


def measured(seeds: int, folder: Path) -> dict[str, Any]:
    settings, begun = settings_of(folder), time.perf_counter()
    spark = build_session("bench-graph", master="local[2]", driver_memory="4g", shuffle_partitions=4)
    simulate.run(settings, spark)
    ingest.run(settings, spark)
    build = build_examples.run(settings, spark)
    spark.stop()
    print(f"  simulate, ingest and build: {time.perf_counter() - begun:.0f} s", flush=True)
    asked = {(name, seed): spec for seed in range(seeds) for name, spec in specs(settings, KNOWN_BY, seed).items()}
    begun = time.perf_counter()
    bundles = all_trained(asked, 1)
    print(f"  {len(bundles)} trainings: {time.perf_counter() - begun:.0f} s", flush=True)
    held = shop(asked[OURS, 0])
    held = held._replace(is_cold=held.is_listed & (held.user_count == 0))
    detail: dict[str, Any] = {"items": int(held.is_listed.sum()), "cold_items": int(held.is_cold.sum())}
    detail |= {name: count for name, count in build["counts"].items() if name.startswith("graph_")}
    for (name, seed), bundle in bundles.items():
        scores = by_bundle(bundle, held)
        among_all, among_cold = judged(held, scores, held.is_listed), judged(held, scores, held.is_cold)
        detail |= {f"{group}_customers": int(among_all[f"{group}_customers"]) for group in ("cold", "warm")}
        detail |= {"chance": round(among_all["chance"], 4), "chance_among_cold": round(among_cold["chance"], 4)}
        told = {"cold": among_all["cold"], "warm": among_all["warm"], "cold_among_cold": among_cold["cold"]}
        detail[f"{name}, seed {seed}"] = {metric: round(value, 4) for metric, value in told.items()}
        print(f"  {name}, seed {seed}: {detail[f'{name}, seed {seed}']}", flush=True)
    return detail


def mean_of(detail: dict[str, Any], name: str, metric: str, seeds: int) -> float:
    return float(np.mean([detail[f"{name}, seed {seed}"][metric] for seed in range(seeds)]))


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory(dir=".") as folder:
        detail = measured(seeds, Path(folder).absolute())
    detail["cold_against_brands"] = mean_of(detail, OURS, "cold", seeds) / mean_of(detail, WITHOUT, "cold", seeds)
    detail["warm_against_ids"] = mean_of(detail, OURS, "warm", seeds) / mean_of(detail, BY_IDS, "warm", seeds)
    ratio = min(detail["cold_against_brands"] / COLD_GOAL, detail["warm_against_ids"] / WARM_GOAL)
    report("cold_items_by_graph", ratio, GOAL, "of what is asked of cold and of warm items, the lesser one", detail)


if __name__ == "__main__":
    main()
