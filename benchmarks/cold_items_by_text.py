"""Items that nobody has bought yet, found by their names: two towers with texts' vectors against what a shop has else.

    python benchmarks/cold_items_by_text.py online_retail.csv.gz [SEEDS]

A tenth of the items, by a hash, is taken out of all that lies before the cut of the pipeline of Online Retail
(jobs/pipelines/online_retail.yaml); their names stay in the catalogue. Ingest, build and training are the pipeline's,
each training on one rank, two at a time, of the same build: with no attributes, with the names' words, with their
vectors, and with both. Asked is, among all items that are new to them, of customers who bought one of the tenth after
the cut. Beside chance: the popularity of the five items sold whose names are nearest by TF-IDF, and the likeness by
TF-IDF to what the customer has bought.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
import pandas as pd
import torch
from _cold_items import Shop, all_trained, by_bundle, is_taken_out, judged, rows_of, shop, specs
from run import NOTHING_MEASURED
from torch import Tensor
from torch.nn import functional as F

from cluster.session import build_session
from jobs import build_examples, ingest
from jobs.settings import Settings, load_settings
from jobs.settings_sources import AttributeSource
from spark_udfs.text_terms import tokens
from training.batch import Ragged

GOAL, NEAREST = 1.0, 5
PIPELINE = Path(__file__).resolve().parents[1] / "jobs" / "pipelines" / "online_retail.yaml"
KNOWN_BY = {  # attributes of the build by which each contender knows its items
    "ids": (),
    "words": ("attribute_name",),
    "vectors": ("attribute_meaning",),
    "words and vectors": ("attribute_name", "attribute_meaning"),
}
OURS = "words and vectors"


def prepared(path: str, folder: Path) -> Settings:
    """The pipeline's settings, on lines without the tenth before the cut, and on a catalogue with all."""
    settings = load_settings(PIPELINE, [])
    lines = pd.read_csv(path, dtype=str)
    when = pd.to_datetime(lines["InvoiceDate"])
    cut = pd.Timestamp(cast("Any", settings.examples.test_from))
    before = when < cut
    out = before & lines["StockCode"].map({code: is_taken_out(code) for code in lines["StockCode"].unique()})
    lines[~out].to_csv(folder / "lines.csv", index=False)
    is_sale = lines["StockCode"].str.fullmatch(settings.ingest.item_pattern or "") & lines["Description"].notna()
    sold = lines[is_sale & before & (lines["UnitPrice"].astype(float) > 0) & (lines["Quantity"].astype(float) > 0)]
    counts = sold.groupby(["StockCode", "Description"]).size().rename("lines").reset_index()
    names = counts.sort_values(["lines", "Description"], ascending=[False, True]).drop_duplicates("StockCode")
    names[["StockCode", "Description"]].to_csv(folder / "items.csv", index=False)
    sources = tuple(  # a column twice, to be taken in two ways
        AttributeSource(
            path=str(folder / "items.csv"), format="csv", columns={"item_id": "StockCode", name: "Description"}
        )
        for name in ("name", "meaning")
    )
    given = {"path": str(folder / "lines.csv"), "items": sources}
    return settings.model_copy(
        update={
            "tables": settings.tables.model_copy(update={"root": str(folder / "tables")}),
            "run_dir": str(folder / "run"),
            "ingest": settings.ingest.model_copy(update=given),
            "examples": settings.examples.model_copy(update={"item_attributes": {"name": "text", "meaning": "vector"}}),
            "training": settings.training.model_copy(update={"ranks": 1, "device": "cpu"}),
        }
    )


def likeness(shop: Shop) -> Tensor:
    """(items, items) cosines of names by TF-IDF of their words."""
    numbers: dict[str, int] = {}
    held = [
        [numbers.setdefault(word, len(numbers)) for word in dict.fromkeys(tokens(name, 100))] for name in shop.names
    ]
    bags = torch.zeros(len(held), len(numbers))
    for row, own in enumerate(held):
        bags[row, own] = 1.0
    idf = torch.log(shop.is_listed.sum() / bags[shop.is_listed].sum(dim=0).clamp(min=1))
    directions = F.normalize(bags * idf, dim=1)
    return directions @ directions.T


def by_neighbours(shop: Shop, likeness: Tensor) -> Tensor:
    """(1, items): how popular an item is; of one that was taken out the mean of those that are called alike."""
    warm = shop.is_listed & ~shop.is_cold
    near = likeness.masked_fill(~warm[None], -1.0).topk(NEAREST, dim=1).indices
    return torch.where(shop.is_cold, shop.user_count[near].mean(dim=1), shop.user_count)[None]


def by_history(shop: Shop, likeness: Tensor) -> Tensor:
    """(customers, items): the mean likeness to what a customer has bought."""
    history = cast(Ragged, shop.queries["history"])
    row = rows_of(history)
    total = torch.zeros(len(history.offsets) - 1, len(likeness)).index_add(0, row, likeness[history.values])
    return total / history.offsets.diff().clamp(min=1)[:, None]


def measured(path: str, seeds: int, folder: Path) -> dict[str, Any]:
    settings = prepared(path, folder)
    begun = time.perf_counter()
    spark = build_session("bench-cold-items", master="local[2]", driver_memory="4g", shuffle_partitions=4)
    ingest.run(settings, spark)
    build_examples.run(settings, spark)
    spark.stop()
    print(f"  ingest and build: {time.perf_counter() - begun:.0f} s", flush=True)
    asked = {(name, seed): spec for seed in range(seeds) for name, spec in specs(settings, KNOWN_BY, seed).items()}
    begun = time.perf_counter()
    bundles = all_trained(asked, at_once=2)
    print(f"  {len(bundles)} trainings: {time.perf_counter() - begun:.0f} s", flush=True)
    held = shop(asked[OURS, 0])
    alike = likeness(held)
    scores = {f"{name}, seed {seed}": by_bundle(bundle, held) for (name, seed), bundle in bundles.items()}
    scores |= {
        "popularity of the nearest five": by_neighbours(held, alike),
        "like the history": by_history(held, alike),
    }
    detail: dict[str, Any] = {"items": int(held.is_listed.sum()), "cold_items": int(held.is_cold.sum())}
    for name, of in scores.items():
        ranked = held.is_listed & (~held.is_cold if name.startswith("ids,") else True)
        among_all, among_cold = judged(held, of, ranked), judged(held, of, held.is_cold)
        detail |= {f"{group}_customers": int(among_all[f"{group}_customers"]) for group in ("cold", "warm")}
        if not name.startswith("ids,"):
            detail |= {"chance": round(among_all["chance"], 4), "chance_among_cold": round(among_cold["chance"], 4)}
        told = {"cold": among_all["cold"], "warm": among_all["warm"], "cold_among_cold": among_cold["cold"]}
        detail[name] = {metric: round(value, 4) for metric, value in told.items()}
        print(f"  {name}: {detail[name]}", flush=True)
    return detail


def main() -> None:
    if len(sys.argv) < 2:
        print("nothing is measured: name the file of Online Retail")
        sys.exit(NOTHING_MEASURED)
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory(dir=".") as folder:
        detail = measured(sys.argv[1], seeds, Path(folder).absolute())
    ours = float(np.mean([detail[f"{OURS}, seed {seed}"]["cold"] for seed in range(seeds)]))
    asked = max(3 * detail["chance"], 2 * detail["popularity of the nearest five"]["cold"])
    report("cold_items_by_text", ours / asked, GOAL, "of the recall that is asked of items never sold", detail)


if __name__ == "__main__":
    main()
