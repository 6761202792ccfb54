"""What tests run on ranks with the models of rows and panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from training.batch import Batch
from training.fit import FitSettings, fit
from training.models.quantile_mlp import QuantileMlp
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables
from training.world import World

SCHEMA = Schema(
    (Column("series", Kind.ID, "series", 9), Column("numbers", Kind.DENSE, length=2), Column("y", Kind.LABEL))
)
BATCH, ROWS = 24, 97  # the last step is of one row, on rank 0


class Dealt:
    """Step k holds the same rows at every world size."""

    def __init__(self, world: World) -> None:
        draws = torch.Generator().manual_seed(1)
        series = torch.randint(1, 9, (ROWS,), generator=draws)
        numbers = 1000 * torch.rand(ROWS, 2, generator=draws)
        noise = torch.rand(ROWS, generator=draws)
        self._data: dict[str, Tensor] = {
            "series": series,
            "numbers": numbers,
            "y": series + numbers[:, 0] / 500 + noise,
        }
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
    """A launch target: the losses and statistics of trainings with whole and with sharded tables."""
    torch.manual_seed(0)
    found = {}
    for name, above in (("whole", None), ("sharded", 0.0)):
        torch.manual_seed(0)
        tables = Tables(world, above, 0)
        model = QuantileMlp(QuantileMlp.Config.parse({"dropout": 0.0, "levels": [0.5, 0.9]}), SCHEMA, tables)
        result = fit(model, Dealt(world), FitSettings(**spec, batch_size=BATCH), world=world)
        assert model.inputs.standard is not None
        statistics = [*model.inputs.standard.running_mean.tolist(), *model.inputs.standard.running_var.tolist()]
        assert world.all_gather_object(statistics) == [statistics] * world.size, "ranks differ"
        found[name] = {"losses": [entry["loss"] for entry in result.history], "statistics": statistics}
    return found
