"""Customers who buy items of their own group, and what test_matrix_factorisation.py trains on ranks with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from training.batch import Batch, Ragged
from training.fit import FitSettings, fit
from training.models.matrix_factorisation import MatrixFactorisation
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables
from training.world import World

CUSTOMERS, ITEMS, GROUPS, ROWS = 24, 20, 4, 48
COUNTS = torch.arange(ITEMS + 1.0)  # purchases of each item
SCHEMA = Schema(
    (
        Column("user", Kind.ID, "users", CUSTOMERS + 1),
        Column("history", Kind.IDS, "items", ITEMS + 1),
        Column("target", Kind.ID, "items", ITEMS + 1),
        Column("weight", Kind.WEIGHT),
    )
)
LOSSES = {
    "softmax": {"loss": "softmax", "negatives": ITEMS},
    "popular": {"loss": "softmax", "negatives": ITEMS, "popularity": 0.5},
    "bpr": {"loss": "bpr", "negatives": ITEMS, "cosines": False, "temperature": 0.5, "l2": 0.01},
    "simplex": {
        **{"loss": "cosine_contrastive", "negatives": ITEMS, "margin": 0.3, "negative_weight": 10.0, "own_share": 0.5}
    },
}


SOLVED = {"loss": "ials", "l2": 0.02, "unobserved_weight": 0.05}


def model_of(tables: Tables | None = None, **config: Any) -> MatrixFactorisation:
    torch.manual_seed(0)
    parsed = MatrixFactorisation.Config.parse({"dim": 8, **config})
    return MatrixFactorisation(parsed, SCHEMA, {"user_count": COUNTS}, tables)


def batch_of(rows: list[tuple[int, list[int], int]], rank: int = 0, ranks: int = 1) -> Batch:
    """A rank's rows of a customer, the history and the target; the weight is the row's number."""
    weights = torch.arange(1.0, len(rows) + 1)[rank::ranks]
    rows = rows[rank::ranks]
    users, histories, targets = zip(*rows, strict=True)
    return {
        "user": torch.tensor(users),
        "history": Ragged(
            torch.tensor([item for history in histories for item in history], dtype=torch.int64),
            torch.tensor([0, *map(len, histories)]).cumsum(0),
        ),
        "target": torch.tensor(targets),
        "weight": weights,
    }


def bought(seed: int) -> list[tuple[int, list[int], int]]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for user in torch.randint(1, CUSTOMERS + 1, (ROWS,), generator=generator).tolist():
        places = torch.randint(0, ITEMS // GROUPS, (4,), generator=generator).tolist()
        *history, target = (place * GROUPS + user % GROUPS + 1 for place in places)
        rows.append((user, history, target))
    return rows


class Loader:
    """New purchases each step, dealt out over the ranks."""

    steps_per_epoch = 5

    def __init__(self, world: World) -> None:
        self._world = world

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for step in range(self.steps_per_epoch):
            yield batch_of(bought(epoch * self.steps_per_epoch + step), self._world.rank, self._world.size)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def trained(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: of each loss, and of whole and sharded tables, the queries after a short training."""
    settings = FitSettings(batch_size=ROWS, embedding_learning_rate=0.1)
    found = {}
    for name, config in {**LOSSES, "ials": SOLVED}.items():
        for above in (None, 0.0) if spec["shard"] else (None,):
            model = model_of(Tables(world, above), **config)
            result = fit(model, Loader(world), settings, world=world)  # type: ignore[arg-type]
            with torch.no_grad():
                queries = model.eval().queries(batch_of(bought(999)[:6])).tolist()
            found[f"{name} {above}"] = {"loss": result.final_loss, "queries": queries}
    return found
