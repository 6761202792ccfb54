"""Items that nobody has bought yet, found by text and picture together against the better one of both alone.

    python benchmarks/cold_items_by_modalities.py [SEEDS] [USERS] [ITEMS] [FIRST_SEED]

The simulated shop's true lines, descriptions and pictures (spark_udfs/simulated): a description tells the taste in four
words, a picture shows one of six shapes, so that each leaves open what the other tells. A tenth of the items, by a
hash, is taken out of all that lies before the cut; cold is what nobody had bought by then. Descriptions are taken as
words and as vectors of a language model (weights of the extra `text`), pictures as vectors of a `conv_net` that learnt
the shop's own labels of warm items. Each training is of the same lines, on one rank: by ids alone, with the text, with
the picture, with both, and with both where 30 % of the items lack a picture, or a text. No Spark: what it makes of
tables is held by tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from _train import arguments, report

import numpy as np  # isort: skip  after _train has set the number of threads
import torch
from _cold_items import Shop as Asked
from _cold_items import judged
from numpy.typing import NDArray
from torch import Tensor

from spark_udfs.simulated import catalogue, tastes
from spark_udfs.simulated.shop import Shop
from training.batch import Batch, Ragged
from training.data.pictures import changing
from training.fit import FitSettings, fit
from training.models.conv_net import ConvNet
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.state.text_encoder import load_encoder
from training.state.text_weights import weights_folder
from training.world import World

GOAL, MISSING = 1.05, 0.3
CUT, TAKEN_OUT, HISTORY, RECENT = 162, 0.1, 100, 30  # days; share of the items; lines; days
PLACES, DIM = 32, 64  # words of a description, numbers of a picture's vector
LISTS = FitSettings(epochs=8, batch_size=1024, learning_rate=0.003, embedding_learning_rate=0.1, warmup_steps=50)
PICTURES = FitSettings(
    epochs=12, batch_size=64, learning_rate=0.004, weight_decay=0.05, warmup_steps=100, schedule="cosine"
)
TEXT, PICTURE = ("words", "meaning"), ("picture",)
MODALITY_DROPOUT = 0.2
CONTENDERS = {  # the attributes by which each knows items, and of which of them some are missing
    "ids": ((), ()),
    "text": (TEXT, ()),
    "picture": (PICTURE, ()),
    "both": (TEXT + PICTURE, ()),
    "both, 30 % without picture": (TEXT + PICTURE, PICTURE),
    "both, 30 % without text": (TEXT + PICTURE, TEXT),
}


class Lines(NamedTuple):
    """What was bought before the cut, by customer and then by time.

    Attributes:
        user: of each line, from 1.
        item: from 1.
        day: of the order.
        start: the customer's first line.
        end: where the lines end that are older than the order.
        is_new: whether the customer has the item for the first time.
    """

    user: Tensor
    item: Tensor
    day: Tensor
    start: Tensor
    end: Tensor
    is_new: Tensor


class Said(NamedTuple):
    """An attribute of items.

    Attributes:
        column: of the catalogue.
        values: of each item, from 0, the unknown one.
    """

    column: Column
    values: Tensor


class Steps:
    """Rows in an order of their own each epoch, some at a time: what `fit` asks of a loader."""

    def __init__(self, rows: int, batch_size: int, make: Callable[[Tensor, int], Batch]) -> None:
        self._rows, self._batch_size, self._make = rows, batch_size, make
        self.steps_per_epoch = -(-rows // batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(epoch))
        for step, rows in enumerate(order.split(self._batch_size)):
            yield self._make(rows, epoch * self.steps_per_epoch + step)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def bought(shop: Shop) -> tuple[Lines, Asked]:
    """The lines before the cut, without those of the items that are taken out; and what is bought after it."""
    true = tastes.lines(np.arange(shop.users), shop)
    order = np.lexsort((true["day"], true["user"]))
    user, item, day = (torch.tensor(true[name][order]) for name in ("user", "item", "day"))
    out = torch.tensor(tastes.uniform(shop, "taken out", np.arange(shop.items)) < TAKEN_OUT)
    known = (day < CUT) & ~out[item]
    later, user, item, day = (day >= CUT, user + 1, item + 1, day.float())
    truth = _lists(user[later], item[later], shop.users)
    user, item, day = user[known], item[known], day[known]
    place = torch.arange(len(user))
    start = torch.searchsorted(user, user)
    is_first = torch.ones(len(user), dtype=torch.bool)
    is_first[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    end = torch.where(is_first, place, 0).cummax(0).values
    pairs = (user * (shop.items + 1) + item).numpy()
    is_new = torch.zeros(len(user))
    is_new[torch.tensor(np.unique(pairs, return_index=True)[1])] = 1.0
    lines = Lines(user, item, day, start, end, is_new)
    customers = torch.arange(1, shop.users + 1)
    asked = _history(lines, torch.searchsorted(user, customers), torch.searchsorted(user, customers, right=True), CUT)
    queries: Batch = {"user": customers, **asked, "seen": _lists(user, item, shop.users), "truth": truth}
    counts = torch.bincount(torch.tensor(np.unique(pairs)) % (shop.items + 1), minlength=shop.items + 1)
    is_listed = torch.arange(shop.items + 1) > 0
    return lines, Asked(queries, [""] * (shop.items + 1), counts.float(), is_listed, is_listed & (counts == 0))


def _lists(user: Tensor, item: Tensor, users: int) -> Ragged:
    """The distinct items of customers 1, 2, ..."""
    pairs = torch.unique(torch.stack([user, item]), dim=1)
    return Ragged(pairs[1], torch.searchsorted(pairs[0].contiguous(), torch.arange(1, users + 2)))


def _history(lines: Lines, start: Tensor, end: Tensor, day: Tensor | float) -> Batch:
    """The newest lines between, and how old they are on a day, of each row."""
    start = torch.maximum(start, end - HISTORY)
    lengths = end - start
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    row = torch.repeat_interleave(lengths)
    of = start[row] + torch.arange(len(row)) - offsets[row]
    now = day[row] if isinstance(day, Tensor) else day
    return {"history": Ragged(lines.item[of], offsets), "history_age": Ragged(now - lines.day[of], offsets)}


def learnt_from(lines: Lines) -> Callable[[Tensor, int], Batch]:
    def make(rows: Tensor, step: int) -> Batch:  # noqa: ARG001
        day = lines.day[rows]
        return {
            "user": lines.user[rows],
            **_history(lines, lines.start[rows], lines.end[rows], day),
            "target": lines.item[rows],
            "new": lines.is_new[rows],
            "weight": torch.ones(len(rows)),
            "age": CUT - day,
        }

    return make


def pictures(shop: Shop, is_warm: NDArray[np.bool_]) -> Tensor:
    """(items, DIM) vectors by a network that learnt the labels of warm items' pictures."""
    items, side = np.arange(shop.items), catalogue.SIDE
    labels = catalogue.pictures_of(items, shop)
    shape = torch.tensor([catalogue.SHAPES.index(name) for name in labels["true_shape"].to_pylist()]).numpy()
    said = torch.tensor([catalogue.SHAPES.index(name) + 1 for name in labels["shape"].to_pylist()]).float()
    pixels = [one.tobytes() for one in catalogue.rendered(items, shape, shop)]
    column = Column("picture", Kind.IMAGE, shape=(side, side, 3))
    schema = Schema((column, Column("label", Kind.LABEL, "shapes", len(catalogue.SHAPES) + 1)))
    torch.manual_seed(0)
    model = ConvNet(ConvNet.Config.parse({"dim": DIM, "shifted": 2}), schema)
    warm = torch.tensor(np.flatnonzero(is_warm))
    changed = changing(column, flipped=0.5, shifted=2, erased=0.0)

    def make(rows: Tensor, step: int) -> Batch:
        of = warm[rows]
        return changed({"picture": [pixels[n] for n in of.tolist()], "label": said[of]}, of.numpy(), step)

    fit(model, Steps(len(warm), PICTURES.batch_size, make), PICTURES, world=World())
    with torch.no_grad():
        found = [model.eval().predict({"picture": pixels[at : at + 500]}) for at in range(0, len(pixels), 500)]
    wrong = (
        torch.cat([one["class"] for one in found])[~torch.tensor(is_warm)]
        != torch.tensor(shape)[~torch.tensor(is_warm)] + 1
    )
    print(f"  shapes of cold items' pictures taken for others: {wrong.float().mean():.3f}", flush=True)
    return torch.cat([one["vector"] for one in found])


