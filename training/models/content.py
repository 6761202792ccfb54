"""What the attributes of items add to their vectors, so that an item is known before it was ever sold.

A value of an attribute (a brand, a word of a text) is a row of the attribute's table, a number a direction; a vector,
that of a text by a language model that stays as it is, goes through a matrix. An item's content is their sum, of a
list's values their mean, where each may count by a learnt weight of its kind, as a graph's neighbours do by the
relations that lead to them. Values that nobody knows, and attributes that are missing, add nothing.

Shape suffixes: U items, W places of all attributes together, N numbers, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Ragged
from training.errors import SchemaError
from training.models.draws import uniform
from training.schema import Column, Kind
from training.tables.sharded import Table, Tables


class Asked(NamedTuple):
    """Rows of an attribute's table that are looked up for some items.

    Attributes:
        table: the attribute's.
        values: the distinct rows.
        where: of each item, its rows among these.
    """

    table: Table
    values: Tensor
    where: Ragged


class ItemContent(nn.Module):
    """Tables of the schema's columns of items, and these columns themselves, as of the training cut.

    Args:
        columns: `Schema.of_items`.
        items: indices of the items' vocabulary.
        width: of what is added.
        given: each column's values, a row an item: (items,) or (items, length); None: zeros, for a state that is
            loaded afterwards.
        table: makes the tables.
        left_out: share of a step's items from which an attribute is left out while training, each attribute for
            itself, so that those which an item has learn to stand without the others (modality dropout, as ModDrop of
            Neverova et al. 2016). An item that would have none left keeps all.

    Raises:
        SchemaError: the values of a column are missing, or do not fit it.
    """

    places: Tensor
    numbers: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        items: int,
        width: int,
        given: Mapping[str, Tensor] | None,
        table: Tables,
        left_out: float = 0.0,
    ) -> None:
        super().__init__()
        self.left_out = left_out
        of_ids = [column for column in columns if column.kind is not Kind.DENSE]
        of_numbers = [column for column in columns if column.kind is Kind.DENSE]
        self.widths = [column.length or 1 for column in of_ids]
        self.weighed_by = {column.name: column.weighed_by for column in of_ids if column.weighed_by is not None}
        weights = {*self.weighed_by.values()}
        self.summed = [column.name for column in of_ids if column.name not in weights]
        # They start at zero: what no sale has taught adds nothing, and of a list's values each counts alike.
        self.tables = nn.ModuleDict(
            {
                column.name: table(column.name, column.size or 1, 1, padding_idx=0, dense=True)
                if column.name in weights
                else table(column.name, column.size or 1, width, padding_idx=0)
                for column in of_ids
            }
        )
        lengths = {column.name: () if column.length is None else (column.length,) for column in of_numbers}
        self.directions = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(*length, width)) for name, length in lengths.items()}
        )
        places = [_values(column, items, given).to(torch.int32) for column in of_ids]
        _refuse_apart(self.weighed_by, dict(zip(self.tables, places, strict=True)))
        numbers = [
            _values(column, items, given).float() if column.length is None else _centred(_values(column, items, given))
            for column in of_numbers
        ]
        self.lengths = [column.length or 1 for column in of_numbers]
        self.register_buffer("places", torch.cat([torch.zeros(items, 0, dtype=torch.int32), *places], dim=1))
        self.register_buffer("numbers", torch.cat([torch.zeros(items, 0), *numbers], dim=1))

    def asked(self, ids: Tensor) -> list[Asked]:
        """What is to be looked up for (U,) items."""
        found = []
        places_UW = self.places[ids].long()
        for table, own in zip(self.tables.values(), torch.split(places_UW, self.widths, dim=1), strict=True):
            values, where = torch.unique(own[own > 0], return_inverse=True)
            offsets = F.pad((own > 0).sum(dim=1).cumsum(0), (1, 0))
            found.append(Asked(cast(Table, table), values, Ragged(where, offsets)))
        return found

    def forward(
        self, ids: Tensor, asked: Sequence[Asked], found: Sequence[Tensor], generator: torch.Generator | None
    ) -> Tensor:
        """(U, E): what is added to the items' vectors.

        Args:
            ids: (U,)
            asked: what `asked` gave of them.
            found: the rows that were looked up, for each.
            generator: of what is left out.
        """
        numbers = self.numbers[ids]
        where = dict(zip(self.tables, (own.where for own in asked), strict=True))
        rows_of = dict(zip(self.tables, found, strict=True))
        parts = [_mean(where[name], rows_of[name], self._log_weights(name, where, rows_of)) for name in self.summed]
        if self.training and self.left_out > 0:
            kept = self._kept(where, numbers, generator)
            parts = [part * kept[name].to(part) for name, part in zip(self.summed, parts, strict=True)]
            numbers = numbers * torch.cat([numbers[:, :0], *self._spread(kept)], dim=1)
        if self.directions:
            with torch.autocast(ids.device.type, enabled=False):
                rows = [one.reshape(-1, one.shape[-1]) for one in self.directions.values()]
                parts.append(numbers @ torch.cat(rows))
        return torch.stack(parts).sum(dim=0)

    def _kept(
        self, where: Mapping[str, Ragged], numbers: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """(U, 1) bool of each attribute: whether it says something of an item, and stays."""
        names = [*self.summed, *self.directions]
        has = [where[name].offsets.diff() > 0 for name in self.summed]
        has += [(own != 0).any(dim=1) for own in torch.split(numbers, self.lengths, dim=1)]
        has_UM = torch.stack(has, dim=1)
        stays_UM = has_UM & (uniform(has_UM.shape, generator, has_UM.device) >= self.left_out)
        stays_UM = stays_UM | ~stays_UM.any(dim=1, keepdim=True)
        return dict(zip(names, torch.split(stays_UM, 1, dim=1), strict=True))

    def _spread(self, kept: Mapping[str, Tensor]) -> list[Tensor]:
        """(U, length) of each attribute that is a number or a vector."""
        return [kept[name].expand(-1, length) for name, length in zip(self.directions, self.lengths, strict=True)]

    def _log_weights(self, name: str, where: Mapping[str, Ragged], rows_of: Mapping[str, Tensor]) -> Tensor | None:
        """Of each value of a column's lists the logarithm of what it counts; None: all count alike."""
        by = self.weighed_by.get(name)
        return None if by is None else rows_of[by][where[by].values, 0]


