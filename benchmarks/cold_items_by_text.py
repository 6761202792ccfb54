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

import hashlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
import pandas as pd
import torch
from run import NOTHING_MEASURED
from torch import Tensor
from torch.nn import functional as F

from cluster.session import build_session
from jobs import build_examples, ingest
from jobs.learn_spec import learn_spec
from jobs.pinned import place
from jobs.settings import Settings, load_settings
from jobs.settings_sources import AttributeSource
from jobs.tasks.recommend import learn, query_schema
from spark_udfs.text_terms import tokens
from training.batch import Batch, Ragged
from training.data.loader import Loader
from training.data.snapshot import open_snapshot, read_table
from training.models import RetrievalModel
from training.schema import Schema
from training.state.bundle import load_bundle
from training.world import World

GOAL, K, SHARE, NEAREST = 1.0, 20, 0.1, 5
PIPELINE = Path(__file__).resolve().parents[1] / "jobs" / "pipelines" / "online_retail.yaml"
KNOWN_BY = {  # attributes of the build by which each contender knows its items
    "ids": (),
    "words": ("attribute_name",),
    "vectors": ("attribute_meaning",),
    "words and vectors": ("attribute_name", "attribute_meaning"),
}
OURS = "words and vectors"


class Shop(NamedTuple):
    """What is asked, and of what.

    Attributes:
        queries: a row a customer: history, ages, seen and truth.
        names: of each index, "" where there is none.
        user_count: (items,) known customers with a purchase before the cut.
        is_listed: (items,) bool, what is ranked.
        is_cold: (items,) bool, those that were taken out.
    """

    queries: Batch
    names: list[str]
    user_count: Tensor
    is_listed: Tensor
    is_cold: Tensor


def is_taken_out(item: str) -> bool:
    return int(hashlib.sha256(item.encode()).hexdigest()[:8], 16) < SHARE * 16**8


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


def trained(spec: dict[str, Any]) -> str:
    """The bundle's place; in a process of its own, on one thread."""
    torch.set_num_threads(1)
    return str(learn(spec, World())["bundle_path"])


def specs(settings: Settings, seed: int) -> dict[str, dict[str, Any]]:
    """What each contender learns: of the same examples, with those of the attributes that it knows."""
    spec = learn_spec(settings, splits=("train", "validation"), validate=False)
    schema = Schema.from_json(spec["schema"])
    found = {}
    for name, known in KNOWN_BY.items():
        columns = Schema((*schema, *(column for column in schema.of_items if column.name in known)))
        own = {"schema": columns.to_json(), "bundle_dir": f"{settings.run_dir}/{name}", "attaches": []}
        found[name] = spec | own | {"training": spec["training"] | {"seed": seed}}
    return found


def shop(spec: Mapping[str, Any]) -> Shop:
    columns = Schema.from_json(spec["schema"])
    asked, items = query_schema(columns), columns["history"].size or 1
    held = open_snapshot(**place(spec, "queries"), columns=asked.names)
    with Loader(held, asked, batch_size=held.rows, seed=0) as loader:
        (queries,) = loader.epoch(0)
    wanted = ["item", "item_id", "name", "user_count", "listed"]
    catalogue = read_table(open_snapshot(**place(spec, "catalogue")), wanted).to_pandas().set_index("item")
    rows = catalogue.reindex(range(items))
    ids = rows["item_id"].fillna("").tolist()
    is_listed = torch.tensor(rows["listed"].astype("boolean").fillna(value=False).to_numpy(bool))
    return Shop(
        queries,
        rows["name"].fillna("").tolist(),
        torch.tensor(rows["user_count"].fillna(0).to_numpy(np.float32)),
        is_listed,
        is_listed & torch.tensor([bool(one) and is_taken_out(one) for one in ids]),
    )


def by_bundle(place_of: str, shop: Shop) -> Tensor:
    """(customers, items) scores."""
    model = load_bundle(place_of).model()
    assert isinstance(model, RetrievalModel)
    with torch.no_grad():
        return model.eval().queries(shop.queries) @ model.item_matrix().T


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


def rows_of(lists: Ragged) -> Tensor:
    return torch.repeat_interleave(lists.offsets.diff())


def judged(shop: Shop, scores: Tensor, ranked: Tensor) -> dict[str, float]:
    """Recall at K of what is cold and of what is not, over those who have such to find, and of chance.

    Args:
        shop: who is asked.
        scores: (customers or 1, items).
        ranked: (items,) bool, what is ranked; what a customer has bought before is left out.
    """
    seen, truth = cast(Ragged, shop.queries["seen"]), cast(Ragged, shop.queries["truth"])
    customers = len(seen.offsets) - 1
    is_new, wanted = (torch.full((customers, len(ranked)), fill_value=value) for value in (True, False))
    is_new[rows_of(seen), seen.values] = False
    wanted[rows_of(truth), truth.values] = True
    wanted &= is_new & shop.is_listed
    asked = is_new & ranked
    top = scores.expand(customers, -1).masked_fill(~asked, -torch.inf).topk(K, dim=1).indices
    shown = torch.zeros_like(asked).scatter(1, top, value=True) & asked
    found = {}
    for name, of in (("cold", shop.is_cold), ("warm", ~shop.is_cold)):
        own = wanted & of
        has = own.any(dim=1)
        found[name] = float(((shown & own).sum(1)[has] / own.sum(1)[has]).mean())
        found[f"{name}_customers"] = float(has.sum())
        if name == "cold":
            found["chance"] = float((K / asked.sum(1)[has]).mean())
    return found


def measured(path: str, seeds: int, folder: Path) -> dict[str, Any]:
    settings = prepared(path, folder)
    begun = time.perf_counter()
    spark = build_session("bench-cold-items", master="local[2]", driver_memory="4g", shuffle_partitions=4)
    ingest.run(settings, spark)
    build_examples.run(settings, spark)
    spark.stop()
    print(f"  ingest and build: {time.perf_counter() - begun:.0f} s", flush=True)
    asked = {(name, seed): spec for seed in range(seeds) for name, spec in specs(settings, seed).items()}
    begun = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        bundles = dict(zip(asked, pool.map(trained, asked.values()), strict=True))
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
