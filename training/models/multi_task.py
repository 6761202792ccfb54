"""Several labels of 0 and 1 from one row: shared bottom, MMoE and PLE, one network with other numbers of experts.

Experts are networks. Each label has a gate, a softmax that mixes the shared experts with the label's own, and a tower,
which makes its logit of the mixture. One shared expert is the shared bottom (Caruana 1997), several are MMoE (Ma et al.
2018), and with experts of the labels' own beside them it is PLE's extraction (Tang et al. 2020), of as many levels as
are asked for.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SchemaError
from training.models.base import Model
from training.models.fields import Fields
from training.models.inputs import Layers, only_position
from training.models.rows import probability, yes_or_no_loss
from training.parts import Part
from training.row_configs import MultiTaskConfig
from training.schema import Kind, Schema
from training.tables.sharded import Tables


class MultiTask(Model):
    """A model of rows with several labels; answers `p_LABEL` of each, its probability.

    Reads what every model of rows does. A label's weight is the column `LABEL_weight` where there is one, such as 0 for
    rows that say nothing of it, else the column `weight` where there is one, else 1. The loss has a part for each
    label.

    Raises:
        SchemaError: the schema has less than two labels, or one that is a list; a list of numbers of any length; or
            nothing to learn from.
    """

    Config: ClassVar[type[ModelConfig]] = MultiTaskConfig
    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph

    config: MultiTaskConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        labels = [column for column in schema if column.kind is Kind.LABEL]
        if len(labels) < 2 or any(label.length is not None for label in labels):
            raise SchemaError(
                "multi_task needs two labels or more, each a number; the schema has the labels "
                f"{[label.name for label in labels]}; take another model, or other columns"
            )
        if (place := only_position(schema)) is not None:
            raise SchemaError(
                f"multi_task learns nothing of places; the schema has '{place.name}'; take a model of one label"
            )
        self.labels = [label.name for label in labels]
        own = self.config
        self.fields = Fields(schema, self.table, own.dim)
        width = own.dim * len(self.fields.names)
        self.levels = nn.ModuleList()
        for level in range(own.levels):
            is_last = level == own.levels - 1
            self.levels.append(Extraction(width, len(labels), own, is_last))
            width = own.hidden[-1]
        self.towers = nn.ModuleList(Layers(width, own.tower, own.dropout, [own.start_logit]) for _ in labels)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Part]:
        parts = {}
        for name, logit in zip(self.labels, self._logits(batch, generator if self.training else None), strict=True):
            label = cast("Tensor", batch[name])
            columns = [column for column in (f"{name}_weight", "weight") if column in self.schema]
            weight = cast("Tensor", batch[columns[0]]) if columns else torch.ones_like(label)
            parts[name] = Part(*yes_or_no_loss(logit, label, weight, self.config))
        return parts

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p_LABEL` (batch,) of each label: the probability that it is 1, as if all rows counted alike."""
        logits = self._logits(batch, None)
        return {f"p_{name}": probability(logit, self.config) for name, logit in zip(self.labels, logits, strict=True)}

    def _logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
        """(batch,) of each label."""
        mixed = [cast("Tensor", self.fields(batch)).flatten(1)] * (len(self.labels) + 1)
        for level in self.levels:
            mixed = level(mixed, generator)
        return [tower(own, generator).squeeze(1) for tower, own in zip(self.towers, mixed, strict=True)]


class Extraction(nn.Module):
    """A level of experts and gates: each label's mixture, and, but for the last level, one of all experts.

    Args:
        width: of what it is given.
        labels: how many.
        config: numbers and widths of the experts.
        is_last: whether nobody asks for the mixture of all experts.
    """

    def __init__(self, width: int, labels: int, config: MultiTaskConfig, is_last: bool) -> None:
        super().__init__()
        counts = [config.own_experts] * labels + [config.shared_experts]
        self.experts = nn.ModuleList(
            nn.ModuleList(Layers(width, config.hidden, config.dropout) for _ in range(count)) for count in counts
        )
        mixed = [config.own_experts + config.shared_experts] * labels + ([] if is_last else [sum(counts)])
        self.gates = nn.ModuleList(nn.Linear(width, count, bias=False) for count in mixed)

    def forward(self, given: list[Tensor], generator: torch.Generator | None) -> list[Tensor]:
        """(B, hidden) for each gate, of (B, width) for each label and one more for the shared experts."""
        found = [
            [expert(rows, generator) for expert in cast("nn.ModuleList", experts)]
            for experts, rows in zip(self.experts, given, strict=True)
        ]
        labels = len(found) - 1
        mixed = []
        for place, gate in enumerate(self.gates):
            every = [*found[place], *found[-1]] if place < labels else [one for own in found for one in own]
            shares_BE = torch.softmax(gate(given[place]), dim=1)
            mixed.append((shares_BE.unsqueeze(2) * torch.stack(every, dim=1)).sum(1))
        return mixed
