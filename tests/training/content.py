"""A shop whose customers buy by taste, and whose new items tell theirs by a category alone; and what runs on ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.fit import FitSettings, fit
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle, load_bundle
from training.state.publish import write_bundle
from training.tables.sharded import Tables
from training.world import World

TASTES, OLD, NEW = 4, 32, 8  # indices 1..OLD were sold, OLD + 1 .. OLD + NEW were not; 0 is unknown
ITEMS, WORDS, WIDTH = OLD + NEW + 1, 9, 12


def of_taste(items: Tensor) -> Tensor:
    return (items - 1) % TASTES


def schema_of(categories: int) -> Schema:
    return Schema(
        (
            Column("user", Kind.ID, "users", 3),
            Column("history", Kind.IDS, "items", ITEMS),
            Column("history_age", Kind.DENSE, ragged=True),
            Column("target", Kind.ID, "items", ITEMS),
            Column("new", Kind.DENSE),
            Column("weight", Kind.WEIGHT),
            Column("attribute_category", Kind.ID, "attribute_category", categories, of_item=True),
            Column("attribute_price", Kind.DENSE, of_item=True),
            Column("attribute_words", Kind.IDS, "attribute_words", WORDS, length=3, of_item=True),
        )
    )


def with_vectors(columns: tuple[Column, ...]) -> Schema:
    """Columns of rows, and of items a text's vector alone."""
    return Schema((*columns, Column("attribute_story", Kind.DENSE, length=WIDTH, of_item=True)))


_ITEM = torch.arange(ITEMS)
_SOLD = ((_ITEM > 0) & (_ITEM <= OLD)).float()
SCHEMA = schema_of(TASTES + 1)
SEQUENCES = (*tuple(SCHEMA)[1:3], Column("history_before", Kind.DENSE, ragged=True))
FEATURES: dict[str, Tensor] = {
    "user_count": 20 * _SOLD,
    "recent_count": 5 * _SOLD,
    "attribute_category": torch.where(_ITEM > 0, of_taste(_ITEM) + 1, 0),
    "attribute_price": (_ITEM % 7 - 3) / 2,  # says nothing of the taste
    "attribute_words": torch.stack([_ITEM % (WORDS - 1) + 1, _ITEM * 5 % WORDS, 0 * _ITEM], dim=1),
}


def stories(of: Tensor = _ITEM, noise: float = 0.5) -> Tensor:
    """(ITEMS, WIDTH), of length 1: a text's vector lies about its item's taste; zeros of the unknown item.

    Args:
        of: of each item the one whose taste its text tells.
        noise: that no taste explains, against the taste's own length.
    """
    draws = torch.Generator().manual_seed(5)
    tastes, own = torch.randn(TASTES, WIDTH, generator=draws), torch.randn(ITEMS, WIDTH, generator=draws)
    return F.normalize(tastes[of_taste(of)] + noise * own, dim=1) * (_ITEM > 0)[:, None]


def two_tower(
    schema: Schema, features: Mapping[str, Tensor | None] = FEATURES, tables: Tables | None = None, **config: Any
) -> TwoTower:
    torch.manual_seed(0)
    given = {name: values for name, values in features.items() if values is not None}
    asked = {"dim": 16, "negatives": 64, **config}
    return TwoTower(TwoTower.Config.parse(asked), schema, given, tables)


def batch_of(seed: int, rows: int, tastes: list[int] | None = None, part: slice = slice(None)) -> Batch:
    """Customers without a vector of their own buy, and bought, old items of their taste.

    Args:
        seed: of what is drawn.
        rows: how many are drawn.
        tastes: of the rows; None: drawn too.
        part: which of these rows the batch holds.
    """
    draws = torch.Generator().manual_seed(seed)
    taste = torch.randint(TASTES, (rows,), generator=draws) if tastes is None else torch.tensor(tastes)
    bought = torch.randint(OLD // TASTES, (rows, 5), generator=draws) * TASTES + taste[:, None] + 1
    history, target = bought[part, :4], bought[part, 4].contiguous()
    offsets = torch.arange(0, history.numel() + 1, 4)
    return {
        "user": torch.zeros_like(target),
        "history": Ragged(history.reshape(-1), offsets),
        "history_age": Ragged(torch.full((history.numel(),), 3.0), offsets),
        "target": target,
        "new": torch.ones(len(target)),
        "age": torch.full((len(target),), 10.0),
        "weight": torch.ones(len(target)),
    }


def in_sequence(batch: Batch) -> Batch:
    """With the same as stretches of lines, a target the last: what models of sequences learn from."""
    history, target = cast("Ragged", batch["history"]), cast("Tensor", batch["target"])
    lines = torch.cat([history.values.reshape(len(target), -1), target[:, None]], dim=1)
    offsets = torch.arange(0, lines.numel() + 1, lines.shape[1])
    before = torch.arange(lines.shape[1]).repeat(len(target)).float()
    ages = lines.shape[1] - 1 - before
    return {
        "history": Ragged(lines.reshape(-1), offsets),
        "history_age": Ragged(ages, offsets),
        "history_before": Ragged(before, offsets),
    }


def grown() -> tuple[Schema, dict[str, Tensor]]:
    """Two more categories, of which one is an item's now."""
    category = FEATURES["attribute_category"].clone()
    category[1] = TASTES + 2
    return schema_of(TASTES + 3), FEATURES | {"attribute_category": category}


def written(model: TwoTower, folder: Path) -> Bundle:
    made = write_bundle(
        folder,
        model_name="two_tower",
        config=model.config.model_dump(mode="json"),
        schema=model.schema,
        tensors=model.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )
    return load_bundle(made.path)


class _Steps:
    """Six steps an epoch, each of the same 48 rows at every world size; in the last one rank 0 has all rows."""

    steps_per_epoch = 6

    def __init__(self, world: World) -> None:
        self._world = world

    def epoch(self, epoch: int) -> Iterator[Batch]:
        rows = 48 // self._world.size
        for step in range(self.steps_per_epoch):
            part = slice(self._world.rank * rows, (self._world.rank + 1) * rows)
            if step == self.steps_per_epoch - 1:
                part = slice(0, 0) if self._world.rank else slice(0, 48)
            yield batch_of(100 * epoch + step, 48, part=part)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def train_on_ranks(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: the loss, and the items' matrix, of a training in which nothing is drawn."""
    settings = FitSettings(epochs=3, batch_size=48, learning_rate=0.01, shard_tables_above_mb=spec["shard"])
    drawn = {"id_dropout": 0, "history_dropout": 0, "dropout": 0, "negatives": ITEMS}
    model = two_tower(SCHEMA, tables=Tables(world, spec["shard"], settings.seed), **drawn)
    result = fit(model, _Steps(world), settings, world=world)
    with torch.no_grad():
        matrix = model.eval().item_matrix()[1:]
        matrix -= matrix.mean(dim=0)  # what all items have more changes no choice, and is left to rounding
    return {"loss": result.final_loss, "matrix": matrix.tolist()}
