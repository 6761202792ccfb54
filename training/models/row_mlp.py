"""A network for rows: ids by embeddings, numbers standardised (training/models/inputs.py), a label that is yes or no.

logit = w . input + MLP(input)
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig, RowMlpConfig
from training.models.base import Model
from training.models.inputs import Inputs, WideAndDeep, only_label, only_weight
from training.schema import Schema
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
        self._label, weight = only_label(schema, "row_mlp").name, only_weight(schema)
        self._weight = weight.name if weight else None
        self.inputs = Inputs(schema, self.table, self.config.dim)
        self.network = WideAndDeep(
            self.inputs.width, self.config.hidden, self.config.dropout, [self.config.start_logit]
        )

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        logit, label = self._logit(batch, generator), cast("Tensor", batch[self._label])
        weight = torch.ones_like(label) if self._weight is None else cast("Tensor", batch[self._weight])
        weight = weight * torch.where(label > 0.5, self.config.positive_weight, 1.0)
        each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        if self.config.focal:
            each = each * (1 - torch.exp(-each)) ** self.config.focal
        return (each * weight).sum(), weight.sum()

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`p` (batch,): the probability that the label is 1, as if all rows counted alike."""
        logit = self._logit(batch, None)
        return {"p": torch.sigmoid(logit - torch.log(torch.tensor(self.config.positive_weight)))}

    def _logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        return cast("Tensor", self.network(self.inputs(batch), generator)).squeeze(1)
