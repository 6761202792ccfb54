"""Gradients across ranks: after `synchronise`, every rank holds the gradient of the global weighted mean loss.

A step costs at most four collectives. First a small header: each rank's loss and weight, and for each parameter whether
it has a gradient here and how many rows. From it every rank knows the same, so all take the same way: a rank with an
empty batch sends nothing and hangs nobody. Then dense gradients travel joined in one buffer; sparse ones (embedding
rows, de-duplicated here first) travel as rows, or within the dense buffer where that costs less. The gradients
of sharded tables' rows go to the ranks that hold them, in two more collectives a table.

Sums run in rank order or in Gloo's fixed ring order, so one seed gives the same bits each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from training.rows import add_rows, sparse_gradient
from training.sharded import exchange_gradients, sharded_tables
from training.world import World

Compression = Literal["none", "fp16", "bf16"]
_WIRE = {"fp16": torch.float16, "bf16": torch.bfloat16}
_HEADER = 5  # loss, weight, rows, stop, save; after them two figures a parameter
_NO_GRADIENT, _DENSE, _SPARSE = 0, 1, 2


class Totals(NamedTuple):
    """What the ranks know together about a step.

    Attributes:
        loss: sum of the weighted losses over all ranks; not finite where any rank's is not.
        weight: sum of the weights over all ranks.
        rows: number of rows over all ranks.
        stop: whether any rank asked to stop.
        save: whether any rank asked for a checkpoint.
    """

    loss: float
    weight: float
    rows: int
    stop: bool
    save: bool

    @property
    def usable(self) -> bool:
        """Whether the step has a gradient at all: a finite loss, of rows that weigh something."""
        return math.isfinite(self.loss) and math.isfinite(self.weight) and self.weight > 0


@dataclass
class _Part:
    """One parameter's gradient on its way."""

    parameter: nn.Parameter
    rows: list[int] = field(default_factory=list)  # sparse: rows on each rank
    gradient: Tensor | None = None


def rows_are_cheaper(total_rows: int, table_rows: int, dimension: int, value_bytes: int = 4) -> bool:
    """Whether gathering rows costs less than summing the whole table.

    Args:
        total_rows: rows with a gradient, added up over ranks after each removed its own duplicates.
        table_rows: rows of the table.
        dimension: width of a row.
        value_bytes: bytes of a value on the wire.

    A gathered row brings its values and its index (8 bytes) to every rank, where adding it to the others costs as much
    again; a ring sum moves the table twice, and a mark a row with it.
    """
    return 2 * total_rows * (value_bytes * dimension + 8) < 2 * table_rows * value_bytes * (dimension + 1)


