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
from training.models.fields import Fields
from training.models.inputs import Layers, number_of_a_row
from training.models.rows import LabelModel
from training.parts import Part
from training.row_configs import MultiTaskConfig
from training.schema import Kind, Schema
from training.tables.sharded import Tables


class MultiTask(LabelModel):
    """A model of rows with several labels; answers `p_LABEL` of each, its probability.

    A label's weight is the column `LABEL_weight` of kind WEIGHT where there is one, such as 0 for rows that say nothing
    of it, else that of the name `weight`, else 1. The loss has a part for each label.

    Raises:
        SchemaError: the schema has less than two labels, a label or a weight that is a list, a weight of another name,
            a list of numbers of any length, or nothing to learn from.
    """

    Config: ClassVar[type[ModelConfig]] = MultiTaskConfig

    config: MultiTaskConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        labels = self.labels
        own = self.config
        self.fields = Fields(schema, self.table, own.dim)
        width = own.dim * len(self.fields.names)
        self.levels = nn.ModuleList()
        for level in range(own.levels):
            is_last = level == own.levels - 1
            self.levels.append(Extraction(width, len(labels), own, is_last))
            width = own.hidden[-1]
        self.towers = nn.ModuleList(Layers(width, own.tower, own.dropout, [own.first_logit]) for _ in labels)

    @classmethod
    def labels_of(cls, schema: Schema) -> dict[str, str | None]:
        labels = [column for column in schema if column.kind is Kind.LABEL]
        if len(labels) < 2:
            raise SchemaError(
                f"multi_task needs two labels or more; the schema has the labels {[label.name for label in labels]}; "
                "take another model, or other columns"
            )
        weights = [column for column in schema if column.kind is Kind.WEIGHT]
        for column in (*labels, *weights):
            number_of_a_row(column, "multi_task")
        names, shared = {column.name for column in weights}, "weight"
        if stray := sorted(names - {shared, *(f"{label.name}_weight" for label in labels)}):
            raise SchemaError(
                f"a weight of multi_task must be called '{shared}', or as a label with '_weight' behind it; the schema "
                f"has the weights {stray}, and the labels {[label.name for label in labels]}; name them so"
            )
        common = shared if shared in names else None
        return {label.name: f"{label.name}_weight" if f"{label.name}_weight" in names else common for label in labels}

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Part]:
        return {name: Part(*sums) for name, sums in zip(self.labels, self.sums(batch, generator), strict=True)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p_LABEL` (batch,) of each: the probability that it is 1, at the batch's place, else at the first."""
        return {f"p_{name}": p for name, p in zip(self.labels, self.probabilities(batch), strict=True)}

    def own_logits(self, batch: Batch, generator: torch.Generator | None) -> list[Tensor]:
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