def said_of(shop: Shop, is_cold: Tensor) -> dict[str, Said]:
    """The attributes of items: what each is, and its values with a row for the unknown item."""
    items = np.arange(shop.items)
    texts = catalogue.items_of(items, shop)["description"].to_pylist()
    told = [[word.strip(",.") for word in text.lower().split()] for text in texts]
    numbers = {word: number for number, word in enumerate(sorted({word for text in told for word in text}), start=1)}
    words = torch.zeros(shop.items, PLACES, dtype=torch.int64)
    for row, text in enumerate(told):
        own = [numbers[word] for word in dict.fromkeys(text)]
        words[row, : len(own)] = torch.tensor(own)
    meaning = torch.tensor(load_encoder(weights_folder(None)).vectors(texts))
    looks = pictures(shop, ~is_cold[1:].numpy())
    of_ids = Column("words", Kind.IDS, "words", len(numbers) + 1, length=PLACES, of_item=True)
    of_texts = Column("meaning", Kind.DENSE, length=meaning.shape[1], of_item=True)
    of_looks = Column("picture", Kind.DENSE, length=DIM, of_item=True)
    held = {"words": (of_ids, words), "meaning": (of_texts, meaning), "picture": (of_looks, looks)}
    return {name: Said(column, torch.cat([0 * values[:1], values])) for name, (column, values) in held.items()}


