"""The published models of rows with a label of 0 and 1, over fields (training/models/fields.py).

They differ in how fields act on each other (training/models/interactions.py).

Shape suffixes: B rows, F fields, D width of a field.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SchemaError, SettingsError
from training.models.fields import Fields
from training.models.inputs import Inputs, Layers
from training.models.interactions import Crosses, Fusion, Gates, dots, pairs
from training.models.rows import RowModel
from training.row_configs import (
    DcnV2Config,
    DeepFmConfig,
    DlrmConfig,
    FinalMlpConfig,
    FmConfig,
    LogisticRegressionConfig,
)
from training.schema import Schema
from training.tables.sharded import Tables


class LogisticRegression(RowModel):
    """logit = b + sum of w_i x_i: each id and each number by itself."""

    Config: ClassVar[type[ModelConfig]] = LogisticRegressionConfig

    config: LogisticRegressionConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.fields = Fields(schema, self.table, 1)
        self.start = nn.Parameter(torch.tensor([self.config.first_logit]))

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        return self.start + cast("Tensor", self.fields(batch)).sum((1, 2))


class Fm(RowModel):
    """Factorisation machine (Rendle 2010): logistic regression, and <v_i, v_j> x_i x_j of each pair of fields.

    A field's own weight is the last component of its row in the table, so that both come by one lookup.
    """

    Config: ClassVar[type[ModelConfig]] = FmConfig

    config: FmConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.fields = Fields(schema, self.table, self.config.dim + 1)
        self.start = nn.Parameter(torch.tensor([self.config.first_logit]))

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:  # noqa: ARG002
        return self._by_pairs(self.fields(batch))

    def _by_pairs(self, found_BFD: Tensor) -> Tensor:
        return self.start + found_BFD[..., -1].sum(1) + pairs(found_BFD[..., :-1])


class DeepFm(Fm):
    """DeepFM (Guo et al. 2017): a factorisation machine and a network of the same vectors, added up."""

    Config: ClassVar[type[ModelConfig]] = DeepFmConfig

    config: DeepFmConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        width = self.config.dim * len(self.fields.names)
        self.deep = Layers(width, self.config.hidden, self.config.dropout, [0.0])

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        found_BFD: Tensor = self.fields(batch)
        deep: Tensor = self.deep(found_BFD[..., :-1].flatten(1), generator)
        return self._by_pairs(found_BFD) + deep.squeeze(1)


class Dlrm(RowModel):
    """DLRM (Naumov et al. 2019): all numbers become one vector, and a network has it and the vectors' inner products.

    Without numbers the network has the products alone; without ids, the vector alone.
    """

    Config: ClassVar[type[ModelConfig]] = DlrmConfig

    config: DlrmConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        dim, dropout = self.config.dim, self.config.dropout
        self.inputs = Inputs(schema, self.table, dim)
        numbers = sum(self.inputs.lengths)
        count = len(self.inputs.columns) - len(self.inputs.lengths) + bool(numbers)
        self.bottom = Layers(numbers, (*self.config.bottom, dim), dropout) if numbers else None
        width = count * (count - 1) // 2 + dim * bool(numbers)
        if not width:
            raise SchemaError("dlrm needs two columns of ids, or numbers: there is nothing to multiply with each other")
        self.top = Layers(width, self.config.hidden, dropout, [self.config.first_logit])

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        ids, numbers = self.inputs.apart(batch)
        bottom = [] if self.bottom is None else [self.bottom(torch.cat(numbers, dim=1), generator)]
        crossed = dots(torch.stack([*bottom, *ids], dim=1))
        return cast("Tensor", self.top(torch.cat([*bottom, crossed], dim=1), generator)).squeeze(1)


class DcnV2(RowModel):
    """DCN-V2 (Wang et al. 2021): cross layers beside a network; a linear map has what both give."""

    Config: ClassVar[type[ModelConfig]] = DcnV2Config

    config: DcnV2Config

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.fields = Fields(schema, self.table, self.config.dim)
        width = self.config.dim * len(self.fields.names)
        self.crosses = Crosses(width, self.config.crosses, self.config.rank)
        self.deep = Layers(width, self.config.hidden, self.config.dropout)
        self.last = Layers(width + self.deep.width, (), 0.0, [self.config.first_logit])

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        rows = cast("Tensor", self.fields(batch)).flatten(1)
        both = torch.cat([self.crosses(rows), self.deep(rows, generator)], dim=1)
        return cast("Tensor", self.last(both, None)).squeeze(1)


class FinalMlp(RowModel):
    """FinalMLP (Mao et al. 2023): two networks of the same fields, each with gates of its own, and a bilinear fusion.

    Raises:
        SchemaError: as every model of rows.
        SettingsError: a column of the gates is none of the schema's.
    """

    Config: ClassVar[type[ModelConfig]] = FinalMlpConfig

    config: FinalMlpConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.fields = Fields(schema, self.table, self.config.dim)
        self.gates = nn.ModuleList([self._gates("first_gates"), self._gates("second_gates")])
        width = self.config.dim * len(self.fields.names)
        streams = [
            Layers(width, hidden, self.config.dropout) for hidden in (self.config.hidden, self.config.second_hidden)
        ]
        self.streams = nn.ModuleList(streams)
        self.fusion = Fusion(streams[0].width, streams[1].width, self.config.heads, self.config.first_logit)

    def _gates(self, setting: str) -> nn.Module:
        context: tuple[str, ...] = getattr(self.config, setting)
        unknown = [name for name in context if name not in self.fields.names]
        if unknown:
            raise SettingsError(
                f"model.{setting} must name columns that the model takes in, {', '.join(self.fields.names)}; "
                f"got {unknown}"
            )
        return Gates(self.fields.names, list(context), self.config.dim) if context else nn.Flatten()

    def logit(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        found_BFD = self.fields(batch)
        both = [stream(gates(found_BFD), generator) for gates, stream in zip(self.gates, self.streams, strict=True)]
        return cast("Tensor", self.fusion(*both))
