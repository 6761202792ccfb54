"""What the world-size tests run on ranks: `fit` over the streaming loader, whole, cut in mid-epoch, and going on."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tests.training import tiny
from training.batch import Batch
from training.data.loader import Loader
from training.data.snapshot import open_snapshot
from training.fit import Event, FitSettings, Pruned, fit
from training.schema import Column, Kind, Schema
from training.world import World

ROWS, BATCH, SHARDS, CUT_AT = 250, 24, 12, 4
SCHEMA = Schema(
    (
        Column("id", Kind.ID, "ids", ROWS),
        Column("user", Kind.ID, "users", tiny.USERS),
        Column("item", Kind.ID, "items", tiny.ITEMS),
        Column("label", Kind.DENSE),
        Column("weight", Kind.DENSE),
    )
)


class Collecting(tiny.TinyModel):
    """Remembers the ids of each batch that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.seen.append(batch["id"].tolist())  # type: ignore[union-attr]
        return super().loss(batch, generator)


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Two epochs; `cut` stops in the first one after its checkpoint. Ids are by step, all ranks' together."""
    model, cut = Collecting(), spec.get("cut", False)
    settings = FitSettings(epochs=2, batch_size=BATCH, seed=5, warmup_steps=3, checkpoint_every_steps=CUT_AT)
    share = {"rank": world.rank, "world_size": world.size, "shards": SHARDS, "shuffle_rows": 60}
    loaded: list[float] = []

    def report(event: Event) -> None:
        if event.kind == "epoch":
            loaded.append(event.values["loader_rows"])
        if cut and event.kind == "checkpoint":
            raise Pruned("planted")

    snapshot = open_snapshot(spec["table"])
    with Loader(snapshot, SCHEMA, batch_size=BATCH // world.size, seed=7, **share) as loader:
        try:
            result = fit(model, loader, settings, world=world, checkpoint_dir=spec.get("folder"), report=report)
            ended = {"loss": result.final_loss, "steps": result.steps, "loaded": loaded}
        except Pruned:
            ended = {}
    ranks = world.all_gather_object(model.seen)
    return {**ended, "seen": [list(chain(*step)) for step in zip(*ranks, strict=True)]}


def train_each(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: `train` for each of the named specs."""
    return {name: train(one, world) for name, one in spec.items()}
