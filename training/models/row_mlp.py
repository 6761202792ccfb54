"""A network for rows: ids by embeddings, numbers standardised, a label that is yes or no.

    input = [embedding of each id, mean embedding of each list of ids, log and standardised numbers]
    logit = w . input + MLP(input)

The linear part learns what a rule would say from the first steps on; the network what is left. Numbers pass through
sign(x) log(1 + |x|), as counts and amounts have long tails, and are standardised by what the training has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch, Ragged
from training.configs import ModelConfig, RowMlpConfig
from training.errors import SchemaError
from training.models.base import Model
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables


class RowMlp(Model):
    """The model of rows with a label of 0 and 1; answers `p`, the label's probability.

    Reads all columns of the schema but times: of kind ID, IDS and DENSE (a number, or a fixed list) as input, the one
    of kind LABEL, and that of kind WEIGHT if there is one.

    Raises:
        SchemaError: the schema has no label or several, or a list of numbers of any length, or nothing to learn from.
    """

    Config: ClassVar[type[ModelConfig]] = RowMlpConfig
    COMPILED: ClassVar[tuple[str, ...]] = ()  # its draws break a graph, and it is small

    config: RowMlpConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        of_kind = {kind: [column for column in schema if column.kind is kind] for kind in Kind}
        self._ids = [*of_kind[Kind.ID], *of_kind[Kind.IDS]]
        self._numbers = of_kind[Kind.DENSE]
        ragged = [column.name for column in self._numbers if column.ragged]
        labels = [column.name for column in of_kind[Kind.LABEL]]
        if len(labels) != 1 or ragged or not (self._ids or self._numbers):
            raise SchemaError(
                f"row_mlp needs one label, and ids, numbers or fixed lists of numbers; the schema has the labels "
                f"{labels} and the lists of any length {ragged}; take another model, or other columns"
            )
        self._label = labels[0]
        self._weight = next((column.name for column in of_kind[Kind.WEIGHT]), None)
        dim = self.config.dim
        self.tables = nn.ModuleDict(
            {name: self.table(name, size, dim, std=0.01) for name, size in _vocabularies(self._ids).items()}
        )
        width = dim * len(self._ids) + sum(column.length or 1 for column in self._numbers)
        numbers = width - dim * len(self._ids)
        self.standard = nn.BatchNorm1d(numbers, affine=False, momentum=0.02) if numbers else None
        layers: list[nn.Module] = []
        before = width
        for hidden in self.config.hidden:
            layers += [nn.Linear(before, hidden), nn.ReLU(), nn.Dropout(self.config.dropout)]
            before = hidden
        last = nn.Linear(before, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, self.config.start_logit)
        self.deep = nn.Sequential(*layers, last)
        self.linear = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        logit, label = self._answer(batch, generator), cast("Tensor", batch[self._label])
        weight = torch.ones_like(label) if self._weight is None else cast("Tensor", batch[self._weight])
        weight = weight * torch.where(label > 0.5, self.config.positive_weight, 1.0)
        each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        if self.config.focal:
            each = each * (1 - torch.exp(-each)) ** self.config.focal
        return (each * weight).sum(), weight.sum()

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p` (batch,): the probability that the label is 1, as if all rows counted alike."""
        logit = self._answer(batch, None)
        return {"p": torch.sigmoid(logit - torch.log(torch.tensor(self.config.positive_weight)))}

    def _answer(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        parts = [self._pooled(column, batch[column.name]) for column in self._ids]
        if self.standard is not None:
            numbers = torch.cat([_matrix(cast("Tensor", batch[column.name])) for column in self._numbers], dim=1)
            parts.append(self.standard(torch.sign(numbers) * torch.log1p(numbers.abs())))
        return self._logit(torch.cat(parts, dim=1), generator)

    def _logit(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        hidden = rows
        for layer in self.deep:
            hidden = _dropped(hidden, layer.p, generator) if isinstance(layer, nn.Dropout) else layer(hidden)
        logit: Tensor = (hidden + self.linear(rows)).squeeze(1)
        return logit

    def _pooled(self, column: Column, value: object) -> Tensor:
        """(batch, dim): the embedding of an id, or the mean of a list's."""
        table = self.tables[str(column.vocabulary)]
        if not isinstance(value, Ragged):
            return cast("Tensor", table(cast("Tensor", value)))
        rows = value.offsets.numel() - 1
        lengths = value.offsets.diff()
        row = torch.repeat_interleave(torch.arange(rows, device=lengths.device), lengths)
        vectors = table(value.values)
        summed = torch.zeros(rows, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
        return summed.index_add(0, row, vectors) / lengths.clamp(min=1).unsqueeze(1)


def _vocabularies(columns: Sequence[Column]) -> dict[str, int]:
    return {str(column.vocabulary): column.size or 1 for column in columns}


def _matrix(values: Tensor) -> Tensor:
    """(batch, length): a number is a list of one."""
    return values.unsqueeze(1) if values.dim() == 1 else values


def _dropped(values: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Dropout with draws of the step's own; none where nothing is learnt."""
    if generator is None or not share:
        return values
    kept = torch.rand(values.shape, generator=generator, device=values.device) >= share
    return values * kept / (1 - share)
