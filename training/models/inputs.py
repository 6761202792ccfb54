"""What models of rows and panels take in: ids by embeddings, lists of ids by their mean, numbers standardised.

Numbers pass through sign(x) log(1 + |x|), as counts and amounts have long tails, and are standardised: while training
by the rows of all ranks' batches together, so that the number of ranks changes nothing, else by what was seen then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from training.batch import Batch, Ragged
from training.errors import SchemaError
from training.models.draws import dropped
from training.schema import Column, Kind, Schema
from training.tables.sharded import Table, Tables, look_up
from training.world import World

MOMENTUM = 0.02  # share of a step's batches in the running statistics
LEAST_VARIANCE = 1e-5


class Inputs(nn.Module):
    """A batch's columns of kind ID, IDS and DENSE (a number, or a fixed list) as one vector a row.

    Args:
        schema: of the batches.
        table: makes the embedding tables, one a vocabulary.
        dim: embedding width.

    Attributes:
        columns: in the order in which they make up a vector: ids, then numbers.
        lengths: of the columns of numbers.
        width: of the vectors.

    Raises:
        SchemaError: a list of numbers of any length, or nothing to learn from.
    """

    def __init__(self, schema: Schema, table: Tables, dim: int) -> None:
        super().__init__()
        self.columns = taken_in(schema)
        self._ids = [column for column in self.columns if column.kind is not Kind.DENSE]
        self._numbers = [column for column in self.columns if column.kind is Kind.DENSE]
        ragged = [column.name for column in self._numbers if column.ragged]
        if ragged or not (self._ids or self._numbers):
            raise SchemaError(
                "a model of rows needs ids, numbers or fixed lists of numbers; the schema has the lists of any length "
                f"{ragged}; take another model, or other columns"
            )
        self.tables = nn.ModuleDict(
            {_key(name): table(name, size, dim, std=0.01) for name, size in _vocabularies(self._ids).items()}
        )
        self.lengths = [column.length or 1 for column in self._numbers]
        self.standard = Standard(sum(self.lengths), table.world) if self.lengths else None
        self.width = dim * len(self._ids) + sum(self.lengths)

    def forward(self, batch: Batch) -> Tensor:
        """(batch, width)"""
        ids, numbers = self.apart(batch)
        return torch.cat([*ids, *numbers], dim=1)

    def apart(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """What `forward` joins: (batch, dim) for each column of ids, and (batch, numbers) for each of numbers."""
        ids = [cast("Tensor | Ragged", batch[column.name]) for column in self._ids]
        tables = [cast("Table", self.tables[_key(str(column.vocabulary))]) for column in self._ids]
        flat = [own.values if isinstance(own, Ragged) else own for own in ids]
        rows = look_up(*zip(tables, flat, strict=True))
        parts = [_pooled(own, vectors) for own, vectors in zip(ids, rows, strict=True)]
        if self.standard is None:
            return parts, []
        numbers = torch.cat([matrix(batch[column.name]) for column in self._numbers], dim=1)
        standard = self.standard(torch.sign(numbers) * torch.log1p(numbers.abs()))
        return parts, list(standard.split(self.lengths, dim=1))


class Standard(nn.Module):
    """Numbers less their mean, over their standard deviation, as BatchNorm does it, of all ranks' rows together.

    The running statistics begin with those of the first step, so that they are nobody's guess after a few steps either.
    While training a call is a collective: every rank makes it, with no rows too. Less than two rows in all have no
    variance, and go by the running statistics.

    Args:
        width: numbers of a row.
        world: the ranks.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self._world = world
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        """(batch, width)"""
        mean, variance = self._seen(values) if self.training else (self.running_mean, self.running_var)
        return (values - mean) * torch.rsqrt(variance + LEAST_VARIANCE)

    @torch.no_grad()
    def _seen(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the ranks' batches; they go into the running statistics."""
        exact, rows = values.double(), len(values)
        sums = torch.stack([exact.sum(0), exact.square().sum(0)])
        if self._world.size > 1:
            counted = torch.cat([sums.flatten().cpu(), torch.tensor([float(rows)], dtype=torch.float64)])
            counted = self._world.all_reduce_sum(counted, "statistics of inputs")
            rows, sums = int(counted[-1]), counted[:-1].reshape(sums.shape).to(values.device)
        if rows < 2:
            return self.running_mean, self.running_var
        mean = sums[0] / rows
        variance = (sums[1] / rows - mean.square()).clamp(min=0)
        share = torch.where(self._is_fresh(), 1.0, MOMENTUM)
        self.running_mean.lerp_(mean.float(), share)
        self.running_var.lerp_((variance * rows / (rows - 1)).float(), share)
        return mean.float(), variance.float()

    def _is_fresh(self) -> Tensor:
        """Whether the running statistics are still those that it was made with; on the device, nobody waits for it."""
        return (self.running_mean == 0).all() & (self.running_var == 1).all()


class Layers(nn.ModuleList):
    """Linear layers, each with a ReLU and dropout behind it.

    Args:
        width: of the input.
        hidden: widths of the layers; none: the input stays as it is.
        dropout: of their components.
        start: (outputs,) with a last linear layer that gives these before training; none: no such layer.

    Attributes:
        width: of the output.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float, start: Sequence[float] = ()) -> None:
        layers: list[nn.Module] = []
        for after in hidden:
            layers += [nn.Linear(width, after), nn.ReLU(), nn.Dropout(dropout)]
            width = after
        if start:
            last = nn.Linear(width, len(start))
            nn.init.zeros_(last.weight)
            with torch.no_grad():
                last.bias.copy_(torch.tensor(start))
            layers.append(last)
        super().__init__(layers)
        self.width = len(start) or width

    def forward(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """(batch, outputs); what is dropped is drawn from the generator, and nothing is without one."""
        for layer in self:
            rows = dropped(rows, layer.p, generator) if isinstance(layer, nn.Dropout) else layer(rows)
        return rows


class WideAndDeep(nn.Module):
    """A linear map and a network beside it, added up: the first learns what a rule would say from the first steps on.

    Args:
        width: of the input.
        hidden: widths of the network's layers.
        dropout: of their components.
        start: (outputs,) what both together give before training.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float, start: Sequence[float]) -> None:
        super().__init__()
        self.deep = Layers(width, hidden, dropout, start)
        self.linear = nn.Linear(width, len(start), bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """(batch, outputs); what is dropped is drawn from the generator, and nothing is without one."""
        return cast("Tensor", self.deep(rows, generator) + self.linear(rows))


def taken_in(schema: Schema) -> tuple[Column, ...]:
    """A schema's columns that `Inputs` takes, in its order."""
    return tuple(column for kind in (Kind.ID, Kind.IDS, Kind.DENSE) for column in schema if column.kind is kind)


def only_label(schema: Schema, model: str) -> Column:
    """The schema's one label.

    Raises:
        SchemaError: it has none, or several.
    """
    labels = [column for column in schema if column.kind is Kind.LABEL]
    if len(labels) != 1:
        raise SchemaError(
            f"{model} needs one label; the schema has the labels {[label.name for label in labels]}; take another "
            "model, or other columns"
        )
    return labels[0]


def only_weight(schema: Schema, model: str) -> Column | None:
    """The schema's weight, if it has one.

    Raises:
        SchemaError: it has several.
    """
    weights = [column for column in schema if column.kind is Kind.WEIGHT]
    if len(weights) > 1:
        raise SchemaError(
            f"{model} takes one weight at most; the schema has the weights {[weight.name for weight in weights]}; take "
            "another model, or other columns"
        )
    return weights[0] if weights else None


def number_of_a_row(column: Column, model: str) -> None:
    """See that a label or a weight is one number a row.

    Raises:
        SchemaError: it is a list.
    """
    if column.ragged or column.length is not None:
        form = "a list of any length" if column.ragged else f"a list of {column.length}"
        raise SchemaError(
            f"{column.kind} '{column.name}' of {model} must be one number a row; the schema has {form}; take another "
            "model, or give it one number"
        )


def only_position(schema: Schema) -> Column | None:
    """The schema's column of places, if it has one.

    Raises:
        SchemaError: it has several.
    """
    places = [column for column in schema if column.kind is Kind.POSITION]
    if len(places) > 1:
        raise SchemaError(f"a row is shown at one place; the schema has the places {[own.name for own in places]}")
    return places[0] if places else None


def matrix(values: object) -> Tensor:
    """(batch, length): a number is a list of one."""
    held = cast("Tensor", values)
    return held.unsqueeze(1) if held.dim() == 1 else held


def _vocabularies(columns: Sequence[Column]) -> dict[str, int]:
    return {str(column.vocabulary): column.size or 1 for column in columns}


def _key(vocabulary: str) -> str:
    """What a vocabulary's table is called among the modules: as the vocabulary, where torch has not taken the name."""
    return f"{vocabulary} ids" if hasattr(nn.ModuleDict(), vocabulary) else vocabulary


def _pooled(ids: Tensor | Ragged, vectors: Tensor) -> Tensor:
    """(batch, dim): the embedding of an id, or the mean of a list's."""
    if not isinstance(ids, Ragged):
        return vectors
    rows = ids.offsets.numel() - 1
    lengths = ids.offsets.diff()
    row = torch.repeat_interleave(torch.arange(rows, device=lengths.device), lengths)
    summed = torch.zeros(rows, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    return summed.index_add(0, row, vectors) / lengths.clamp(min=1).unsqueeze(1)
