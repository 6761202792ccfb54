"""A row's columns as vectors of one width, as the models take them that look for crosses of columns.

Shape suffixes: B rows, F fields, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.models.inputs import Inputs
from training.schema import Schema
from training.tables.sharded import Tables

START_STD = 0.05  # of the vectors of numbers


class Fields(nn.Module):
    """A vector for each column that `Inputs` takes: an id's embedding, the mean of a list's, numbers times vectors.

    A number times a vector of its own is Rendle's way (2010): a field whose value is the number. A fixed list has a
    vector for each of its numbers, and their sum is one field.

    Args:
        schema: of the batches.
        table: makes the embedding tables, one a vocabulary.
        dim: width of the vectors.

    Attributes:
        names: the fields' columns, in their order.

    Raises:
        SchemaError: a list of numbers of any length, or nothing to learn from.
    """

    def __init__(self, schema: Schema, table: Tables, dim: int) -> None:
        super().__init__()
        self.inputs = Inputs(schema, table, dim)
        self.names = [column.name for column in self.inputs.columns]
        self.vectors = nn.ParameterList(torch.randn(length, dim) * START_STD for length in self.inputs.lengths)

    def forward(self, batch: Batch) -> Tensor:
        """(B, F, D)"""
        ids, numbers = self.inputs.apart(batch)
        return torch.stack([*ids, *(own @ vectors for own, vectors in zip(numbers, self.vectors, strict=True))], dim=1)
