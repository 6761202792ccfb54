"""Sequences whose next item follows from the order of the last two, and what test_sequence.py trains them with.

After items a, b comes the one behind a: who has a and b in the other order buys something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.fit import FitSettings, fit
from training.models.bert4rec import Bert4Rec
from training.models.sequence import Sequence
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables
from training.world import World

ITEMS = 12
LENGTH = 9
SCHEMA = Schema(
    (
        Column("history", Kind.IDS, "items", ITEMS + 1),
        Column("history_age", Kind.DENSE, ragged=True),
        Column("history_before", Kind.DENSE, ragged=True),
    )
)
WEIGHED = Schema((*SCHEMA, Column("history_weight", Kind.DENSE, ragged=True)))


def after(first: int, second: int) -> int:
    return first % ITEMS + 1


def rows_of(seed: int, count: int = 64) -> list[list[int]]:
    """Sequences of up to LENGTH items, at least three; the first two are drawn."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, ITEMS + 1, (count, 2), generator=generator).tolist()
    for number, row in enumerate(rows):
        while len(row) < 3 + number % (LENGTH - 2):
            row.append(after(*row[-2:]))
    return rows


def sequence_batch(rows: list[list[int]], before: list[list[int]] | None = None) -> Batch:
    """A line a day; each is known before the next, unless `before` says otherwise."""
    known = [list(range(len(row))) for row in rows] if before is None else before
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    offsets = lengths.cumsum(0)
    ages = [float(len(row) - 1 - place) for row in rows for place in range(len(row))]
    return {
        "history": Ragged(torch.tensor([item for row in rows for item in row], dtype=torch.int64), offsets),
        "history_age": Ragged(torch.tensor(ages), offsets),
        "history_before": Ragged(torch.tensor([float(count) for row in known for count in row]), offsets),
    }


def model_of(
    kind: type[Sequence] = Sequence, weighed: bool = False, tables: Tables | None = None, **config: Any
) -> Sequence:
    torch.manual_seed(0)
    parsed = kind.Config.parse({"dim": 32, "dropout": 0.1, "negatives": 1_000, **config})
    return kind(parsed, WEIGHED if weighed else SCHEMA, {"user_count": torch.ones(ITEMS + 1)}, tables)


class Loader:
    """Batches of new sequences each step, dealt out over the ranks."""

    def __init__(self, world: World, rows: int = 64, steps: int = 150) -> None:
        self._world, self._rows, self.steps_per_epoch = world, rows, steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for step in range(self.steps_per_epoch):
            rows = rows_of(epoch * self.steps_per_epoch + step, self._rows)
            yield sequence_batch(rows[self._world.rank :: self._world.size])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def trained(spec: dict[str, Any], world: World) -> Sequence:
    """A model fitted on this rank; `steps` of the training."""
    settings = FitSettings(
        batch_size=64, learning_rate=0.005, embedding_learning_rate=0.01, embedding_optimizer="sparse_adam"
    )
    tables = Tables(world, 0.0 if spec.get("shard") else None)
    kind = Bert4Rec if spec.get("both_ways") else Sequence
    model = model_of(kind, tables=tables, **spec["model"])
    fit(model, Loader(world, steps=spec.get("steps", 150)), settings, world=world)  # type: ignore[arg-type]
    return model


def weights(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: what a short training leaves, by its queries."""
    model = trained({**spec, "steps": 10}, world).eval()
    batch = sequence_batch(rows_of(999, 4))
    with torch.no_grad():
        loss, weight = model.loss(batch, torch.Generator())
        return {"loss": float(loss / weight), "queries": model.queries(batch).tolist()}


def weights_each(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: `weights` of each of the named specs."""
    return {name: weights(one, world) for name, one in spec.items()}


def pairs() -> tuple[list[list[int]], torch.Tensor]:
    """Every two items in both orders, and what comes after them."""
    rows = [[first, second] for first in range(1, ITEMS + 1) for second in range(1, ITEMS + 1)]
    return rows, torch.tensor([after(*row) for row in rows])


def found(model: Sequence) -> float:
    """The share of pairs after which the model knows what comes."""
    rows, wanted = pairs()
    with torch.no_grad():
        scores = model.eval().queries(sequence_batch(rows)) @ model.item_matrix().T
    return float((scores.argmax(1) == wanted).double().mean())


def found_by_two_towers() -> float:
    """The same of a model that knows items and their ages, but adds them up."""
    sizes = {"user": 2, "target": ITEMS + 1}
    schema = Schema((*SCHEMA, *(Column(name, Kind.ID, name, size) for name, size in sizes.items())))
    torch.manual_seed(0)
    counts = {name: torch.ones(ITEMS + 1) for name in TwoTower.FEATURES}
    model = TwoTower(TwoTower.Config.parse({"dim": 32, "history_dropout": 0, "dropout": 0}), schema, counts)
    rows, wanted = pairs()
    batch = sequence_batch(rows)
    count = len(rows)
    constant = {"user": torch.zeros(count, dtype=torch.int64), "new": torch.ones(count), "age": torch.zeros(count)}
    batch |= {**constant, "target": wanted, "weight": torch.ones(count)}
    for _ in training_losses(model.train(), lambda _: batch, 200, sparse_rate=0.02):
        pass
    with torch.no_grad():
        scores = model.eval().queries(batch) @ model.item_matrix().T
    return float((scores.argmax(1) == wanted).double().mean())