def trained(shop: Shop, lines: Lines, asked: Asked, said: Mapping[str, Said], seed: int) -> TwoTower:
    """Of the same lines, with these attributes."""
    items = shop.items + 1
    schema = Schema(
        (
            Column("user", Kind.ID, "users", shop.users + 1),
            Column("history", Kind.IDS, "items", items),
            Column("history_age", Kind.DENSE, ragged=True),
            Column("target", Kind.ID, "items", items),
            Column("new", Kind.DENSE),
            Column("weight", Kind.WEIGHT),
            *(each.column for each in said.values()),
        )
    )
    recent = torch.bincount(lines.item[lines.day >= CUT - RECENT], minlength=items).float()
    counts = {"user_count": asked.user_count, "recent_count": recent}
    torch.manual_seed(seed)
    config = TwoTower.Config.parse({"modality_dropout": MODALITY_DROPOUT})
    model = TwoTower(config, schema, counts | {name: each.values for name, each in said.items()})
    steps = Steps(len(lines.user), LISTS.batch_size, learnt_from(lines))
    fit(model, steps, LISTS.model_copy(update={"seed": seed}), world=World())
    return model.eval()


def has(shop: Shop, lacking: Sequence[str]) -> Tensor:
    """(items,) bool: whether an item has these, where MISSING of the items, drawn by a hash, lack them all at once."""
    return torch.tensor(tastes.uniform(shop, f"without {', '.join(lacking)}", np.arange(shop.items + 1)) >= MISSING)


def known_by(shop: Shop, said: Mapping[str, Said], names: Sequence[str], lacking: Sequence[str]) -> dict[str, Said]:
    """Attributes, of which some are missing of some items."""
    held, there = {name: said[name] for name in names}, has(shop, lacking)[:, None]
    return held | {name: Said(said[name].column, said[name].values * there) for name in lacking}


def recalls(shop: Shop, asked: Asked, scores: Tensor) -> dict[str, float]:
    """Recall at K among all items, but for what is said of cold ones among their like; of cold items also of those
    that have a modality in the contenders that lack it of some, and of the others."""
    groups = {f"with {name}": has(shop, of) for name, of in (("text", TEXT), ("picture", PICTURE))}
    groups |= {name.replace("with", "without"): ~there for name, there in groups.items()}
    found = judged(asked, scores, asked.is_listed)
    told = {
        "cold": found["cold"],
        "warm": found["warm"],
        "chance": found["chance"],
        "customers": found["cold_customers"],
    }
    told["cold_among_cold"] = judged(asked, scores, asked.is_cold)["cold"]
    for name, of in groups.items():
        told[name] = judged(asked._replace(is_cold=asked.is_cold & of), scores, asked.is_listed)["cold"]
    return {name: round(value, 4) for name, value in told.items()}


def measured(seeds: Sequence[int], shop: Shop) -> dict[str, Any]:
    begun = time.perf_counter()
    lines, asked = bought(shop)
    said = said_of(shop, asked.is_cold)
    print(f"  lines, texts and pictures: {time.perf_counter() - begun:.0f} s", flush=True)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for seed in seeds:
        for name, (names, lacking) in CONTENDERS.items():
            model = trained(shop, lines, asked, known_by(shop, said, names, lacking), seed)
            with torch.no_grad():
                scores = model.queries(asked.queries) @ model.item_matrix().T
            found[name].append(recalls(shop, asked, scores))
            print(f"  seed {seed}, {name}: {found[name][-1]}", flush=True)
    means = {
        name: {of: round(float(np.mean([one[of] for one in each])), 4) for of in each[0]}
        for name, each in found.items()
    }
    counts = {"lines": len(lines.user), "items": shop.items, "cold_items": int(asked.is_cold.sum())}
    return counts | {"seconds": round(time.perf_counter() - begun)} | means


def main() -> None:
    torch.set_num_threads(1)
    seeds, users, items, first = arguments(3, 2_000, 1_200, 0)
    detail = measured(range(first, first + seeds), Shop(users=users, items=items))
    single = max(detail[name]["cold"] for name in ("text", "picture"))
    report("cold_items_by_modalities", detail["both"]["cold"] / single, GOAL, "of the better one's recall", detail)


if __name__ == "__main__":
    main()
