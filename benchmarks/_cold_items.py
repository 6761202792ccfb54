"""What the benchmarks of items that nobody has bought yet share: who is asked, contenders of one build, and recall.

Some items are taken out of all that lies before the cut; contenders learn of the same examples, and know items by
different columns of the catalogue. Asked is for what is new to customers who bought one of these items after the cut.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from jobs.learn_spec import learn_spec
from jobs.pinned import place
from jobs.settings import Settings
from jobs.tasks.recommend import learn, query_schema
from training.batch import Batch, Ragged
from training.data.loader import Loader
from training.data.snapshot import open_snapshot, read_table
from training.models import RetrievalModel
from training.schema import Schema
from training.state.bundle import load_bundle
from training.world import World

K, SHARE = 20, 0.1


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


def trained(spec: dict[str, Any]) -> str:
    """The bundle's place; in a process of its own, on one thread."""
    torch.set_num_threads(1)
    return str(learn(spec, World())["bundle_path"])


def all_trained(asked: Mapping[Any, dict[str, Any]], at_once: int) -> dict[Any, str]:
    """The bundles' places, by what they were asked for."""
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        return dict(zip(asked, pool.map(trained, asked.values()), strict=True))


def specs(settings: Settings, known_by: Mapping[str, Sequence[str]], seed: int) -> dict[str, dict[str, Any]]:
    """What each contender learns: of the same examples, with those of the attributes that it knows.

    Args:
        settings: of the build.
        known_by: columns of the catalogue, by contender.
        seed: of its training.
    """
    spec = learn_spec(settings, splits=("train", "validation"), validate=False)
    schema = Schema.from_json(spec["schema"])
    found = {}
    for name, known in known_by.items():
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
