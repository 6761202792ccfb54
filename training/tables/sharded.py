"""Embedding tables dealt out over ranks by row, so that a table is bounded by the sum of the ranks' memory.

A lookup removes duplicates, asks the owners by all-to-all and gets the rows back; `look_up` does so for many tables at
once, in the same two collectives. Its backward pass only leaves the rows' gradients with the lookup; they travel to the
owners, those of all tables together, in `training.step.sync.Synchroniser`, which every rank reaches, also one whose
loss had no gradient. There they become a coalesced sparse gradient of the owner's rows, so that an optimizer updates
only the rows used, on the rank that holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import DataError
from training.tables.rows import add_rows, fill_rows, rows_held, sparse_gradient
from training.tables.travel import send_rows, send_values
from training.world import World

PIECE_BYTES = 32 * 2**20  # what a rank sends at a time where a whole table is gathered

Rows = tuple[Tensor, Tensor]


class ShardedEmbedding(nn.Module):
    """An embedding table of which each rank holds the rows i with i % ranks == rank, as its row i // ranks.

    With the same rows, ids and gradients it gives the same numbers as `nn.Embedding(sparse=True)`. A lookup is a
    collective: all ranks make the same lookups in the same order, an empty batch's too.

    Args:
        rows: of the whole table.
        dimension: width of a row.
        world: the ranks.
        name: of the table; names its collectives, and decides its initial values together with the seed.
        std: standard deviation of the initial values.
        seed: of the training.
        padding_idx: a row that starts at zero and gets no gradient.
    """

    sparse = True

    def __init__(
        self,
        rows: int,
        dimension: int,
        world: World,
        *,
        name: str,
        std: float = 0.0,
        seed: int = 0,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, dimension, padding_idx
        self.world, self.name = world, name
        self._stride = rows_held(rows, 0, world.size)  # keys of a rank start at a multiple of it
        self._lookups: list[Rows] = []
        self.weight = nn.Parameter(torch.empty(rows_held(rows, world.rank, world.size), dimension))
        fill_rows(self.weight, std=std, seed=seed, name=name, rank=world.rank, ranks=world.size)
        if padding_idx is not None and padding_idx % world.size == world.rank:
            with torch.no_grad():
                self.weight[padding_idx // world.size] = 0.0

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, rank {self.world.rank} of {self.world.size}"

    def forward(self, ids: Tensor) -> Tensor:
        """(..., dimension) rows of ids of any shape; `look_up` brings those of several tables together.

        Raises:
            DataError: an id outside the table; raised before anything is sent, so that no rank waits for this one.
        """
        return look_up((self, ids))[0]

    def keys(self, ids: Tensor) -> Tensor:
        """A number per row that sorts by owner, then by the owner's row: owner x stride + row.

        Raises:
            DataError: an id outside the table.
        """
        if ids.numel():
            lowest, highest = (int(bound) for bound in torch.aminmax(ids))
            if lowest < 0 or highest >= self.num_embeddings:
                wrong = lowest if lowest < 0 else highest
                raise DataError(
                    f"ids looked up in table '{self.name}' must be at least 0 and below its {self.num_embeddings} "
                    f"rows; rank {self.world.rank} got {wrong}; build the examples and the vocabulary together"
                )
        return self._key(ids)

    def _key(self, ids: Tensor) -> Tensor:
        return ids % self.world.size * self._stride + ids // self.world.size

    def rows_of(self, keys: Tensor) -> Tensor:
        """Where their owners hold the rows of keys."""
        return keys % self._stride

    def counts(self, keys: Tensor) -> Tensor:
        """(ranks,) on the CPU: how many of the sorted keys belong to each rank."""
        starts = torch.arange(self.world.size + 1, device=keys.device) * self._stride
        return torch.searchsorted(keys, starts).diff().cpu()

    def keep(self, keys: Tensor, rows: Tensor) -> None:
        """Have the backward pass leave the gradients of rows that were looked up with them, for `take_gradient`."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            rows.requires_grad_()
            self._lookups.append((keys, rows))

    def take_gradient(self) -> Rows | None:
        """The keys and gradients of the rows used since the last call; None where no backward pass came here."""
        used = [(keys, rows.grad) for keys, rows in self._lookups if rows.grad is not None]
        self._lookups = []
        if not used:
            return None
        keys, values = used[0] if len(used) == 1 else add_rows(used, self._stride * self.world.size)
        if self.padding_idx is not None:
            kept = keys != self._key(torch.tensor(self.padding_idx, device=keys.device))
            keys, values = keys[kept], values[kept]
        return keys, values

    def no_rows(self) -> Rows:
        """The keys and gradients of no rows."""
        device = self.weight.device
        return torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, self.embedding_dim, device=device)

    @torch.no_grad()
    def pieces(self) -> Iterator[Tensor]:
        """The whole table's rows in order, in bounded pieces, on rank 0; as many empty ones elsewhere.

        A collective: all ranks must go to the end.
        """
        world = self.world
        step = max(1, PIECE_BYTES // (self.embedding_dim * self.weight.element_size()))
        for first in range(0, self._stride, step):
            held = self.weight[first : first + step].cpu()
            splits = torch.zeros(world.size, dtype=torch.int64)
            splits[0] = len(held)
            received, counts = world.all_to_all(held, splits, f"{self.name} pieces")
            piece = torch.empty_like(received)
            if world.rank == 0:
                for rank, part in enumerate(torch.split(received, counts.tolist())):
                    piece[rank :: world.size] = part
            yield piece


def sharded_tables(model: nn.Module) -> dict[str, ShardedEmbedding]:
    """A model's sharded tables by the name of their weight in its `state_dict`."""
    tables: dict[str, ShardedEmbedding] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ShardedEmbedding):
            tables[f"{name}.weight" if name else "weight"] = module
    return tables