def _mean(where: Ragged, rows: Tensor, log_weights: Tensor | None) -> Tensor:
    """(U, E): of each list the mean of its rows, zeros of none; by weights, which add up to 1 in each list."""
    if log_weights is None:
        return F.embedding_bag(where.values, rows, where.offsets, mode="mean", include_last_offset=True)
    items, own = len(where.offsets) - 1, torch.repeat_interleave(where.offsets.diff())
    highest = log_weights.new_zeros(items).scatter_reduce(0, own, log_weights.detach(), "amax", include_self=False)
    weights = torch.exp(log_weights - highest[own])
    shares = weights / weights.new_zeros(items).index_add(0, own, weights)[own]
    return F.embedding_bag(
        where.values, rows, where.offsets, mode="sum", per_sample_weights=shares, include_last_offset=True
    )


def known_by_ids(is_sold: Tensor, left_out: float, generator: torch.Generator | None) -> Tensor:
    """(U, 1) float: 1 where an item's own rows count beside its content, 0 where it is content alone.

    Args:
        is_sold: (U,) bool, whether there was something for them to learn.
        left_out: share of the others, whichever they are, whose own rows are left out too, so that content learns to
            stand alone (DropoutNet, Volkovs et al. 2017).
        generator: of what is drawn.
    """
    if left_out > 0:
        is_sold = is_sold & (uniform(is_sold.shape, generator, is_sold.device) >= left_out)
    return is_sold[:, None].float()


def _values(column: Column, items: int, given: Mapping[str, Tensor] | None) -> Tensor:
    """(items, length) of a column."""
    shape = (items,) if column.length is None else (items, column.length)
    values = torch.zeros(shape) if given is None else given.get(column.name)
    if values is None or values.shape != shape or not _fits(column, values):
        found = "nothing" if values is None else f"shape {tuple(values.shape)}, or values that do not fit"
        raise SchemaError(
            f"column '{column.name}' must say of each of {items} items {shape[1:] or 'one'} "
            f"{'finite numbers' if column.kind is Kind.DENSE else f'ids below {column.size}'}; got {found}; build the "
            "catalogue and the examples together"
        )
    return values.reshape(items, -1)


def _centred(vectors: Tensor) -> Tensor:
    """Vectors less their mean, and of length 1 on the mean: what all of them share tells no item from another, and
    vectors of any model teach as fast. Zeros are no vector: they stay, and count for neither."""
    if vectors.is_meta:
        return vectors.float()
    there = (vectors != 0).any(dim=1, keepdim=True)
    count = there.sum().clamp(min=1)
    vectors = vectors.float() / vectors.abs().amax().float().clamp(min=1e-30)
    moved = (vectors - vectors.sum(dim=0) / count) * there
    usual, length = ((each.square().sum() / count).sqrt() for each in (vectors, moved))
    return torch.where(length > 1e-5 * usual, moved / length, torch.zeros_like(moved))  # else all but rounding is one


def _refuse_apart(weighed_by: Mapping[str, str], places: Mapping[str, Tensor]) -> None:
    for name, by in weighed_by.items():
        if not places[name].is_meta and not torch.equal(places[name] > 0, places[by] > 0):
            raise SchemaError(
                f"columns '{name}' and '{by}' must have values at the same places of an item, as the one weighs the "
                "other; they have not: build the catalogue and the examples together"
            )


def _fits(column: Column, values: Tensor) -> bool:
    if values.is_meta or not values.numel():
        return True
    lowest, highest = torch.aminmax(values)
    if column.kind is Kind.DENSE:
        return bool(torch.isfinite(lowest) & torch.isfinite(highest))
    return bool((lowest >= 0) & (highest < (column.size or 1)))
