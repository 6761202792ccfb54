"""A network for rows: ids by embeddings, numbers standardised (training/models/inputs.py), a label that is yes or no.

logit = w . input + MLP(input)
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor

from training.batch import Batch
from training.configs import ModelConfig, RowMlpConfig
from training.models.inputs import Inputs, WideAndDeep
from training.models.rows import RowModel
from training.schema import Schema
from training.tables.sharded import Tables


class RowMlp(RowModel):
    """A linear map and a network, added up."""

    Config: ClassVar[type[ModelConfig]] = RowMlpConfig

    config: RowMlpConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.inputs = Inputs(schema, self.table, self.config.dim)
        self.network = WideAndDeep(
            self.inputs.width, self.config.hidden, self.config.dropout, [self.config.first_logit]
        )

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        return cast("Tensor", self.network(self.inputs(batch), generator)).squeeze(1)