def used_rows(model: nn.Module) -> dict[str, Tensor]:
    """This rank's rows of its sharded tables that have a gradient, by the name of the weight."""
    gradients = {name: table.weight.grad for name, table in sharded_tables(model).items()}
    return {name: gradient._indices()[0] for name, gradient in gradients.items() if gradient is not None}


Table = nn.Embedding | ShardedEmbedding


def look_up(*asked: tuple[Table, Tensor]) -> list[Tensor]:
    """The rows of tables, (..., dimension) each, for ids of any shape; a table may be asked twice.

    Those of sharded tables travel together. The call is a collective then: all ranks ask the same tables in the same
    order, for an empty batch too.

    Raises:
        DataError: an id outside a sharded table; raised before anything is sent, so that no rank waits for this one.
    """
    found = {number: table(ids) for number, (table, ids) in enumerate(asked) if not isinstance(table, ShardedEmbedding)}
    ours: dict[ShardedEmbedding, list[int]] = {}
    for number, (table, _) in enumerate(asked):
        if isinstance(table, ShardedEmbedding):
            ours.setdefault(table, []).append(number)
    places = []
    for table, numbers in ours.items():
        ids = torch.cat([asked[number][1].reshape(-1) for number in numbers])
        places.append(torch.unique(table.keys(ids), return_inverse=True))
    fetched = _fetch(list(ours), [keys for keys, _ in places]) if ours else []
    for (table, numbers), (keys, where), rows in zip(ours.items(), places, fetched, strict=True):
        table.keep(keys, rows)
        shapes = [asked[number][1].shape for number in numbers]
        for number, shape, own in zip(numbers, shapes, where.split([shape.numel() for shape in shapes]), strict=True):
            found[number] = F.embedding(own.view(shape), rows)
    return [found[number] for number in range(len(asked))]


def _fetch(tables: Sequence[ShardedEmbedding], keys: Sequence[Tensor]) -> list[Tensor]:
    """The rows of each table's sorted, distinct keys, from their owners."""
    world, names = tables[0].world, _names(tables)
    counts = torch.stack([table.counts(own) for table, own in zip(tables, keys, strict=True)])
    rows = [table.rows_of(own) for table, own in zip(tables, keys, strict=True)]
    asked, asked_counts = send_rows(rows, counts, world, f"{names} ids")()
    held = [table.weight.detach().index_select(0, torch.cat(own)) for table, own in zip(tables, asked, strict=True)]
    return [torch.cat(parts) for parts in send_values(held, asked_counts, world, f"{names} rows")(counts)]


def exchange_gradients(
    tables: Sequence[ShardedEmbedding], gradients: Sequence[Rows | None], factor: float, wire: torch.dtype | None
) -> None:
    """Bring the gradients of tables' rows, times a factor, to their owners, together, and set each `weight.grad`.

    Args:
        tables: the same on all ranks, in the same order.
        gradients: what `take_gradient` gave of each; None sends nothing, but takes part.
        factor: what they are multiplied by.
        wire: type in which values travel; None leaves them as they are. Sums are formed in float32, in rank order.
    """
    if not tables:
        return
    world, names = tables[0].world, _names(tables)
    held = [own or table.no_rows() for table, own in zip(tables, gradients, strict=True)]
    counts = torch.stack([table.counts(keys) for table, (keys, _) in zip(tables, held, strict=True)])
    rows = [table.rows_of(keys) for table, (keys, _) in zip(tables, held, strict=True)]
    wait_rows = send_rows(rows, counts, world, f"{names} gradient rows")
    wait_values = send_values([own * factor for _, own in held], counts, world, f"{names} gradient values", wire)
    by_rank, received = wait_rows()
    for table, own_rows, values in zip(tables, by_rank, wait_values(received), strict=True):
        contributions = list(zip(own_rows, values, strict=True))
        table.weight.grad = sparse_gradient(*add_rows(contributions, table.weight.shape[0]), table.weight)


def _names(tables: Sequence[ShardedEmbedding]) -> str:
    return ", ".join(table.name for table in tables)


@dataclass(frozen=True)
class Tables:
    """Makes a model's embedding tables: whole on every rank, or sharded where they are large.

    Both start with the same values, and give the same numbers.

    Attributes:
        world: the ranks.
        shard_above_mb: megabytes (10**6 bytes of float32) above which a table is sharded; None shards none.
        seed: of the training.
    """

    world: World = field(default_factory=World)
    shard_above_mb: float | None = None
    seed: int = 0

    def __call__(
        self,
        name: str,
        rows: int,
        dimension: int,
        *,
        std: float = 0.0,
        padding_idx: int | None = None,
        dense: bool = False,
    ) -> Table:
        """A table; its gradient is sparse, and an optimizer of embeddings updates the rows in use.

        Args:
            name: of the table, within the model.
            rows: number of ids.
            dimension: width of a row.
            std: standard deviation of the initial values; 0 starts at zero.
            padding_idx: a row that starts at zero and gets no gradient.
            dense: for a few rows, as weekdays: they learn as a layer's weights do, by the dense optimizer with its
                weight decay, from a gradient that travels among the layers'. Such a table is never sharded.
        """
        if not dense and self.shard_above_mb is not None and 4e-6 * rows * dimension > self.shard_above_mb:
            return ShardedEmbedding(
                rows, dimension, self.world, name=name, std=std, seed=self.seed, padding_idx=padding_idx
            )
        weight = torch.zeros(rows, dimension)
        if std:
            fill_rows(weight, std=std, seed=self.seed, name=name)
        if padding_idx is not None:
            weight[padding_idx] = 0.0
        return nn.Embedding(rows, dimension, padding_idx=padding_idx, sparse=not dense, _weight=weight)
