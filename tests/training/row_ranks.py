"""What tests run on ranks with the models of rows and panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from training.batch import Batch
from training.fit import FitSettings, fit
from training.models import MODELS
from training.models.inputs import Standard
from training.models.multi_task import MultiTask
from training.models.rows import RowModel
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables
from training.world import World

SCHEMA = Schema(
    (Column("series", Kind.ID, "series", 9), Column("numbers", Kind.DENSE, length=2), Column("y", Kind.LABEL))
)
BATCH, ROWS = 24, 97  # the last step is of one row, on rank 0


class Dealt:
    """Step k holds the same rows at every world size."""

    def __init__(self, world: World, is_yes_or_no: bool) -> None:
        draws = torch.Generator().manual_seed(1)
        series = torch.randint(1, 9, (ROWS,), generator=draws)
        numbers = 1000 * torch.rand(ROWS, 2, generator=draws)
        noise = torch.rand(ROWS, generator=draws)
        y = series + numbers[:, 0] / 500 + noise
        y = (y > y.mean()).float() if is_yes_or_no else y
        self._data: dict[str, Tensor] = {"series": series, "numbers": numbers, "y": y, "odd": (series % 2).float()}
        self._world = world

    @property
    def steps_per_epoch(self) -> int:
        return -(-ROWS // BATCH)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for start in range(0, ROWS, BATCH):
            mine = torch.arange(ROWS)[start : start + BATCH][self._world.rank :: self._world.size]
            yield {name: column[mine] for name, column in self._data.items()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: the losses and statistics of trainings of models, with whole and with sharded tables."""
    found = {}
    for (name, config), (tables, above) in product(spec["models"].items(), (("whole", None), ("sharded", 0.0))):
        torch.manual_seed(0)
        made = MODELS[name]
        schema = SCHEMA if name != "multi_task" else Schema((*SCHEMA, Column("odd", Kind.LABEL)))
        model = made(made.Config.parse(config), schema, Tables(world, above, 0))
        data = Dealt(world, is_yes_or_no=issubclass(made, RowModel | MultiTask))
        result = fit(model, data, FitSettings(**spec["training"], batch_size=BATCH), world=world)
        standard = next(module for module in model.modules() if isinstance(module, Standard))
        statistics = [*standard.running_mean.tolist(), *standard.running_var.tolist()]
        assert world.all_gather_object(statistics) == [statistics] * world.size, "ranks differ"
        losses = [entry["loss"] for entry in result.history]
        found[f"{name} {tables}"] = {"losses": losses, "statistics": statistics}
    return found