class Synchroniser:
    """Averages the gradients of a model's parameters over a world.

    Args:
        model: its parameters must be the same, in the same order, on all ranks.
        world: the ranks.
        compression: type in which gradients travel; sums are always formed in float32.

    Attributes:
        shared: the parameters that are the same on all ranks.
        local: the weights of sharded tables, of which each rank holds other rows.
    """

    def __init__(self, model: nn.Module, world: World, compression: Compression = "none") -> None:
        self._world = world
        self._tables = list(dict.fromkeys(sharded_tables(model).values()))
        self.local = [table.weight for table in self._tables if table.weight.requires_grad]
        held_here = set(map(id, self.local))
        self.shared = [p for p in model.parameters() if p.requires_grad and id(p) not in held_here]
        self._wire = _WIRE.get(compression) if world.size > 1 else None

    def synchronise(
        self, loss: float, weight: float, rows: int = 0, *, stop: bool = False, save: bool = False
    ) -> Totals:
        """Replace each `.grad`, a gradient of this rank's loss sum, by that of the mean over all ranks' rows.

        Sparse gradients come back coalesced. A parameter that has no gradient on any rank keeps None. Where the loss
        is not finite on any rank, or the weights add up to nothing, gradients are dropped and nothing is exchanged.

        Args:
            loss: sum of the weighted losses of this rank's rows since the last call.
            weight: sum of their weights.
            rows: their number.
            stop: ask all ranks to stop.
            save: ask all ranks for a checkpoint.
        """
        for parameter in self.shared:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        lookups = [table.take_gradient() for table in self._tables]
        headers = self._gather_headers([loss, weight, rows, stop, save], [found is not None for found in lookups])
        sums = headers[:, :_HEADER].sum(0).tolist()
        totals = Totals(sums[0], sums[1], int(sums[2]), sums[3] > 0, sums[4] > 0)
        if not totals.usable:
            for parameter in self.shared:
                parameter.grad = None
            return totals
        scale_gradients(self.shared, 1.0 / totals.weight)
        if self._world.size > 1:
            self._exchange(headers[:, _HEADER:].long())
        used = headers[:, headers.shape[1] - len(lookups) :].any(0).tolist()
        used_tables = [table for table, is_used in zip(self._tables, used, strict=True) if is_used]
        used_rows = [found for found, is_used in zip(lookups, used, strict=True) if is_used]
        exchange_gradients(used_tables, used_rows, 1.0 / totals.weight, self._wire)
        return totals

    def _gather_headers(self, figures: list[float], used: list[bool]) -> Tensor:
        """(ranks, 5 + 2 * shared parameters + sharded tables) float64, the same on all ranks."""
        for parameter in self.shared:
            gradient = parameter.grad
            if gradient is None:
                figures += [_NO_GRADIENT, 0]
            else:
                figures += [_SPARSE, gradient._nnz()] if gradient.is_sparse else [_DENSE, 0]
        mine = torch.tensor([*figures, *used], dtype=torch.float64)
        return self._world.all_gather(mine, "gradient header").reshape(self._world.size, -1)

    def _exchange(self, headers: Tensor) -> None:
        """Sum the gradients over ranks; `headers` is (ranks, 2 * parameters or more): kind and rows of each."""
        joined: list[_Part] = []
        gathered: list[_Part] = []
        for number, parameter in enumerate(self.shared):
            kinds, rows = headers[:, 2 * number], headers[:, 2 * number + 1]
            if not kinds.any():
                continue
            part = _Part(parameter, rows.tolist() if not (kinds == _DENSE).any() else [], parameter.grad)
            as_rows = part.rows and rows_are_cheaper(
                int(rows.sum()), parameter.shape[0], parameter[0].numel(), self._wire.itemsize if self._wire else 4
            )
            (gathered if as_rows else joined).append(part)
        finish_rows = self._start_rows(gathered) if gathered else None
        if joined:
            self._sum_joined(joined)
        if finish_rows:
            finish_rows()

    def _start_rows(self, parts: list[_Part]) -> Callable[[], None]:
        """Start gathering all sparse gradients' rows in two collectives; returns what waits and puts them in place."""
        indices, values = [], []
        for part in parts:
            if part.gradient is not None:
                indices.append(part.gradient._indices()[0])
                values.append(part.gradient._values().reshape(-1))
        device = parts[0].parameter.device
        my_indices = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.int64, device=device)
        my_values = torch.cat(values) if values else torch.zeros(0, device=device)
        if self._wire:
            my_values = my_values.to(self._wire).view(torch.uint8)
        wait_indices = self._world.all_gather_start(my_indices, "gradient rows")
        wait_values = self._world.all_gather_start(my_values, "gradient values")

        def finish() -> None:
            all_values = wait_values()
            if self._wire:
                all_values = all_values.view(self._wire).float()
            _place_rows(parts, wait_indices(), all_values, self._world.size)

        return finish

    def _sum_joined(self, parts: list[_Part]) -> None:
        """Sum gradients in one buffer; a sparse one takes its whole table there, and a mark for each row in use."""
        widths = [part.parameter.numel() + (part.parameter.shape[0] if part.rows else 0) for part in parts]
        buffer = torch.zeros(sum(widths), device=parts[0].parameter.device)
        for part, piece in zip(parts, torch.split(buffer, widths), strict=True):
            _fill(part, piece)
        buffer = self._sum_compressed(buffer, self._wire) if self._wire else self._sum_plain(buffer)
        for part, piece in zip(parts, torch.split(buffer, widths), strict=True):
            table = piece[: part.parameter.numel()].view_as(part.parameter)
            if part.rows:
                used = piece[part.parameter.numel() :].nonzero().reshape(-1)
                part.parameter.grad = sparse_gradient(used, table.index_select(0, used), part.parameter)
            else:
                part.parameter.grad = table.to(part.parameter.dtype)

    def _sum_plain(self, buffer: Tensor) -> Tensor:
        return self._world.all_reduce_sum_start(buffer, "gradients")()

    def _sum_compressed(self, buffer: Tensor, wire: torch.dtype) -> Tensor:
        """Each rank sums its slice of everyone's buffer in float32 and sends the sum to all: half a ring's bytes."""
        size = self._world.size
        width = -(-buffer.numel() // size)
        padded = torch.nn.functional.pad(buffer, (0, width * size - buffer.numel())).to(wire)
        splits = torch.full((size,), width * wire.itemsize, dtype=torch.int64)
        slices, _ = self._world.all_to_all(padded.view(torch.uint8), splits, "gradient slices")
        summed = slices.view(wire).reshape(size, width).float().sum(0)
        joined = self._world.all_gather(summed.to(wire).view(torch.uint8), "gradient sums")
        return joined.view(wire).float()[: buffer.numel()]


def _fill(part: _Part, piece: Tensor) -> None:
    """Copy a gradient into its piece of the buffer."""
    gradient, size = part.gradient, part.parameter.numel()
    if gradient is None:
        return
    table = piece[:size].view_as(part.parameter)
    if not gradient.is_sparse:
        table.copy_(gradient)
        return
    rows = gradient._indices()[0]
    table.index_add_(0, rows, gradient._values())
    if part.rows:
        piece[size:].index_fill_(0, rows, 1.0)


def _place_rows(parts: list[_Part], indices: Tensor, values: Tensor, ranks: int) -> None:
    """Add up gathered rows, rank after rank; `indices` and `values` hold rank 0's tables, then rank 1's."""
    pieces: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
    row_start, value_start = 0, 0
    for rank in range(ranks):
        for number, part in enumerate(parts):
            rows = part.rows[rank]
            width = rows * part.parameter[0].numel()
            piece = values[value_start : value_start + width].reshape(rows, *part.parameter.shape[1:])
            pieces[number].append((indices[row_start : row_start + rows], piece))
            row_start, value_start = row_start + rows, value_start + width
    for part, contributions in zip(parts, pieces, strict=True):
        part.parameter.grad = sparse_gradient(*add_rows(contributions), part.parameter)


def global_norm(parameters: Sequence[nn.Parameter], world: World, local: Sequence[nn.Parameter] = ()) -> float:
    """Euclidean norm of all gradients together, dense and coalesced sparse; not finite where any value is not.

    Args:
        parameters: with the same gradients on all ranks.
        world: the ranks.
        local: parameters of which each rank holds another part; their squares are summed over ranks.
    """
    squares = _squares(parameters)
    if local:
        squares = squares + world.all_reduce_sum(_squares(local).reshape(1), "gradient norm")[0]
    return float(squares.sqrt())


def _squares(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    norms = [value.norm(dtype=torch.float32).double() for value in values if value.numel()]
    return torch.stack(norms).square().sum() if norms else torch.zeros((), dtype=torch.float64)


def scale_gradients(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Multiply all gradients, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            (parameter.grad._values() if parameter.grad.is_sparse else parameter.grad).mul_(factor)
